//! Progress of long work: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The bar that stands on the terminal. Whatever else is written there has to go above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn standing() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error, where a bar may stand: what is written comes above it.
#[derive(Debug, Default)]
pub struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match &*standing() {
            Some(bar) => bar.suspend(|| io::stderr().write(text)),
            None => io::stderr().write(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows how much of `total` is done, on standard error. On a terminal the rest has a line of its own
/// under the bar: beside it, 80 columns would not do.
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
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {prefix}, {elapsed}\n{msg}")
                .expect("the template is valid");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(unit);
            *standing() = Some(bar.clone());
            bar
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
        self.clear();
        self.print_line();
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            *standing() = None;
        }
    }

    fn print_line(&self) {
        eprintln!("{}/{} {}, {}", self.done, self.total, self.unit, self.message);
    }
}

/// Where it does not come to its end, what is printed next must not find the bar in its way.
impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
