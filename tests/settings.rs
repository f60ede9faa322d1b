//! What a person meets when setting the program up: precedence, faults, redaction, exit codes.

mod support;

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use support::Easq;
use tempfile::TempDir;

/// For a command that would otherwise go on.
const DEADLINE: Duration = Duration::from_secs(60);

fn easq() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_easq"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EASQ__") {
            command.env_remove(name);
        }
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// A folder with the file `easq.toml`.
fn folder_with(settings: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("easq.toml"), settings).expect("a writable folder");
    folder
}

/// The settings in effect that `config show` prints.
fn shown(command: &mut Command) -> toml::Table {
    let (code, out, err) = run(command.args(["config", "show"]));
    assert_eq!(code, Some(0), "{err}");
    out.parse().expect("config show prints TOML")
}

#[test]
fn every_fault_is_listed_at_once_and_the_exit_code_is_2() {
    let folder = folder_with("[joiner]\nheartbeat_interval_ms = 9000\n[trian]\ndevice = \"cpu\"\n");
    let (code, out, err) = run(easq()
        .current_dir(&folder)
        .env("EASQ__PUBLISH__PAGE_BYTES", "1048576")
        .args(["config", "check", "--config", "easq.toml", "--set", "train.dpo=sometimes"])
        .args(["--set", "kafka.properties.group.id=mine", "--set", "kafka.properties.linger.mss=5"]));
    assert_eq!(code, Some(2), "{err}");
    assert_eq!(out, "");
    for expected in [
        "6 settings are wrong",
        "joiner.heartbeat_interval_ms = 9000 (file easq.toml): must be at most a third",
        "trian.device = \"cpu\" (file easq.toml): there is no such setting; did you mean train.device?",
        "publish.page_bytes = 1048576 (environment EASQ__PUBLISH__PAGE_BYTES): must be from 4096 to",
        "train.dpo = \"sometimes\" (--set): must be one of `live`, `pairs`, `off`",
        "kafka.properties.group.id = \"mine\" (--set): easq decides this itself: use joiner.group",
        "kafka.properties.linger.mss = \"5\" (--set): librdkafka has no such property",
    ] {
        assert!(err.contains(expected), "{expected}\nis not in\n{err}");
    }
}

#[test]
fn every_command_refuses_wrong_settings_before_it_does_anything() {
    let commands: [&[&str]; 9] = [
        &["run"],
        &["simulate", "--views", "1"],
        &["demo"],
        &["score", "--dir", "nowhere", "--views", "nothing.jsonl"],
        &["follow", "--dir", "nowhere"],
        &["model", "list"],
        &["topics", "create"],
        &["topics", "check"],
        &["config", "show"],
    ];
    for command in commands {
        let (status, printed) = Easq::run([command, &["--set", "join.window_ms=-1"]].concat(), DEADLINE);
        assert_eq!(status.code(), Some(2), "{command:?}: {printed}");
        let refusal =
            "easq: 1 setting is wrong:\n  join.window_ms = -1 (--set): must be a number greater than 0\n";
        assert_eq!(printed, refusal, "{command:?}");
    }
}

#[test]
fn wrong_arguments_are_exit_code_2_too() {
    assert_eq!(run(easq().arg("fly")).0, Some(2));
    assert_eq!(run(easq().args(["simulate", "--views", "1", "--rate", "0"])).0, Some(2));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let folder = folder_with("[join]\nwindow_ms = 1000\nmax_lead_ms = 1000\nidle_after_ms = 1000\n");
    let settings = shown(
        easq()
            .current_dir(&folder)
            .env("EASQ__JOIN__WINDOW_MS", "2000")
            .env("EASQ__JOIN__MAX_LEAD_MS", "2000")
            .env("EASQ__JOIN__PAIR_SCOPES", "same_scenario,same_user")
            .env("EASQ__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl")
            .args(["--config", "easq.toml", "--set", "join.window_ms=3000", "--log-format", "json"]),
    );
    let join = &settings["join"];
    assert_eq!(join["window_ms"].as_integer(), Some(3000));
    assert_eq!(join["max_lead_ms"].as_integer(), Some(2000));
    assert_eq!(join["idle_after_ms"].as_integer(), Some(1000));
    assert_eq!(join["pair_scopes"], toml::Value::from(vec!["same_scenario", "same_user"]));
    assert_eq!(settings["kafka"]["properties"]["security.protocol"].as_str(), Some("ssl"));
    assert_eq!(settings["telemetry"]["log_format"].as_str(), Some("json"));
}

#[test]
fn secrets_are_redacted_wherever_settings_are_printed() {
    let secret = "hunter2";
    let settings = shown(easq().env("EASQ__KAFKA__PROPERTIES__SASL_PASSWORD", secret));
    assert_eq!(settings["kafka"]["properties"]["sasl.password"].as_str(), Some("<redacted>"));

    let faulty = [
        ("[kafka]\npassword = \"hunter2\"\n", "kafka.password = <redacted>"),
        ("[kafka.properties]\n\"ssl.key.pen\" = \"hunter2\"\n", "kafka.properties.ssl.key.pen = <redacted>"),
        ("[kafka.properties]\n\"sasl.password\" = \"hunter2\n", "line 2, column 27"),
    ];
    for (file, said) in faulty {
        let folder = folder_with(file);
        let (code, out, err) =
            run(easq().current_dir(&folder).args(["config", "check", "--config", "easq.toml"]));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(said) && !out.contains(secret) && !err.contains(secret), "{err}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let (code, _, err) = run(easq().args(["config", "check", "--config", "no/such.toml"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("no/such.toml"), "{err}");
}

#[test]
fn the_defaults_are_right() {
    let (code, out, err) = run(easq().args(["config", "check"]));
    assert_eq!((code, &*out), (Some(0), "ok\n"), "{err}");
}
