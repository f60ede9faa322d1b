//! How far a replay has come, as a person sees it.

use std::process::Command;

use serde_json::Value;

use crate::support::Easq;
use crate::support::replays::{DEADLINE, command};
use crate::{RUN, said as said_in_words};

/// What is said behind the seconds of event time, such as `at 2026-11-26T12:00:00Z, 5000 events/s,
/// 120 labels, 30 pairs, 12 s left`.
#[track_caller]
fn says_what_was_done(said: &str, labels: &str, pairs: &str) {
    let parts: Vec<&str> = said.split(", ").collect();
    let [at, rate, shown_labels, shown_pairs, left] = parts[..] else { panic!("{said}") };
    at.strip_prefix("at ").expect(at).parse::<jiff::Timestamp>().expect(at);
    let rate: u64 = rate.strip_suffix(" events/s").expect(rate).parse().expect(rate);
    assert!(rate > 0, "{said}");
    assert_eq!((shown_labels, shown_pairs), (&*format!("{labels} labels"), &*format!("{pairs} pairs")));
    assert!(left.ends_with(" left") && left.starts_with(|first: char| first.is_ascii_digit()), "{said}");
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
    says_what_was_done(said, &account["labels"].to_string(), &account["preference_pairs"].to_string());
}

#[test]
fn a_terminal_of_80_columns_shows_a_bar_and_all_of_what_was_done() {
    let run = &*RUN;
    let replay = command(&run.line, run.range, &["--join-only"]);
    let words = replay.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    let words = words.collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    let in_it = format!("stty cols 80; exec '{}' {words}", env!("CARGO_BIN_EXE_easq"));
    terminal.args(["--quiet", "--return", "--command", &in_it, "/dev/null"]).env("TERM", "xterm");
    let mut shown = Easq::spawn(terminal, words);
    let status = shown.wait(DEADLINE);
    let output = shown.output();
    assert!(status.success(), "{output}");
    // Each frame begins with a control sequence of the terminal, which ends with a letter.
    let frame = output.split('\x1b').rfind(|frame| frame.contains('█')).expect("a bar that has moved");
    let bar_at = frame.find('█').expect("a bar");
    let columns: Vec<char> = frame[bar_at..].chars().collect();
    let [bar, said] = [&columns[..80], &columns[80..]].map(|line| line.iter().collect::<String>());
    let (done, _) = bar.split_once(" s of event time, ").expect("how far it has come");
    says_how_far(done.trim_start_matches(['█', '░', ' ']));
    let table = said_in_words(&output);
    let number = |row: &str| -> &str {
        let (_, behind) = table.split_once(row).expect("a row of the table");
        behind.split_whitespace().next().expect("a number")
    };
    // Cut off, it would not have its end.
    says_what_was_done(said.trim_end(), number(" labels "), number(" preference pairs "));
}
