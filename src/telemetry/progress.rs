//! Progress of long work: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how much of `total` is done, on standard error. On a terminal the rest has a line of its own
/// under the bar: beside it, 80 columns would cut it off.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    unit: &'static str,
    done: u64,
    message: String,
    next_line: Instant,
}

impl Progress {
    /// `unit`: what is counted, such as `views`.
    pub fn new(total: u64, unit: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {prefix}, {elapsed}\n{wide_msg}")
                .expect("the template is valid");
            ProgressBar::new(total).with_style(style).with_prefix(unit)
        });
        Self { bar, total, unit, done: 0, message: String::new(), next_line: Instant::now() + LINE_INTERVAL }
    }

    pub fn set(&mut self, done: u64, message: String) {
        (self.done, self.message) = (done, message);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(self.message.clone());
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + LINE_INTERVAL;
            self.print_line();
        }
    }

    /// Leaves the last state behind as a line.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.print_line();
    }

    fn print_line(&self) {
        eprintln!("{}/{} {}, {}", self.done, self.total, self.unit, self.message);
    }
}
