use super::*;

/// A topic that is as easq creates it.
fn as_created(wanted: &Wanted, replicas: usize) -> Described {
    let mut config: BTreeMap<String, String> = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "-1"),
        ("max.message.bytes", "1048588"),
        ("min.insync.replicas", "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    config.extend(wanted.config(replicas).into_iter().map(|(key, value)| (key.to_owned(), value)));
    Described { partitions: wanted.partitions, replicas, config }
}

fn wanted(role: Role) -> Wanted {
    let settings = Settings::default();
    let mut all = inputs(&settings, 4);
    all.extend(outputs(&settings, 4));
    all.into_iter().find(|wanted| wanted.role == role).expect("a topic of every role")
}

fn labelled_views() -> Wanted {
    let settings = Settings::default();
    let name = settings.topics.labelled_views.clone();
    outputs(&settings, 4).into_iter().find(|wanted| wanted.name == name).expect("an output")
}

/// The one finding about a topic that differs in one setting from what easq creates.
fn only_finding(wanted: &Wanted, key: &str, value: &str) -> Finding {
    let mut found = as_created(wanted, 1);
    found.config.insert(key.to_owned(), value.to_owned());
    let findings = judge(wanted, Some(&found), 1);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.into_iter().next().expect("one finding")
}

#[test]
fn new_topics_are_set_as_the_contract_says() {
    let settings = Settings::default();
    let days = |days: i64| Some((days * DAY_MS).to_string());
    let topics = &settings.topics;
    let expected = [
        (topics.behavior_groups.clone(), 4, "delete", days(3)),
        (topics.labelled_views.clone(), 4, "delete", days(30)),
        (topics.preference_pairs.clone(), 4, "delete", days(30)),
        (topics.late.clone(), 4, "delete", days(14)),
        (topics.dead_letters.clone(), 4, "delete", days(14)),
        (topics.model("main"), 1, "delete", Some("-1".to_owned())),
        (topics.registry("main"), 1, "compact", None),
    ];
    let outputs = outputs(&settings, 4);
    let created: Vec<_> = outputs
        .iter()
        .map(|wanted| {
            let mut config = wanted.config(1);
            let policy = config.remove("cleanup.policy").expect("every topic says it");
            (wanted.name.clone(), wanted.partitions, policy, config.remove("retention.ms"))
        })
        .collect();
    assert_eq!(created, expected.map(|(name, partitions, policy, ms)| (name, partitions, policy.into(), ms)));
    assert_eq!(wanted(Role::Pages).config(1)["retention.bytes"], "-1", "the broker may have a limit");
}

#[test]
fn there_are_three_replicas_where_there_are_brokers_for_them_and_one_may_be_lost() {
    assert_eq!([0, 1, 2, 3, 5].map(replicas), [1, 1, 2, 3, 3]);
    let insync = |replicas| wanted(Role::Output).config(replicas)["min.insync.replicas"].clone();
    assert_eq!([1, 2, 3].map(insync), ["1", "1", "2"]);
}

#[test]
fn the_largest_record_of_each_topic_fits_into_it() {
    let mut settings = Settings::default();
    settings.input.max_record_bytes = 2_000_000;
    settings.join.max_group_bytes = 3_000_000;
    let limits: Vec<_> =
        outputs(&settings, 4).iter().map(|wanted| wanted.config(1).remove("max.message.bytes")).collect();
    // A labelled view holds a view and a response, a pair two labelled views.
    let bytes = [3_065_536, 4_065_536, 8_131_072, 2_065_536, 2_065_536];
    assert_eq!(limits[..5], bytes.map(|bytes: u64| Some(bytes.to_string())));
}

#[test]
fn inputs_may_be_set_otherwise_where_that_loses_nothing() {
    for (key, value) in [("retention.ms", "-1"), ("max.message.bytes", "1000"), ("retention.bytes", "1")] {
        let mut found = as_created(&wanted(Role::Input), 1);
        found.config.insert(key.to_owned(), value.to_owned());
        assert_eq!(judge(&wanted(Role::Input), Some(&found), 1), [], "{key}");
    }
}

#[test]
fn topics_as_they_are_created_have_no_findings() {
    let settings = Settings::default();
    for (brokers, wanted) in [1, 2, 3, 5].into_iter().flat_map(|brokers| {
        let all = inputs(&settings, 4).into_iter().chain(outputs(&settings, 4));
        all.map(move |wanted| (brokers, wanted))
    }) {
        let found = as_created(&wanted, replicas(brokers));
        assert_eq!(judge(&wanted, Some(&found), brokers), [], "{wanted:?}");
    }
}

#[test]
fn a_missing_topic_is_created_by_a_command() {
    let findings = judge(&wanted(Role::Input), None, 1);
    assert_eq!(findings[0].remedy, "run `easq topics create --inputs`");
    let findings = judge(&wanted(Role::Registry), None, 1);
    assert_eq!(findings[0].remedy, "run `easq topics create`");
}

#[test]
fn partition_counts_must_be_equal() {
    // Partitions can be added to a topic, not taken away.
    let cases = [(Role::Input, 3, "anew"), (Role::Output, 3, "--partitions 4"), (Role::Output, 5, "anew")];
    for (role, partitions, remedy) in cases {
        let wanted = wanted(role);
        let found = Described { partitions, ..as_created(&wanted, 1) };
        let findings = judge(&wanted, Some(&found), 1);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let problem = format!("{partitions} partitions instead of 4");
        assert!(findings[0].problem.contains(&problem), "{findings:?}");
        assert!(findings[0].remedy.contains(remedy), "{findings:?}");
    }
}

#[test]
fn the_registry_must_be_compacted_and_nothing_else() {
    let registry = only_finding(&wanted(Role::Registry), "cleanup.policy", "delete");
    assert!(registry.remedy.contains("cleanup.policy=compact"), "{registry}");
    let input = only_finding(&wanted(Role::Input), "cleanup.policy", "compact");
    assert!(input.remedy.contains("cleanup.policy=delete"), "{input}");
}

#[test]
fn inputs_are_kept_at_least_for_the_window() {
    let short = only_finding(&wanted(Role::Input), "retention.ms", "1859999");
    assert!(short.remedy.contains("retention.ms=1860000"), "{short}");
}

#[test]
fn labels_are_kept_at_least_for_the_pair_horizon() {
    let short = only_finding(&labelled_views(), "retention.ms", "604799999");
    assert!(short.remedy.contains("retention.ms=604800000"), "{short}");
    let mut settings = Settings::default();
    settings.join.pair_horizon_ms = 40 * DAY_MS;
    let labels = &outputs(&settings, 4)[1];
    assert_eq!(labels.retention_ms, Some(40 * DAY_MS));
}

#[test]
fn pages_are_never_deleted_by_the_broker() {
    for key in ["retention.ms", "retention.bytes"] {
        let limited = only_finding(&wanted(Role::Pages), key, "1000");
        assert!(limited.remedy.contains(&format!("{key}=-1")), "{limited}");
    }
}

#[test]
fn a_page_with_its_headers_must_fit_into_a_message() {
    let mut settings = Settings::default();
    settings.publish.page_bytes = 2 << 20;
    let pages = outputs(&settings, 4).into_iter().find(|wanted| wanted.role == Role::Pages).expect("pages");
    assert_eq!(pages.config(1)["max.message.bytes"], "2162688");
    let small = only_finding(&pages, "max.message.bytes", "1048588");
    assert!(small.remedy.contains("max.message.bytes=2162688"), "{small}");
}

#[test]
fn replication_is_judged_against_the_number_of_brokers() {
    let wanted = wanted(Role::Output);
    let single = as_created(&wanted, 1);
    assert_eq!(judge(&wanted, Some(&single), 1), []);
    let findings = judge(&wanted, Some(&single), 3);
    assert!(findings[0].problem.contains("1 replicas on 3 brokers"), "{findings:?}");
    let stuck = only_finding(&wanted, "min.insync.replicas", "2");
    assert!(stuck.problem.contains("no write succeeds"), "{stuck}");
}
