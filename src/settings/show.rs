use super::{Settings, properties};

/// The settings in effect, as TOML that can be given back with `--config`; secrets are redacted.
pub fn show(settings: &Settings) -> String {
    let mut shown = settings.clone();
    shown.kafka.properties = properties::redacted(&settings.kafka.properties)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    toml::to_string(&shown).expect("settings have a TOML form: they were read from one")
}
