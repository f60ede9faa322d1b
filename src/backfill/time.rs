//! Points in time on the command line.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// A point in time with an explicit zone, or one relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    /// So much before now, where it is negative.
    FromNow(SignedDuration),
}

impl Moment {
    /// Unix milliseconds, when it is `now`.
    pub fn at_ms(self, now: Timestamp) -> i64 {
        match self {
            Self::At(time) => time.as_millisecond(),
            Self::FromNow(distance) => {
                let distance_ms = i64::try_from(distance.as_millis()).unwrap_or(i64::MIN);
                now.as_millisecond().saturating_add(distance_ms)
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::FromNow(SignedDuration::ZERO));
        }
        if text.starts_with(['-', '+']) {
            let span: Span = text.parse().map_err(|error| format!("{error}"))?;
            // A day of the clock: there is no zone in which it could be longer.
            let days = SpanRelativeTo::days_are_24_hours();
            return span.to_duration(days).map(Self::FromNow).map_err(|error| format!("{error}"));
        }
        match text.parse::<Timestamp>() {
            Ok(time) => Ok(Self::At(time)),
            Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => {
                Err(format!("it has no time zone; in UTC it is {text}Z"))
            }
            Err(error) => Err(format!(
                "{error}; expected RFC 3339 with a zone, as in 2026-01-31T06:00:00Z, or relative to now, as in -6h"
            )),
        }
    }
}

/// Unix milliseconds as RFC 3339; the number itself where that has no such form.
pub struct Shown(pub i64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// A length of time in words.
pub struct Length(pub i64);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", SignedDuration::from_millis(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        let now = Timestamp::from_millisecond(100_000_000_000).expect("a time");
        text.parse::<Moment>().expect(text).at_ms(now)
    }

    #[test]
    fn a_moment_has_its_zone_or_is_relative_to_now() {
        assert_eq!(at("1970-01-01T02:00:01+02:00"), 1_000);
        assert_eq!(at("1970-01-01T00:00:01.5Z"), 1_500);
        assert_eq!(at("-6h"), 100_000_000_000 - 6 * 3_600_000);
        assert_eq!(at("-1h30m"), 100_000_000_000 - 90 * 60_000);
        assert_eq!(at("-2d"), 100_000_000_000 - 48 * 3_600_000);
        assert_eq!(at("now"), 100_000_000_000);
    }

    #[test]
    fn what_leaves_the_zone_open_is_refused_with_the_remedy() {
        let refused = |text: &str| text.parse::<Moment>().expect_err(text);
        assert!(refused("2026-01-31T06:00:00").contains("2026-01-31T06:00:00Z"));
        assert!(refused("yesterday").contains("RFC 3339"));
        assert!(refused("6h").contains("-6h"));
        refused("-6");
        refused("-1mo");
    }
}
