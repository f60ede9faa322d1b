//! README's tables of settings and metrics are those of the program.
//!
//! After a change of either, `UPDATE_README=1 cargo test --test readme` writes the tables anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use easq::kafka::client::property_fault;
use easq::settings::{DEFAULTS, Sources, load};
use easq::telemetry::names::TABLE;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Compares what stands between the two comments `name` with `table`.
fn compare(name: &str, table: &str) {
    static ONE_WRITER: Mutex<()> = Mutex::new(());
    let _writer = ONE_WRITER.lock().expect("the other table agrees too");
    let readme = fs::read_to_string(README).expect("README.md is readable");
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = readme.split_once(&begin).expect("the comment before the table");
    let (found, after) = rest.split_once(&end).expect("the comment after the table");
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(README, [before, &begin, table, &end, after].concat()).expect("README.md is writable");
        return;
    }
    let differs = found.lines().zip(table.lines()).find(|(is, should)| is != should);
    assert!(
        found == table,
        "README's {name} differ from the program's: {differs:?}; UPDATE_README=1 cargo test --test readme writes them"
    );
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A key of `default.toml`: `section.key`, its value as written there, and the comment above it.
#[derive(Debug, PartialEq)]
struct Setting {
    key: String,
    default: String,
    meaning: String,
}

/// Reads the subset of TOML that `default.toml` is written in.
fn settings(toml: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let (mut section, mut comment) = (String::new(), String::new());
    let mut lines = toml.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix('#') {
            comment = format!("{comment} {}", text.trim()).trim().to_owned();
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            // A table of a person's own keys has none by default: it is a row itself.
            let has_keys = lines.clone().find(|next| !next.starts_with('#'));
            if has_keys.is_none_or(|next| next.is_empty() || next.starts_with('[')) {
                settings.push(Setting { key: section.clone(), default: "{}".to_owned(), meaning: comment });
            }
            comment = String::new();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let mut value = value.trim().to_owned();
            if value == "[" {
                let inner = lines.by_ref().take_while(|inner| inner.trim() != "]");
                value = format!("{} entries", inner.map(entries).sum::<usize>());
            } else {
                value = format!("`{value}`");
            }
            let meaning = std::mem::take(&mut comment);
            settings.push(Setting { key: format!("{section}.{key}"), default: value, meaning });
        } else {
            comment.clear();
        }
    }
    settings
}

/// Entries in one line of a list of strings or of inline tables.
fn entries(line: &str) -> usize {
    if line.contains('{') { line.matches('{').count() } else { line.matches('"').count() / 2 }
}

#[test]
fn the_table_of_settings_is_that_of_the_embedded_defaults() {
    let mut table = "| setting | default | meaning |\n|---|---|---|\n".to_owned();
    for Setting { key, default, meaning } in settings(DEFAULTS) {
        writeln!(table, "| `{key}` | {} | {} |", cell(&default), cell(&meaning))
            .expect("writing to a string");
    }
    compare("settings", &table);
}

#[test]
fn the_table_of_metrics_is_that_of_the_program() {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in TABLE {
        let (name, kind, labels) = (metric.name, metric.kind.as_str(), metric.labels.join(", "));
        writeln!(table, "| `{name}` | {kind} | {labels} | {} |", cell(metric.help))
            .expect("writing to a string");
    }
    compare("metrics", &table);
}

/// README and what lies in docs.
fn documents() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let texts = files.filter(|path| path.extension().is_some_and(|end| end == "md")).chain([README.into()]);
    texts.map(|path| (path.clone(), fs::read_to_string(path).expect("a text"))).collect()
}

#[test]
fn no_figure_of_the_documents_is_still_to_be_filled_in() {
    let is_place = |word: &str| {
        word.len() > 1 && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
    };
    let documents = documents();
    assert!(documents.len() > 5, "{documents:?}");
    for (path, text) in documents {
        for line in text.lines() {
            let between = line.matches('@').count().saturating_sub(1);
            let place = line.split('@').skip(1).take(between).find(|word| is_place(word));
            assert!(place.is_none() && !line.contains("BENCHTEXT"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn every_setting_says_what_it_means() {
    let silent: Vec<_> =
        settings(DEFAULTS).into_iter().filter(|setting| setting.meaning.is_empty()).collect();
    assert!(silent.is_empty(), "no comment above these keys of default.toml: {silent:#?}");
}

#[test]
fn the_example_settings_are_valid() {
    let file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/config/local.toml").into());
    let sources = Sources { file, environment: Vec::new(), overrides: Vec::new() };
    load(&sources, property_fault).unwrap_or_else(|faults| panic!("{faults}"));
}

#[test]
fn the_reader_of_defaults_sees_comments_lists_and_empty_tables() {
    let toml = "# Not a setting.\n\n[a]\n# First\n# and second line.\nkey = 1\nlist = [\n    \"x\", \"y\",\n    \"z\",\n]\n\n\
                # Yours.\n[a.own]\n\n[b]\nother = \"v\"\n";
    let setting = |key: &str, default: &str, meaning: &str| Setting {
        key: key.to_owned(),
        default: default.to_owned(),
        meaning: meaning.to_owned(),
    };
    let expected = [
        setting("a.key", "`1`", "First and second line."),
        setting("a.list", "3 entries", ""),
        setting("a.own", "{}", "Yours."),
        setting("b.other", "`\"v\"`", ""),
    ];
    assert_eq!(settings(toml), expected);
}
