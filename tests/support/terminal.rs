//! What a person sees of a command on a terminal.

use std::num::NonZero;
use std::process::Command;
use std::time::Duration;

use super::Easq;

const COLUMNS: NonZero<u16> = NonZero::new(80).expect("not zero");
/// So many that nothing scrolls away.
const ROWS: NonZero<u16> = NonZero::new(1_000).expect("not zero");
const WITHIN: Duration = Duration::from_secs(120);

/// The rows of a screen, without what is empty behind the text.
pub type Screen = Vec<String>;

/// Runs `easq` to its end, which must be good, on a terminal of 80 columns: the screens that were to be
/// seen, the last of them what stays there.
#[track_caller]
pub fn on_a_terminal(arguments: &[String]) -> Vec<Screen> {
    let words = arguments.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    let words = words.collect::<Vec<_>>().join(" ");
    let run = format!("stty rows {ROWS} cols {COLUMNS}; exec '{}' {words}", env!("CARGO_BIN_EXE_easq"));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &run, "/dev/null"]).env("TERM", "xterm");
    let mut easq = Easq::spawn(terminal, words);
    let status = easq.wait(WITHIN);
    assert!(status.success(), "{}", easq.output());
    let mut terminal = vt100::Parser::new(ROWS, COLUMNS, 0);
    // Where the next control sequence begins, what was to be drawn is there.
    let output = easq.output();
    let screens = output.split_inclusive('\x1b').map(|drawn| {
        terminal.process(drawn.as_bytes());
        let rows = terminal.screen().rows(0, COLUMNS.get()).map(|row| row.trim_end().to_owned());
        let mut rows: Screen = rows.collect();
        rows.truncate(rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1));
        rows
    });
    screens.collect()
}
