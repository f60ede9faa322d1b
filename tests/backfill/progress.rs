//! How far a replay has come, as a person sees it.

use serde_json::Value;

use crate::support::replays::command;
use crate::support::terminal::on_a_terminal;
use crate::{RUN, said as table_in_words};

/// The labels and the pairs of what is said behind the seconds of event time, such as
/// `at 2026-11-26T12:00:00Z, 5000 events/s, 120 labels, 30 pairs, 12s left`.
#[track_caller]
fn says_what_was_done(said: &str) -> (u64, u64) {
    let parts: Vec<&str> = said.split(", ").collect();
    let [at, rate, labels, pairs, left] = parts[..] else { panic!("{said}") };
    at.strip_prefix("at ").expect(at).parse::<jiff::Timestamp>().expect(at);
    let number = |text: &str, unit: &str| text.strip_suffix(unit).expect(text).parse::<u64>().expect(text);
    assert!(number(rate, " events/s") > 0, "{said}");
    assert!(left.ends_with(" left") && left.starts_with(|first: char| first.is_ascii_digit()), "{said}");
    (number(labels, " labels"), number(pairs, " pairs"))
}

#[track_caller]
fn says_how_far(done: &str) {
    let (done, total) = done.split_once('/').expect("of how much");
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    assert!(0 < number(done) && number(done) <= number(total), "{done}/{total}");
}

/// Where there is no terminal.
#[track_caller]
pub fn is_in_plain_lines(shown: &str, account: &Value) {
    assert!(!shown.contains(['\r', '\x1b']), "{shown}");
    let line = shown.lines().rfind(|line| line.contains(" events/s, ")).expect("a line of progress");
    let (done, said) = line.split_once(" s of event time, ").expect("how far it has come");
    says_how_far(done);
    let number = |key: &str| account[key].as_u64().expect("a number");
    assert_eq!(says_what_was_done(said), (number("labels"), number("preference_pairs")));
}

#[test]
fn a_terminal_of_80_columns_shows_a_bar_and_all_of_what_was_done() {
    let run = &*RUN;
    let screens = on_a_terminal(&command(&run.line, run.range, &["--join-only"]));
    // What was done stands below the bar, whole. Not every step is drawn.
    let drawn = screens.iter().rev().find_map(|screen| {
        let bar = screen.iter().rposition(|row| row.starts_with('█'))?;
        Some((screen[bar].clone(), screen.get(bar + 1)?.clone()))
    });
    let (bar, said) = drawn.expect("a bar that has moved");
    let (done, _) = bar.split_once(" s of event time, ").expect("how far it has come");
    says_how_far(done.trim_start_matches(['█', '░', ' ']));
    let (labels, pairs) = says_what_was_done(&said);
    let left = screens.last().expect("a screen").join("\n");
    assert!(!left.contains(['█', '░']), "the bar stays: {left}");
    let last = left.lines().find(|row| row.contains(" s of event time, ")).expect("a last line");
    assert!(last.starts_with("15987/15987 "), "{last}");
    let table = table_in_words(&left);
    let number = |row: &str| -> u64 {
        let (_, behind) = table.split_once(row).expect("a row of the table");
        behind.split_whitespace().next().expect("a number").parse().expect("a number")
    };
    assert!((1..=number(" labels ")).contains(&labels), "{said}: {table}");
    assert!((1..=number(" preference pairs ")).contains(&pairs), "{said}: {table}");
}
