//! Python with NumPy, safetensors and JAX: a program other than easq that reads what easq published
//! and calculates what easq should.

use std::process::{Command, Stdio};

/// Runs a Python program with these arguments and returns what it prints; panics when it fails.
#[track_caller]
pub fn python(program: &str, arguments: &[&str]) -> String {
    python_of("python-env", program, arguments)
}

/// The Python that a script of this repository makes, or finds in the user's cache.
#[track_caller]
pub fn interpreter(script: &str) -> String {
    let script = format!("{}/scripts/{script}", env!("CARGO_MANIFEST_DIR"));
    let found = Command::new(&script).stderr(Stdio::inherit()).output();
    let found = found.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(found.status.success(), "{script} gave no Python; what it printed says why");
    String::from_utf8(found.stdout).expect("a path in UTF-8").trim().to_owned()
}

/// As [`python`], with the Python of another script.
#[track_caller]
pub fn python_of(script: &str, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(interpreter(script))
        .args(["-c", program])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("the interpreter starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the Python program failed, having printed:\n{printed}");
    printed
}
