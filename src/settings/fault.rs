//! What is wrong with the settings, so that a person can put it right in one go.

use std::fmt;

/// What is shown in place of a secret.
pub const REDACTED: &str = "<redacted>";

/// Parts of a name that tell that the value is a secret, or has one in it.
const SECRET_PARTS: [&str; 8] =
    ["password", "secret", "token", "key", "credential", "jaas", "passphrase", "oauthbearer.config"];

/// Whether a librdkafka property of this name may hold a secret. In doubt it may.
pub fn is_secret(property: &str) -> bool {
    let property = property.to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| property.contains(part))
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, as `section.key`; or the source as a whole.
    pub key: String,
    /// The value as TOML would have it, without secrets; none when there is no value.
    pub value: Option<String>,
    /// Where the value came from; none for an embedded default.
    pub origin: Option<String>,
    /// What is allowed instead.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Everything that is wrong with the settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("1 setting is wrong:")?,
            count => write!(f, "{count} settings are wrong:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}
