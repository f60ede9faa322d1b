//! Python with NumPy, safetensors and JAX: a program other than easq that reads what easq published
//! and calculates what easq should.

use std::process::{Command, Stdio};

/// Runs a Python program with these arguments and returns what it prints; panics when it fails.
#[track_caller]
pub fn python(program: &str, arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/python-env");
    let found = Command::new(script).stderr(Stdio::inherit()).output();
    let found = found.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(found.status.success(), "{script} gave no Python; what it printed says why");
    let interpreter = String::from_utf8(found.stdout).expect("a path in UTF-8");
    let output = Command::new(interpreter.trim())
        .args(["-c", program])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("the interpreter starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the Python program failed, having printed:\n{printed}");
    printed
}
