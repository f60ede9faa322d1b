//! From the sources to checked settings.
//!
//! Each source becomes a layer, a tree of values that know where they came from. The embedded
//! defaults are also the schema: a key that they do not have does not exist, and text from the
//! environment or a flag is read as the type that the default has. A table that is empty there is
//! open: it takes any name, and a dot in a name does not separate (librdkafka's names have dots).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde::Deserialize;
use serde_json::Value as Json;

use super::fault::{Fault, Faults, REDACTED, is_secret};
use super::{DEFAULTS, Settings, check};

const ENVIRONMENT_PREFIX: &str = "EASQ__";
/// At the end of a variable's name: its value is the path of a file that holds the setting's.
const IN_FILE: &str = "_FILE";
/// The open tables: librdkafka's properties, which are text, and weights, which are numbers.
const PROPERTIES: &str = "kafka.properties";
const WEIGHTS: &str = "reward.other";
const OPEN_TABLES: [&str; 2] = [PROPERTIES, WEIGHTS];
static A_WEIGHT: ValueKind = ValueKind::Float(0.0);

/// Where settings come from besides the embedded defaults; each overrides the ones before it.
// No Debug: values may be secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Variables `EASQ__SECTION__KEY`, or `EASQ__SECTION__KEY_FILE` with the path of a file that holds the
    /// value, as secrets are mounted into containers; others are passed over.
    pub environment: Vec<(String, String)>,
    /// Texts `section.key=value`.
    pub overrides: Vec<String>,
}

impl Sources {
    /// The sources of a command: its flags, and the environment of the process.
    pub fn of_process(file: Option<PathBuf>, overrides: Vec<String>) -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let mut environment: Vec<_> = env::vars_os()
            .map(|(name, value)| (lossy(name), lossy(value)))
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        // The order of faults does not depend on that of the environment.
        environment.sort();
        Self { file, environment, overrides }
    }
}

/// What is wrong with a librdkafka property, by name and value. Only librdkafka knows, and only
/// [`kafka`](crate::kafka) talks to it: [`property_fault`](crate::kafka::client::property_fault).
pub type PropertyFault = fn(&str, &str) -> Option<String>;

/// Merges the sources over the embedded defaults and checks the result.
///
/// # Errors
/// All that is wrong at once: unreadable sources, unknown keys, wrong types, values outside their
/// range or in conflict.
pub fn load(sources: &Sources, property_fault: PropertyFault) -> Result<Settings, Faults> {
    let mut loader = Loader::new();
    if let Some(path) = &sources.file {
        loader.add_file(path);
    }
    for (name, value) in &sources.environment {
        if let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) {
            loader.add_variable(name, path, value);
        }
    }
    for text in &sources.overrides {
        match text.split_once('=') {
            Some((key, value)) => loader.add_text(key.trim(), value.trim(), "--set"),
            None => {
                let problem = "has no value; write --set section.key=value".to_owned();
                let text = if is_secret(text) { REDACTED } else { text };
                loader.source_fault(&format!("--set {text}"), problem);
            }
        }
    }
    loader.finish(property_fault)
}

/// The setting that `path` of `EASQ__<path>` names. In an open table what follows is one name, and
/// `_` stands for a dot in it, which a shell does not allow there; librdkafka's names have no `_`.
fn environment_key(path: &str) -> String {
    let key = path.to_lowercase().replace("__", ".");
    match key.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('.')) {
        Some(property) => format!("{PROPERTIES}.{}", property.replace('_', ".")),
        None => key,
    }
}

/// A tree of values as a source of the `config` crate.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

struct Loader {
    schema: Map<String, Value>,
    known_keys: Vec<String>,
    layers: Vec<Layer>,
    faults: Vec<Fault>,
}

impl Loader {
    fn new() -> Self {
        let schema = parse(DEFAULTS).expect("the embedded defaults are valid");
        let mut known_keys = Vec::new();
        for_leaves("", &schema, &mut |key, _| known_keys.push(key.to_owned()));
        Self { schema, known_keys, layers: Vec::new(), faults: Vec::new() }
    }

    /// Something is wrong with a source rather than with a value.
    fn source_fault(&mut self, source: &str, problem: String) {
        self.faults.push(Fault { key: source.to_owned(), value: None, origin: None, problem });
    }

    fn value_fault(&mut self, key: &str, value: &Json, origin: Option<&str>, problem: String) {
        let is_known = self.known_keys.iter().any(|known| known == key);
        let value = if !is_known && is_secret(key) { REDACTED.to_owned() } else { value.to_string() };
        let origin = origin.map(str::to_owned);
        self.faults.push(Fault { key: key.to_owned(), value: Some(value), origin, problem });
    }

    fn add_file(&mut self, path: &Path) {
        let origin = format!("file {}", path.display());
        let read = fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| parse(&text).map_err(|error| without_source_lines(&error)));
        match read {
            Ok(tree) => self.add_layer(tree, &origin),
            Err(problem) => self.source_fault(&origin, problem),
        }
    }

    /// Adds what the variable `EASQ__<path>` says.
    fn add_variable(&mut self, name: &str, path: &str, value: &str) {
        let origin = format!("environment {name}");
        let Some(path) = path.strip_suffix(IN_FILE) else {
            return self.add_text(&environment_key(path), value, &origin);
        };
        let key = environment_key(path);
        match fs::read_to_string(value) {
            // Editors end the last line.
            Ok(text) => self.add_text(&key, text.trim_end_matches(['\r', '\n']), &origin),
            Err(error) => {
                // Whoever takes the secret for its path does not want it in a log.
                let file = if is_secret(&key) { REDACTED } else { value };
                self.source_fault(&format!("{origin}: file {file}"), error.to_string());
            }
        }
    }

    /// Adds one value given as text.
    fn add_text(&mut self, key: &str, text: &str, origin: &str) {
        let names = names(key);
        let is_weight = key.strip_prefix(WEIGHTS).is_some_and(|rest| rest.starts_with('.'));
        let like = if is_weight { Some(&A_WEIGHT) } else { self.default_of(&names) };
        let kind = read_as(like, text);
        let tree = names.iter().rev().fold(kind, |kind, name| {
            ValueKind::Table(Map::from([((*name).to_owned(), Value::new(None, kind))]))
        });
        if let ValueKind::Table(tree) = tree {
            self.add_layer(tree, origin);
        }
    }

    fn default_of(&self, names: &[&str]) -> Option<&ValueKind> {
        let (first, rest) = names.split_first()?;
        rest.iter().try_fold(&self.schema.get(*first)?.kind, |kind, name| match kind {
            ValueKind::Table(table) => table.get(*name).map(|value| &value.kind),
            _ => None,
        })
    }

    fn add_layer(&mut self, tree: Map<String, Value>, origin: &str) {
        let schema = std::mem::take(&mut self.schema);
        let layer = self.known_part("", &schema, tree, origin);
        self.schema = schema;
        self.layers.push(Layer(layer));
    }

    /// The part of `tree` that the schema has, marked with `origin`; the rest becomes faults.
    fn known_part(
        &mut self,
        path: &str,
        schema: &Map<String, Value>,
        tree: Map<String, Value>,
        origin: &str,
    ) -> Map<String, Value> {
        let mut known = Map::new();
        for (name, value) in tree {
            let key = join(path, &name);
            let kind = match (schema.get(&name).map(|default| &default.kind), value.kind) {
                (Some(ValueKind::Table(_)), ValueKind::Table(table)) if is_open(&key) => {
                    ValueKind::Table(flattened(&table, origin))
                }
                (Some(ValueKind::Table(schema)), ValueKind::Table(table)) => {
                    ValueKind::Table(self.known_part(&key, schema, table, origin))
                }
                (Some(ValueKind::Table(_)), kind) => {
                    let problem = "is a section, which has settings but no value".to_owned();
                    self.value_fault(&key, &json(Value::new(None, kind)), Some(origin), problem);
                    continue;
                }
                (Some(_), kind @ ValueKind::Table(_)) => {
                    let problem = "is one value and has no settings below it".to_owned();
                    self.value_fault(&key, &json(Value::new(None, kind)), Some(origin), problem);
                    continue;
                }
                (Some(_), kind) => kind,
                (None, kind) => {
                    self.unknown(&key, Value::new(None, kind), origin);
                    continue;
                }
            };
            known.insert(name, marked(kind, origin));
        }
        known
    }

    fn unknown(&mut self, key: &str, value: Value, origin: &str) {
        if let ValueKind::Table(table) = &value.kind {
            let mut leaves = Vec::new();
            for_leaves(key, table, &mut |key, value| leaves.push((key.to_owned(), value.clone())));
            return leaves.into_iter().for_each(|(key, value)| self.unknown(&key, value, origin));
        }
        let likeness = |known: &String| strsim::jaro_winkler(key, known);
        let nearest = self.known_keys.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let problem = match nearest.filter(|known| likeness(known) > 0.8) {
            Some(known) => format!("there is no such setting; did you mean {known}?"),
            None => "there is no such setting; `easq config show` lists them all".to_owned(),
        };
        self.value_fault(key, &json(value), Some(origin), problem);
    }

    fn finish(mut self, property_fault: PropertyFault) -> Result<Settings, Faults> {
        let defaults = json(Value::new(None, ValueKind::Table(self.schema.clone())));
        let builder = Config::builder().add_source(Layer(self.schema.clone()));
        let layers = self.layers.drain(..);
        let merged = layers.fold(builder, |builder, layer| builder.add_source(layer)).build();
        let merged = merged.expect("every layer is a tree of values").cache;
        let ValueKind::Table(merged) = merged.kind else { unreachable!("settings are a table") };

        // A value that reads well in place of its default reads well among all the others.
        let mut tree = defaults.clone();
        let mut origins = Map::new();
        for_leaves("", &merged, &mut |key, value| {
            let Some(origin) = value.origin() else { return };
            let value = json(value.clone());
            let mut alone = defaults.clone();
            set(&mut alone, &names(key), value.clone());
            match serde_json::from_value::<Settings>(alone) {
                Ok(_) => set(&mut tree, &names(key), value),
                Err(error) => self.value_fault(key, &value, Some(origin), expected(&error)),
            }
            origins.insert(key.to_owned(), origin.to_owned());
        });
        let settings = Settings::deserialize(&tree).expect("each value was read by itself");

        for finding in check::check(&settings, property_fault) {
            if self.faults.iter().all(|fault| fault.key != finding.key) {
                let value = names(&finding.key).iter().try_fold(&tree, |tree, name| tree.get(name));
                let value = value.cloned().unwrap_or(Json::Null);
                let origin = origins.get(&finding.key).map(String::as_str);
                self.value_fault(&finding.key, &value, origin, finding.problem);
            }
        }
        if self.faults.is_empty() { Ok(settings) } else { Err(Faults(self.faults)) }
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, ConfigError> {
    File::from_str(text, FileFormat::Toml).collect()
}

/// The parser's message without the lines of the file that it quotes: they may hold secrets.
fn without_source_lines(error: &ConfigError) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
    lines.join(" ").trim_end().to_owned()
}

fn is_open(key: &str) -> bool {
    OPEN_TABLES.contains(&key)
}

/// The names along the way to a setting; a name in an open table keeps its dots.
fn names(key: &str) -> Vec<&str> {
    for table in OPEN_TABLES {
        if let Some(name) = key.strip_prefix(table).and_then(|rest| rest.strip_prefix('.')) {
            return table.split('.').chain([name]).collect();
        }
    }
    key.split('.').collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn marked(kind: ValueKind, origin: &str) -> Value {
    Value::new(Some(&origin.to_owned()), kind)
}

/// Calls `visit` with the dotted key of every value that is not a table, in the order of the keys.
fn for_leaves(path: &str, table: &Map<String, Value>, visit: &mut dyn FnMut(&str, &Value)) {
    let ordered: BTreeMap<_, _> = table.iter().collect();
    for (name, value) in ordered {
        let key = join(path, name);
        match &value.kind {
            ValueKind::Table(table) => for_leaves(&key, table, visit),
            _ => visit(&key, value),
        }
    }
}

/// The table with one level, as TOML makes several of a dotted name without quotes.
fn flattened(table: &Map<String, Value>, origin: &str) -> Map<String, Value> {
    let mut flat = Map::new();
    for_leaves("", table, &mut |name, value| {
        flat.insert(name.to_owned(), marked(value.kind.clone(), origin));
    });
    flat
}

/// Reads `text` as the type of the default; text that is not of this type stays text, which is
/// then refused with what is expected.
fn read_as(default: Option<&ValueKind>, text: &str) -> ValueKind {
    let as_text = || ValueKind::String(text.to_owned());
    match default {
        Some(ValueKind::Boolean(_)) => text.parse().map_or_else(|_| as_text(), ValueKind::Boolean),
        Some(ValueKind::I64(_)) => text.parse().map_or_else(|_| as_text(), ValueKind::I64),
        Some(ValueKind::Float(_)) => text.parse().map_or_else(|_| as_text(), ValueKind::Float),
        Some(ValueKind::Array(_)) if !text.starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(None, item)).collect())
        }
        Some(ValueKind::Array(_) | ValueKind::Table(_)) => parse(&format!("value = {text}"))
            .ok()
            .and_then(|mut tree| tree.remove("value"))
            .map_or_else(as_text, |value| value.kind),
        _ => as_text(),
    }
}

fn json(value: Value) -> Json {
    value.try_deserialize().expect("TOML's values are JSON's, and numbers that are not become null")
}

fn set(tree: &mut Json, names: &[&str], value: Json) {
    let place = names.iter().fold(tree, |tree, name| &mut tree[*name]);
    *place = value;
}

/// What would have been allowed, in a person's words, without the value.
fn expected(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((_, expected)) = text.rsplit_once("expected ") else { return text };
    let expected = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number that is not negative",
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a string" | "string or map" => "text",
        other => other,
    };
    format!("must be {expected}")
}
