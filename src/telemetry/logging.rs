//! Log lines on stderr, as text or as one JSON object per line.

use std::io::IsTerminal;
use std::panic;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::progress::AboveBar;
use crate::settings::{LogFormat, Telemetry};

/// Logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("telemetry.log_filter = {filter:?} is not a filter such as \"info,easq::joiner=debug\"")]
    Filter { filter: String, source: ParseError },
    #[error("logging was set up before")]
    Twice(#[from] TryInitError),
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

/// Sends log lines and the messages of panics to stderr, for the rest of the process.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init_logging(settings: &Telemetry) -> Result<(), LoggingError> {
    let filter = parse_filter(&settings.log_filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBar::default)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).finish().try_init()?,
    }
    log_panics();
    Ok(())
}

/// A panic becomes one log line in the chosen format; what supervises the thread turns it into an
/// error as well.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("without a message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(thread, location, "panic: {message}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_an_unknown_level_is_refused() {
        assert!(parse_filter("info,easq::joiner=debug").is_ok());
        let error = parse_filter("easq=loud").expect_err("no such level").to_string();
        assert!(error.contains("telemetry.log_filter = \"easq=loud\""), "{error}");
    }
}
