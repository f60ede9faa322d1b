//! The real binary as a child process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{eventually, eventually_some};

const FROZEN_WITHIN: Duration = Duration::from_secs(60);
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// A running `easq`; killed when dropped, and its output is shown when the test fails.
pub struct Easq {
    child: Child,
    arguments: String,
    output: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Easq {
    /// Starts the binary with these arguments. Standard output and error are captured together.
    pub fn start<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_with(arguments, [])
    }

    /// As [`Easq::start`], with variables added to its environment.
    pub fn start_with<'a, S: AsRef<str>>(
        arguments: impl IntoIterator<Item = S>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let arguments: Vec<String> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_easq"));
        command.args(&arguments).envs(environment);
        Self::spawn(command, arguments.join(" "))
    }

    /// Starts `command`, which runs an `easq` with these arguments in its place.
    pub fn spawn(mut command: Command, arguments: String) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().expect("a piped standard output");
        let stderr = child.stderr.take().expect("a piped standard error");
        let readers = vec![copy_lines(stdout, output.clone()), copy_lines(stderr, output.clone())];
        Self { child, arguments, output, readers }
    }

    /// Runs the binary to its end, which must come within `deadline`.
    #[track_caller]
    pub fn run<S: AsRef<str>>(
        arguments: impl IntoIterator<Item = S>,
        deadline: Duration,
    ) -> (ExitStatus, String) {
        let mut easq = Self::start(arguments);
        let status = easq.wait(deadline);
        (status, easq.output())
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("no reader panicked").clone()
    }

    /// Waits until the output holds `text`.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str, deadline: Duration) {
        eventually(deadline, &format!("`easq {}` prints '{text}'", self.arguments), || {
            self.output().contains(text)
        });
    }

    /// Where it serves HTTP, as its log names it.
    #[track_caller]
    pub fn address(&self) -> String {
        self.served_at().expect("the log line names the address")
    }

    /// The same; none before it serves.
    pub fn served_at(&self) -> Option<String> {
        let output = self.output();
        let (_, after) = output.split_once(" address=")?;
        after.lines().next()?.split_whitespace().next().map(str::to_owned)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of this process").is_none()
    }

    /// Whether all of it stands still after a SIGSTOP; not when it has ended.
    pub fn is_frozen(&self) -> bool {
        every_thread_is(self.id(), &['T'])
    }

    /// The most memory that it has had, in bytes, as `proc_pid_status(5)` gives it; 0 when it has ended.
    pub fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.map_or(0, |kib| kib.trim().parse::<u64>().expect("a number") << 10)
    }

    /// What the system calls it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM: asks it to drain and leave. One that has only just begun would die of it: waits until
    /// it listens.
    #[track_caller]
    pub fn terminate(&self) {
        eventually(LISTENS_WITHIN, "it listens to SIGTERM, or has ended", || {
            self.catches_sigterm() || every_thread_is(self.id(), &['Z', 'X'])
        });
        self.signal("TERM");
    }

    /// As `proc_pid_status(5)` has it.
    fn catches_sigterm(&self) -> bool {
        const SIGTERM: u32 = 15;
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"));
        mask & (1 << (SIGTERM - 1)) != 0
    }

    /// As the function [`signal`].
    #[track_caller]
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of this process");
        self.child.wait().expect("a child of this process");
    }

    /// Waits for its own end; afterwards [`Easq::output`] is complete.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("`easq {}` ends", self.arguments);
        let status =
            eventually_some(deadline, &what, || self.child.try_wait().expect("a child of this process"));
        for reader in self.readers.drain(..) {
            reader.join().expect("no reader panicked");
        }
        status
    }
}

impl Drop for Easq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- easq {}\n{}---", self.arguments, self.output());
        }
    }
}

/// Sends a signal by its name, such as `STOP`, `CONT` or `INT`. Threads stop one after another:
/// after a `STOP`, waits until no one of them runs any more. The process, a child of this one or of its
/// children, may have ended before.
#[track_caller]
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
    if name == "STOP" {
        eventually(FROZEN_WITHIN, "no thread runs", || every_thread_is(process, &['T', 'Z', 'X']));
    }
}

/// Whether each thread is in one of these states, as `proc_pid_status(5)` has them: `T` stands still,
/// `Z` and `X` have ended.
fn every_thread_is(process: u32, states: &[char]) -> bool {
    let tasks =
        fs::read_dir(format!("/proc/{process}/task")).expect("a process whose end nobody has asked for");
    tasks.map_while(Result::ok).all(|task| {
        // One that has ended on the way runs no more.
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let mut state = status.lines().filter_map(|line| line.strip_prefix("State:"));
        state.all(|state| state.trim_start().starts_with(states))
    })
}

fn copy_lines(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut text = to.lock().expect("no other reader panicked");
            text.push_str(&String::from_utf8_lossy(&line));
            text.push('\n');
        }
    })
}
