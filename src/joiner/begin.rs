//! Where a group begins that has neither committed offsets nor outputs.

use super::JoinerError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeginAt {
    Earliest,
    Latest,
    /// At the first record that is not older, Unix milliseconds.
    TimeMs(i64),
}

/// Reads `input.start`.
pub(super) fn begin_at(start: &str) -> Result<BeginAt, JoinerError> {
    match start {
        "earliest" => Ok(BeginAt::Earliest),
        "latest" => Ok(BeginAt::Latest),
        time => match time.parse::<jiff::Timestamp>() {
            Ok(time) => Ok(BeginAt::TimeMs(time.as_millisecond())),
            Err(error) => Err(JoinerError::Start { value: time.to_owned(), reason: error.to_string() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_begins_at_either_end_or_at_a_time() {
        assert_eq!(begin_at("earliest").ok(), Some(BeginAt::Earliest));
        assert_eq!(begin_at("latest").ok(), Some(BeginAt::Latest));
        assert_eq!(begin_at("1970-01-01T00:00:02Z").ok(), Some(BeginAt::TimeMs(2000)));
    }

    #[test]
    fn any_other_beginning_is_refused_with_what_is_allowed() {
        let refused = begin_at("yesterday").expect_err("not a time").to_string();
        assert!(refused.contains("yesterday") && refused.contains("RFC 3339"), "{refused}");
    }
}
