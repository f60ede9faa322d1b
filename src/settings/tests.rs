use std::io::Write;

use super::*;
use tempfile::NamedTempFile;

fn load(sources: &Sources) -> Result<Settings, Faults> {
    super::load(sources, |name, _| name.is_empty().then(|| "has no name".to_owned()))
}

fn set(texts: &[&str]) -> Result<Settings, Faults> {
    let overrides = texts.iter().map(|text| (*text).to_owned()).collect();
    load(&Sources { overrides, ..Sources::default() })
}

fn environment(variables: &[(&str, &str)]) -> Result<Settings, Faults> {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&Sources { environment, ..Sources::default() })
}

fn file(text: &str) -> Result<Settings, Faults> {
    let file = written(text);
    load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() })
}

fn written(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The one fault that `texts` have, as `key`, `problem`.
fn only_fault(texts: &[&str]) -> (String, String) {
    let Faults(mut faults) = set(texts).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    let fault = faults.remove(0);
    (fault.key, fault.problem)
}

#[test]
fn nothing_is_served_beyond_this_machine_unless_a_person_says_so() {
    let listen = Settings::default().telemetry.listen;
    let address: std::net::SocketAddr = listen.parse().expect("an address");
    assert!(address.ip().is_loopback(), "{address}");
}

#[test]
fn a_flag_overrides_the_environment_which_overrides_the_file_which_overrides_the_defaults() {
    let file = written(
        "[join]\nwindow_ms = 10\nmax_lead_ms = 10\nidle_after_ms = 10\n[topics]\nlate = \"from.file\"\n",
    );
    let settings = load(&Sources {
        file: Some(file.path().to_owned()),
        environment: vec![
            ("EASQ__JOIN__WINDOW_MS".to_owned(), "20".to_owned()),
            ("EASQ__JOIN__MAX_LEAD_MS".to_owned(), "20".to_owned()),
        ],
        overrides: vec!["join.window_ms=30".to_owned()],
    })
    .unwrap();
    let join = &settings.join;
    assert_eq!((join.window_ms, join.max_lead_ms, join.idle_after_ms), (30, 20, 10));
    assert_eq!(settings.topics.late, "from.file");
    assert_eq!(settings.join.group_span_ms, Settings::default().join.group_span_ms);
}

#[test]
fn text_is_read_as_the_type_of_the_default() {
    let settings = set(&[
        "publish.trim=false",
        "join.behavior_sample_rate=1",
        "model.name=7",
        "join.pair_scopes=same_scenario, same_user",
        "features.dense=[\"a\", \"b\"]",
        "reward.other.dwell=0.5",
        "features.sparse=[{ field = 1, name = \"user\", rows = 8, dim = 2 }]",
    ])
    .unwrap();
    assert!(!settings.publish.trim);
    assert_eq!(settings.model.name, "7");
    assert_eq!(settings.join.pair_scopes, [Scope::SameScenario, Scope::SameUser]);
    assert_eq!(settings.features.dense, ["a", "b"]);
    assert_eq!(settings.features.sparse[0].rows, 8);
    assert_eq!(settings.reward.other["dwell"], 0.5);
}

#[test]
fn properties_keep_the_dots_of_their_names_from_every_source() {
    let expected = BTreeMap::from([
        ("security.protocol".to_owned(), "SASL_SSL".to_owned()),
        ("socket.keepalive.enable".to_owned(), "true".to_owned()),
        ("socket.timeout.ms".to_owned(), "500".to_owned()),
    ]);
    let quoted = r#"
        [kafka.properties]
        "security.protocol" = "SASL_SSL"
        "socket.keepalive.enable" = true
        "socket.timeout.ms" = 500
    "#;
    assert_eq!(file(quoted).unwrap().kafka.properties, expected);
    let unquoted = r#"
        [kafka.properties]
        security.protocol = "SASL_SSL"
        socket.keepalive.enable = true
        socket.timeout.ms = 500
    "#;
    assert_eq!(file(unquoted).unwrap().kafka.properties, expected);
    let flags = set(&[
        "kafka.properties.security.protocol=SASL_SSL",
        "kafka.properties.socket.keepalive.enable=true",
        "kafka.properties.socket.timeout.ms=500",
    ]);
    assert_eq!(flags.unwrap().kafka.properties, expected);
    let variables = environment(&[
        ("EASQ__KAFKA__PROPERTIES__SECURITY__PROTOCOL", "SASL_SSL"),
        ("EASQ__KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE", "true"),
        ("EASQ__KAFKA__PROPERTIES__SOCKET.TIMEOUT.MS", "500"),
    ]);
    assert_eq!(variables.unwrap().kafka.properties, expected);
}

#[test]
fn every_fault_is_reported_with_key_value_and_origin() {
    let path = written("[train]\nlearning_rate = -1\ndpo = \"sometimes\"\n[joiner]\ninstances = 1.5\n");
    let Faults(faults) = load(&Sources {
        file: Some(path.path().to_owned()),
        environment: vec![("EASQ__PUBLISH__KEEP_VERSIONS".to_owned(), "many".to_owned())],
        overrides: vec!["join.windw_ms=5".to_owned(), "join".to_owned()],
    })
    .unwrap_err();
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let origin = format!("file {}", path.path().display());
    for expected in [
        "join.windw_ms = \"5\" (--set): there is no such setting; did you mean join.window_ms?".to_owned(),
        "--set join: has no value; write --set section.key=value".to_owned(),
        format!("train.learning_rate = -1 ({origin}): must be a number greater than 0"),
        format!("train.dpo = \"sometimes\" ({origin}): must be one of `live`, `pairs`, `off`"),
        format!("joiner.instances = 1.5 ({origin}): must be a whole number that is not negative"),
        "publish.keep_versions = \"many\" (environment EASQ__PUBLISH__KEEP_VERSIONS): \
         must be a whole number that is not negative"
            .to_owned(),
    ] {
        assert!(lines.contains(&expected), "{expected}\nis not among\n{}", lines.join("\n"));
    }
    assert_eq!(lines.len(), 6, "{lines:?}");
}

#[test]
fn a_section_is_no_value_and_a_value_is_no_section() {
    assert_eq!(only_fault(&["join=5"]).0, "join");
    assert_eq!(only_fault(&["train.dpo.beta=5"]).0, "train.dpo");
    assert_eq!(only_fault(&["=5"]).0, "");
    assert_eq!(only_fault(&["kafka.properties.=5"]).0, "kafka.properties.");
    let Faults(faults) = file("[gate]\nwindow = 1\n[gate.deeper]\nfloor = 2\n").unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["gate.deeper.floor", "gate.window"]);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_a_fault_that_quotes_none_of_it() {
    let missing = load(&Sources { file: Some("no/such.toml".into()), ..Sources::default() });
    assert!(missing.unwrap_err().to_string().contains("no/such.toml"));
    let broken = file("[kafka.properties]\n\"sasl.password\" = \"hunter2\n").unwrap_err().to_string();
    assert!(broken.contains("line 2") && !broken.contains("hunter2"), "{broken}");
}

#[test]
fn relations_between_settings_are_checked() {
    for (texts, key) in [
        (&["joiner.heartbeat_interval_ms=10000"][..], "joiner.heartbeat_interval_ms"),
        (&["joiner.max_poll_interval_ms=9000"], "joiner.max_poll_interval_ms"),
        (&["model.satisfaction_experts=4"], "model.satisfaction_experts"),
        (&["train.dpo=pairs", "train.reservoir_reuse=4"], "train.reservoir_reuse"),
        (&["train.behavior_budget_points=0"], "train.behavior_budget_points"),
        (&["train.behavior_budget_points=inf"], "train.behavior_budget_points"),
        (&["train.dpo_weight=inf"], "train.dpo_weight"),
        (&["join.behavior_sample_rate=1.5"], "join.behavior_sample_rate"),
        (&["join.behavior_sample_rate=nan"], "join.behavior_sample_rate"),
        (&["topics.late=no spaces"], "topics.late"),
        (&["topics.dead_letters=easq_late"], "topics.dead_letters"),
        (&["model.name=.."], "model.name"),
        (&["publish.page_bytes=1048576"], "publish.page_bytes"),
        (&["publish.checkpoint_interval_ms=500"], "publish.checkpoint_interval_ms"),
        (&["join.window_ms=0"], "join.window_ms"),
        (&["join.pair_scopes=same_user,same_user"], "join.pair_scopes"),
        (&["kafka.bootstrap_servers=localhost"], "kafka.bootstrap_servers"),
        (&["telemetry.listen=everywhere"], "telemetry.listen"),
        (&["telemetry.log_filter=easq=loud"], "telemetry.log_filter"),
        (&["input.start=yesterday"], "input.start"),
        (&["train.device=gpu"], "train.device"),
        (&["train.heartbeat_interval_ms=4000"], "train.heartbeat_interval_ms"),
        (&["train.session_timeout_ms=5000"], "train.heartbeat_interval_ms"),
        (&["train.hang_timeout_ms=999"], "train.hang_timeout_ms"),
        (&["features.schema_version=5000000000"], "features.schema_version"),
    ] {
        assert_eq!(only_fault(texts).0, key, "{texts:?}");
    }
    set(&["train.dpo=pairs", "train.reservoir_reuse=1"]).unwrap();
    set(&["publish.page_bytes=1048576", "kafka.properties.message.max.bytes=2000000"]).unwrap();
    set(&["input.start=2026-01-31T12:00:00Z"]).unwrap();
}

#[test]
fn a_property_that_easq_decides_is_refused_with_the_reason() {
    let (key, problem) = only_fault(&["kafka.properties.enable.auto.commit=true"]);
    assert_eq!(key, "kafka.properties.enable.auto.commit");
    assert!(problem.contains("committed with the outputs"), "{problem}");
}

#[test]
fn no_secret_is_shown_in_toml_debug_output_or_faults() {
    let texts = [
        "kafka.properties.sasl.password=hunter2",
        "kafka.properties.ssl.key.password=hunter2",
        "kafka.properties.sasl.oauthbearer.config=secret=hunter2",
        "kafka.properties.sasl.username=reader",
    ];
    let settings = set(&texts).unwrap();
    assert_eq!(settings.kafka.properties["sasl.password"], "hunter2");
    let (shown, debug) = (show(&settings), format!("{settings:?}"));
    assert!(!shown.contains("hunter2") && shown.contains("reader"), "{shown}");
    assert!(!debug.contains("hunter2") && debug.contains("reader"), "{debug}");
    let faults =
        file("[kafka.properties]\n\"sasl.password\" = [\"hunter2\"]\n[kafka]\npassword = \"hunter2\"\n");
    let faults = faults.unwrap_err();
    assert_eq!(faults.0.len(), 2);
    assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
}

#[test]
fn a_variable_can_name_a_file_that_holds_the_value() {
    const PASSWORD_FILE: &str = "EASQ__KAFKA__PROPERTIES__SASL_PASSWORD_FILE";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    std::fs::write(path("password"), "hunter2 \r\n").expect("a file of our own");
    std::fs::write(path("window"), "7000\n").expect("a file of our own");
    let settings =
        environment(&[(PASSWORD_FILE, &path("password")), ("EASQ__JOIN__WINDOW_MS_FILE", &path("window"))]);
    let settings = settings.unwrap();
    assert_eq!(settings.kafka.properties["sasl.password"], "hunter2 ", "only the end of the line is cut off");
    assert_eq!(settings.join.window_ms, 7000);

    let missing = environment(&[("EASQ__JOIN__WINDOW_MS_FILE", &path("missing"))]).unwrap_err().to_string();
    for part in ["EASQ__JOIN__WINDOW_MS_FILE", &path("missing"), "No such file"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    std::fs::write(path("property"), "hunter2").expect("a file of our own");
    let wrong = environment(&[("EASQ__KAFKA__PASSWORD_FILE", &path("property"))]);
    assert!(!wrong.unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn a_secret_in_the_place_of_a_path_or_without_its_equals_sign_is_not_shown() {
    for name in ["EASQ__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", "EASQ__KAFKA__PASSWORD_FILE"] {
        let fault = environment(&[(name, "hunter2")]).unwrap_err();
        assert!(!format!("{fault} {fault:?}").contains("hunter2"), "{fault}");
        assert!(fault.to_string().contains(name) && fault.to_string().contains("No such file"), "{fault}");
    }
    let fault = set(&["kafka.properties.sasl.password:hunter2"]).unwrap_err();
    assert!(!format!("{fault} {fault:?}").contains("hunter2"), "{fault}");
    let fault = set(&["join.window_ms:7000"]).unwrap_err().to_string();
    assert!(fault.contains("join.window_ms:7000"), "{fault}");
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let settings = set(&["kafka.properties.security.protocol=SSL", "reward.other.dwell=2"]).unwrap();
    assert_eq!(file(&show(&settings)).unwrap(), settings);
}
