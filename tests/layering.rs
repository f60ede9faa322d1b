//! The sources keep the order of the crate documentation: a module uses the ones above it, `join`
//! is pure, and each foreign library has one home.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Libraries, and the only modules that may name each.
const HOMES: [(&str, &[&str]); 4] = [
    ("rdkafka", &["kafka"]),
    ("tch", &["model", "train"]),
    ("metrics", &["telemetry"]),
    ("plotters", &["demo", "evaluate"]),
];
/// What a pure module does not name: clocks, threads, files, sockets, randomness from outside.
const IMPURE: [&str; 14] = [
    "Instant",
    "SystemTime",
    "thread",
    "fs",
    "net",
    "io",
    "env",
    "process",
    "tokio",
    "crossbeam_channel",
    "tracing",
    "jiff",
    "rand",
    "kafka",
];
/// Where asynchronous code is, all of it: signals, tasks and HTTP. It runs on one worker thread,
/// so whatever blocks there stops it all.
const ASYNCHRONOUS: [&str; 3] = ["supervise", "telemetry", "cli"];
/// What blocks, or leads to what does: not for these modules, but for handing it to a thread.
const BLOCKING: [&str; 6] = ["rdkafka", "tch", "kafka", "train", "fs", "crossbeam_channel"];
/// What brings values from a device to the host, and where training does so: a step that read anywhere
/// else would wait more than once. Baselines are not for production, and they do.
const READS: [&str; 4] = ["copy_data", "copy_data_u8", "double_value", "int64_value"];
const READERS: [&str; 2] = ["readback.rs", "research.rs"];
const MAX_LINES: usize = 450;

/// One token of a source file, groups flattened: comments and the insides of strings are gone.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Mark(char),
    Open,
    Close,
}

struct Source {
    path: PathBuf,
    /// The module of `lib.rs` that the file belongs to.
    module: String,
    /// Folders between `src` and the module that the file is: `super` this often is the crate.
    depth: usize,
    text: String,
    tokens: Vec<Token>,
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    for tree in stream {
        match tree {
            TokenTree::Ident(word) => into.push(Token::Word(word.to_string())),
            TokenTree::Punct(mark) => into.push(Token::Mark(mark.as_char())),
            TokenTree::Literal(_) => {}
            TokenTree::Group(group) => {
                let braces = group.delimiter() == Delimiter::Brace;
                into.extend(braces.then_some(Token::Open));
                flatten(group.stream(), into);
                into.extend(braces.then_some(Token::Close));
            }
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let stream: TokenStream = text.parse().expect("source that the compiler accepts");
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    tokens
}

fn word(token: Option<&Token>) -> Option<&str> {
    match token {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn is_path_separator(tokens: &[Token]) -> bool {
    tokens.starts_with(&[Token::Mark(':'), Token::Mark(':')])
}

/// The first segments that follow `prefix ::`, one or, of `prefix::{a::x, b}`, several.
fn heads(tokens: &[Token]) -> Vec<&str> {
    match tokens.first() {
        Some(Token::Word(head)) => vec![head],
        Some(Token::Open) => {
            let mut heads: Vec<_> = word(tokens.get(1)).into_iter().collect();
            let mut depth = 0;
            for (at, token) in tokens.iter().enumerate() {
                match token {
                    Token::Open => depth += 1,
                    Token::Close => depth -= 1,
                    Token::Mark(',') if depth == 1 => heads.extend(word(tokens.get(at + 1))),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            heads
        }
        _ => Vec::new(),
    }
}

/// Top-level modules named through `crate::…`, or through `super::…` that climbs to the crate.
fn modules_named(source: &Source) -> BTreeSet<&str> {
    let mut named = BTreeSet::new();
    for at in 0..source.tokens.len() {
        let mut rest = &source.tokens[at..];
        match word(rest.first()) {
            Some("crate") if is_path_separator(&rest[1..]) => named.extend(heads(&rest[3..])),
            Some("super") => {
                let mut climbed = 0;
                while word(rest.first()) == Some("super") && is_path_separator(&rest[1..]) {
                    climbed += 1;
                    rest = &rest[3..];
                }
                if climbed >= source.depth && climbed > 0 {
                    named.extend(heads(rest));
                }
            }
            _ => {}
        }
    }
    named
}

/// Every file below `src` but `main.rs`, which may use all.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(source(&root, path));
            }
        }
    }
    sources.retain(|source| source.module != "main");
    assert!(sources.len() > 10, "the sources were not found below {}", root.display());
    sources
}

fn source(root: &Path, path: PathBuf) -> Source {
    let inside = path.strip_prefix(root).expect("a path below src").with_extension("");
    let mut segments: Vec<_> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    let text = fs::read_to_string(&path).expect("a readable source");
    let tokens = tokens(&text);
    Source { module: segments[0].clone(), depth: segments.len(), path, text, tokens }
}

/// The modules of the crate, in the order of `lib.rs`, which is the order in which data flows.
fn order() -> Vec<String> {
    let lib = sources().into_iter().find(|source| source.module == "lib").expect("src/lib.rs");
    let declared = lib.tokens.windows(2).filter(|pair| pair[0] == Token::Word("mod".to_owned()));
    let order: Vec<_> = declared.filter_map(|pair| word(pair.get(1)).map(str::to_owned)).collect();
    assert!(order.len() > 10, "modules declared in lib.rs: {order:?}");
    order
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_module_uses_only_the_modules_above_it() {
    let order = order();
    let rank = |module: &str| order.iter().position(|name| name == module);
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = rank(&source.module).expect("every file belongs to a module of lib.rs");
        for named in modules_named(source) {
            if rank(named).is_some_and(|theirs| theirs > own) {
                faults.push(format!("{} uses {named}, which stands below it", source.path.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn each_foreign_library_has_its_home() {
    let mut faults = Vec::new();
    for source in sources() {
        for (library, homes) in HOMES {
            let mut uses = source.tokens.windows(3).enumerate().filter(|(at, window)| {
                let starts_a_path = *at == 0 || source.tokens[at - 1] != Token::Mark(':');
                word(window.first()) == Some(library) && is_path_separator(&window[1..]) && starts_a_path
            });
            if uses.next().is_some() && !homes.contains(&source.module.as_str()) {
                faults.push(format!("{} uses {library}; only {homes:?} may", source.path.display()));
            }
        }
    }
    assert_none(faults);
}

#[test]
fn the_join_has_no_clock_and_no_input_or_output() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module == "join") {
        let words: BTreeSet<_> = source.tokens.iter().filter_map(|token| word(Some(token))).collect();
        let impure = IMPURE.iter().filter(|name| words.contains(*name));
        faults.extend(impure.map(|name| format!("{} names {name}", source.path.display())));
    }
    assert_none(faults);
}

#[test]
fn asynchronous_code_is_apart_from_everything_that_blocks() {
    let mut faults = Vec::new();
    for source in sources() {
        let words: BTreeSet<_> = source.tokens.iter().filter_map(|token| word(Some(token))).collect();
        let is_asynchronous = words.contains("async") || words.contains("await");
        if is_asynchronous && !ASYNCHRONOUS.contains(&source.module.as_str()) {
            faults.push(format!("{} is asynchronous; only {ASYNCHRONOUS:?} may", source.path.display()));
        }
        if is_asynchronous {
            let blocking = BLOCKING.iter().filter(|name| words.contains(*name));
            faults.extend(blocking.map(|name| format!("{} names {name}", source.path.display())));
        }
    }
    assert_none(faults);
}

#[test]
fn training_reads_from_its_device_in_one_place() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module == "train") {
        if !READERS.iter().any(|name| source.path.ends_with(name)) {
            let words: BTreeSet<_> = source.tokens.iter().filter_map(|token| word(Some(token))).collect();
            let reads = READS.iter().filter(|name| words.contains(*name));
            faults.extend(reads.map(|name| format!("{} names {name}", source.path.display())));
        }
    }
    assert_none(faults);
}

#[test]
fn unsafe_code_stays_beside_the_c_libraries_that_need_it() {
    let is_unsafe = |source: &Source| source.tokens.contains(&Token::Word("unsafe".to_owned()));
    let outside = |source: &&Source| !["kafka", "model", "train"].contains(&source.module.as_str());
    let sources = sources();
    let faulty = sources.iter().filter(outside).filter(|source| is_unsafe(source));
    assert_none(faulty.map(|source| format!("{} has unsafe code", source.path.display())).collect());
}

#[test]
fn a_file_can_be_read_in_one_sitting() {
    let long = sources().into_iter().map(|source| (source.text.lines().count(), source.path));
    let long = long.filter(|(lines, _)| *lines > MAX_LINES);
    assert_none(long.map(|(lines, path)| format!("{} has {lines} lines", path.display())).collect());
}

#[test]
fn the_reader_of_paths_sees_groups_macros_and_climbs_but_no_comments() {
    let text = r#"
        // use crate::comment;
        use crate::{alpha::{Inner, deep::Deeper}, beta};
        fn f() { println!("{}", crate::gamma::VALUE); let _ = "crate::text"; }
        use super::super::delta::Thing;
        use super::sibling;
    "#;
    let source = Source {
        path: PathBuf::new(),
        module: "here".to_owned(),
        depth: 2,
        text: text.to_owned(),
        tokens: tokens(text),
    };
    let expected: BTreeSet<_> = ["alpha", "beta", "delta", "gamma"].into_iter().collect();
    assert_eq!(modules_named(&source), expected);
}
