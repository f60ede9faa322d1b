//! `easq backfill`, as tests call it.

use std::path::Path;
use std::time::Duration;

use super::{Easq, Line};

/// Long enough on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).expect("a time").to_string()
}

/// The command line of a replay.
pub fn command(line: &Line, range: (i64, i64), more: &[&str]) -> Vec<String> {
    let (from, to) = (time(range.0), time(range.1));
    line.arguments(&[&["backfill", "--from", &from, "--to", &to], more].concat())
}

/// Runs to its end; what it says.
#[track_caller]
pub fn replayed(line: &Line, range: (i64, i64), more: &[&str]) -> String {
    let (status, output) = Easq::run(command(line, range, more), DEADLINE);
    assert!(status.success(), "{output}");
    output
}

/// Runs to an error with this exit code; what it says.
#[track_caller]
pub fn refused(line: &Line, range: (i64, i64), more: &[&str], code: i32) -> String {
    let (status, output) = Easq::run(command(line, range, more), DEADLINE);
    assert_eq!(status.code(), Some(code), "{output}");
    output.lines().last().expect("a process that fails says why").to_owned()
}
