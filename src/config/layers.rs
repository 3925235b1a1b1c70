//! Puts the layers on top of each other and remembers where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use super::{Config, check};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The file, with the line.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key:?}; `steadfast config` shows all, among them {known}")]
    Unknown {
        /// What was given.
        key: String,
        /// Where.
        origin: Origin,
        /// Some that are spelt alike.
        known: String,
    },
    /// The value does not fit.
    #[error("{origin}: {key}: {message}")]
    Value {
        /// The setting.
        key: String,
        /// Where its value came from.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
}

/// What lies on top of the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// The environment: names and values. Only `STEADFAST_*` is looked at.
    pub environment: Vec<(String, String)>,
    /// Flags: the flag as given, the key, the value.
    pub flags: Vec<(String, String, String)>,
}

/// One setting as it came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// Its value.
    pub value: toml::Value,
    /// Where that came from.
    pub origin: Origin,
}

/// The configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// What to run with.
    pub config: Config,
    /// Every setting, in the order of the sections.
    pub settings: Vec<Setting>,
}

/// Environment variables with our prefix that are no settings: the file's path, and what clients are told.
const NOT_SETTINGS: [&str; 5] =
    ["STEADFAST_CONFIG", "STEADFAST_ADDR", "STEADFAST_OPERATIONS_ADDR", "STEADFAST_TOKEN", "STEADFAST_OWNER"];

impl Sources {
    /// Lays everything on top of the defaults, in order of strength, and checks the result.
    pub fn load(&self) -> Result<Effective, ConfigError> {
        let mut layers = Layers::new();
        if let Some(path) = &self.file {
            layers.file(path)?;
        }
        for (name, text) in &self.environment {
            if name.starts_with("STEADFAST_") && !NOT_SETTINGS.contains(&name.as_str()) {
                layers.environment(name, text)?;
            }
        }
        for (flag, key, text) in &self.flags {
            layers.text(key, text, &Origin::Flag(flag.clone()))?;
        }
        layers.finish()
    }
}

struct Layers {
    /// Each setting's default and current value, by key.
    settings: BTreeMap<String, (toml::Value, Origin)>,
    /// The keys in the order of the sections.
    order: Vec<String>,
}

impl Layers {
    fn new() -> Self {
        let mut layers = Self { settings: BTreeMap::new(), order: Vec::new() };
        for (key, value) in leaves(&Config::default()) {
            layers.order.push(key.clone());
            layers.settings.insert(key, (value, Origin::Default));
        }
        layers
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        };
        let table = DeTable::parse(&text).map_err(syntax)?;
        let mut found = Vec::new();
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(&text);
            Origin::File(path.to_owned(), before.bytes().filter(|byte| *byte == b'\n').count() + 1)
        };
        walk("", table.get_ref(), &at, &mut found);
        for (key, value, origin) in found {
            match value {
                Some(value) => self.put(&key, value, origin)?,
                // A section that does not exist, or an empty one that does.
                None if self.order.iter().any(|known| known.starts_with(&format!("{key}."))) => {}
                None => return Err(self.unknown(&key, origin)),
            }
        }
        Ok(())
    }

    fn environment(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let origin = Origin::Environment(name.to_owned());
        let key = self.order.iter().find(|key| variable(key) == name).cloned();
        match key {
            Some(key) => self.text(&key, text, &origin),
            None => Err(self.unknown(name, origin)),
        }
    }

    /// A value given as text becomes the kind that the default has.
    fn text(&mut self, key: &str, text: &str, origin: &Origin) -> Result<(), ConfigError> {
        let Some((current, _)) = self.settings.get(key) else {
            return Err(self.unknown(key, origin.clone()));
        };
        let parsed = match current {
            toml::Value::Integer(_) => text
                .trim()
                .parse()
                .map(toml::Value::Integer)
                .map_err(|_| format!("{text:?} is not a whole number")),
            toml::Value::Boolean(_) => text
                .trim()
                .parse()
                .map(toml::Value::Boolean)
                .map_err(|_| format!("{text:?} is not true or false")),
            _ => Ok(toml::Value::String(text.to_owned())),
        };
        match parsed {
            Ok(value) => self.put(key, value, origin.clone()),
            Err(message) => Err(ConfigError::Value { key: key.to_owned(), origin: origin.clone(), message }),
        }
    }

    fn put(&mut self, key: &str, value: toml::Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(slot) = self.settings.get_mut(key) else {
            return Err(self.unknown(key, origin));
        };
        // Tried alone, so that what is wrong with it is said of this key and this place.
        if let Err(error) = Config::deserialize(nest([(key, &value)])) {
            let message = error.message().to_owned();
            return Err(ConfigError::Value { key: key.to_owned(), origin, message });
        }
        *slot = (value, origin);
        Ok(())
    }

    fn unknown(&self, key: &str, origin: Origin) -> ConfigError {
        let named = |key: &String| match origin {
            Origin::Environment(_) => variable(key),
            _ => key.clone(),
        };
        // Those that begin alike: a slip is most often near the end.
        let shared = |name: &String| name.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
        let mut known: Vec<String> = self.order.iter().map(named).collect();
        known.sort_by_key(|name| std::cmp::Reverse(shared(name)));
        known.truncate(8);
        ConfigError::Unknown { key: key.to_owned(), origin, known: known.join(", ") }
    }

    fn finish(self) -> Result<Effective, ConfigError> {
        let origin_of =
            |key: &str| self.settings.get(key).map_or(Origin::Default, |(_, origin)| origin.clone());
        let all = nest(self.settings.iter().map(|(key, (value, _))| (key.as_str(), value)));
        let mut config = Config::deserialize(all).map_err(|error| ConfigError::Value {
            key: "configuration".to_owned(),
            origin: Origin::Default,
            message: error.message().to_owned(),
        })?;
        config.resolve();
        if let Some((key, message)) = check::faults(&config).into_iter().next() {
            return Err(ConfigError::Value { key: key.to_owned(), origin: origin_of(key), message });
        }
        let settings = leaves(&config)
            .into_iter()
            .map(|(key, value)| Setting { origin: origin_of(&key), key, value })
            .collect();
        Ok(Effective { config, settings })
    }
}

/// The environment variable of a setting.
fn variable(key: &str) -> String {
    format!("STEADFAST_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Every setting of a configuration, by key.
fn leaves(config: &Config) -> Vec<(String, toml::Value)> {
    fn collect(prefix: &str, table: &toml::Table, into: &mut Vec<(String, toml::Value)>) {
        for (name, value) in table {
            let key = join(prefix, name);
            match value {
                toml::Value::Table(table) => collect(&key, table, into),
                value => into.push((key, value.clone())),
            }
        }
    }
    let mut into = Vec::new();
    // Serialising our own plain types into a table cannot fail; an empty list would show at once.
    if let Ok(table) = toml::Table::try_from(config) {
        collect("", &table, &mut into);
    }
    // TOML wants what is in no section first.
    into.sort_by_key(|(key, _)| key.contains('.'));
    into
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The opposite of [`leaves`].
fn nest<'a>(leaves: impl IntoIterator<Item = (&'a str, &'a toml::Value)>) -> toml::Table {
    let mut root = toml::Table::new();
    for (key, value) in leaves {
        match key.split_once('.') {
            None => {
                root.insert(key.to_owned(), value.clone());
            }
            Some((section, name)) => {
                let section =
                    root.entry(section.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if let toml::Value::Table(section) = section {
                    section.insert(name.to_owned(), value.clone());
                }
            }
        }
    }
    root
}

/// Key, value (none: a table) and place of everything in a parsed file.
fn walk(
    prefix: &str,
    table: &DeTable<'_>,
    at: &impl Fn(usize) -> Origin,
    found: &mut Vec<(String, Option<toml::Value>, Origin)>,
) {
    for (name, value) in table {
        let key = join(prefix, name.get_ref());
        let origin = at(name.span().start);
        if let DeValue::Table(inner) = value.get_ref() {
            found.push((key.clone(), None, origin));
            walk(&key, inner, at, found);
        } else {
            let plain = toml::Value::deserialize(toml::de::ValueDeserializer::from(value.clone()));
            found.push((key, plain.ok(), origin));
        }
    }
}

impl Effective {
    /// For people: every setting with its value and where that came from, as TOML with comments.
    pub fn to_toml(&self) -> String {
        use std::fmt::Write as _;

        // Writing into a String cannot fail.
        let mut out = String::new();
        let mut section = "";
        for setting in &self.settings {
            let (in_section, name) = setting.key.split_once('.').unwrap_or(("", &setting.key));
            if in_section != section {
                let _ = writeln!(out, "\n[{in_section}]");
                section = in_section;
            }
            let assignment = format!("{name} = {}", setting.value);
            let _ = writeln!(out, "{assignment:<44} # {}", setting.origin);
        }
        out
    }

    /// For programs: `{"section.key": {"value": ..., "origin": ...}}`.
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Shown<'a> {
            value: &'a toml::Value,
            origin: String,
        }
        let shown = self.settings.iter().map(|setting| {
            let shown = Shown { value: &setting.value, origin: setting.origin.to_string() };
            (setting.key.clone(), serde_json::to_value(shown).unwrap_or_default())
        });
        serde_json::Value::Object(shown.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Span};

    fn file(text: &str) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steadfast.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Sources { file: Some(path), ..Sources::default() })
    }

    fn environment(name: &str, value: &str) -> Sources {
        Sources { environment: vec![(name.to_owned(), value.to_owned())], ..Sources::default() }
    }

    fn flag(key: &str, value: &str) -> Sources {
        Sources { flags: vec![("--set".to_owned(), key.to_owned(), value.to_owned())], ..Sources::default() }
    }

    #[test]
    fn what_is_the_truth_is_not_kept_in_the_store() {
        for key in ["journal.dir", "snapshots.dir", "control.dir"] {
            let error = flag(key, "steadfast-data/store/here").load().unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("store.dir"), "{error}");
        }
        flag("store.dir", "elsewhere/store").load().unwrap();
    }

    #[test]
    fn defaults_are_valid_and_complete() {
        let effective = Sources::default().load().unwrap();
        let mut expected = Config::default();
        expected.resolve();
        assert_eq!(effective.config, expected);
        assert_eq!(effective.config.journal.dir, Path::new("steadfast-data/journal"));
        assert!(effective.settings.iter().all(|s| s.origin == Origin::Default));
        assert!(effective.settings.len() > 40);
    }

    #[test]
    fn the_later_layer_wins_and_is_named() {
        let (_dir, mut sources) =
            file("[server]\nmax_message = \"8 MiB\"\nmax_streams = 7\n[writes]\nreply_after = \"1 s\"\n");
        sources.environment = vec![
            ("STEADFAST_SERVER_MAX_STREAMS".to_owned(), "8".to_owned()),
            ("STEADFAST_CONFIG".to_owned(), "x".to_owned()),
            ("HOME".to_owned(), "/".to_owned()),
        ];
        sources.flags = vec![("--set".to_owned(), "writes.reply_after".to_owned(), "2 s".to_owned())];
        let effective = sources.load().unwrap();
        assert_eq!(effective.config.server.max_message, ByteSize(8 << 20));
        assert_eq!(effective.config.server.max_streams, 8);
        assert_eq!(effective.config.writes.reply_after, Span(std::time::Duration::from_secs(2)));
        let origin = |key: &str| effective.settings.iter().find(|s| s.key == key).unwrap().origin.to_string();
        assert!(
            origin("server.max_message").ends_with("steadfast.toml:2"),
            "{}",
            origin("server.max_message")
        );
        assert_eq!(origin("server.max_streams"), "environment STEADFAST_SERVER_MAX_STREAMS");
        assert_eq!(origin("writes.reply_after"), "flag --set");
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        let printed = flag("journal.segment", "32 MiB").load().unwrap();
        let (_dir, sources) = file(&printed.to_toml());
        assert_eq!(sources.load().unwrap().config, printed.config);
        let json = printed.to_json();
        assert_eq!(json["journal.segment"]["value"], "32 MiB");
        assert_eq!(json["journal.segment"]["origin"], "flag --set");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_key_and_place() {
        for (text, key, line) in [
            ("x = 1", "\"x\"", ":1"),
            ("\n[server]\nlisten_on = \"a\"", "\"server.listen_on\"", ":3"),
            ("[sever]\nlisten = \"a\"", "\"sever\"", ":1"),
            ("[server.tls]\na = 1", "\"server.tls\"", ":1"),
        ] {
            let (_dir, sources) = file(text);
            let message = sources.load().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
            assert!(message.contains(&format!("steadfast.toml{line}")), "{message}");
        }
        let message = environment("STEADFAST_SERVER_LISTN", "x").load().unwrap_err().to_string();
        assert!(message.contains("STEADFAST_SERVER_LISTEN"), "{message}");
        let message = flag("nope.nope", "x").load().unwrap_err().to_string();
        assert!(message.contains("flag --set: there is no setting \"nope.nope\""), "{message}");
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        for (key, value) in [
            ("server.listen", "localhost"),
            ("server.max_message", "lots"),
            ("server.max_message", "1 GiB"),
            ("server.max_streams", "-1"),
            ("server.max_streams", "many"),
            ("server.insecure_operations", "perhaps"),
            ("server.idle_timeout", "10"),
            ("journal.site_quota", "9 GiB"),
            ("log.level", "in=fo=x"),
            ("log.color", "blue"),
            ("limits.site_chars", "65"),
        ] {
            let message = flag(key, value).load().unwrap_err().to_string();
            assert!(message.starts_with(&format!("flag --set: {key}: ")), "{message}");
        }
        let (_dir, sources) = file("[server]\nmax_message = 1.5");
        let message = sources.load().unwrap_err().to_string();
        assert!(message.contains("toml:2: server.max_message: expected a size"), "{message}");
        let (_dir, sources) = file("[server\n");
        assert!(matches!(sources.load(), Err(ConfigError::Syntax { .. })));
        let missing = Sources { file: Some("/nonexistent".into()), ..Sources::default() };
        assert!(matches!(missing.load(), Err(ConfigError::Unreadable { .. })));
    }
}
