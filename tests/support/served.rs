//! A process with its own endpoints.

use std::time::Duration;

use serde_json::Value;

use super::{Easq, Line, answer, get};

const DEADLINE: Duration = Duration::from_secs(180);

/// A process that serves `/metrics` and the rest on a port of its own.
pub struct Served {
    process: Easq,
    pub address: String,
}

impl Served {
    pub fn start(line: &Line, command: &[&str]) -> Self {
        let mut process = line.clone().set("telemetry.listen", "127.0.0.1:0").start(command);
        process.wait_for_output("serving /healthz", DEADLINE);
        let address = process.address();
        Self { process, address }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits for its own end; the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait(DEADLINE).code()
    }

    pub fn get(&self, path: &str) -> String {
        get(&self.address, path).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status")).expect("/status is JSON")
    }

    /// Status and body of `/readyz`.
    pub fn ready(&self) -> (u16, String) {
        answer(&self.address, "/readyz").expect("an answer while running")
    }

    /// SIGTERM; it must drain and exit with code 0.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.terminate();
        assert_eq!(self.process.wait(DEADLINE).code(), Some(0), "{}", self.process.output());
    }
}
