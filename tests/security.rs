//! Beside a Kafka with TLS, users and rights: who may do what, and secrets that stay secret.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use easq::settings::Settings;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use support::{Easq, Line, Proof, SecureKafka, answer, eventually_some, get, world};

const PARTITIONS: i32 = 2;
const DEADLINE: Duration = Duration::from_secs(180);
const PASSWORD: &str = "EASQ__KAFKA__PROPERTIES__SASL_PASSWORD";
const PASSWORD_FILE: &str = "EASQ__KAFKA__PROPERTIES__SASL_PASSWORD_FILE";
const CERTIFICATE: &str = "EASQ__KAFKA__PROPERTIES__SSL_CERTIFICATE_PEM";
const KEY: &str = "EASQ__KAFKA__PROPERTIES__SSL_KEY_PEM";
/// Of the readers that find out what may be read.
const GROUP: &str = "easq-test-reader";
/// As docs/security.md calls them.
const PARTS: [&str; 7] =
    ["producer", "easq-joiner", "easq-trainer", "ranker", "operator", "easq-backfill", "easq-replay"];
const SECURITY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md"));

/// One for all tests that run at a time: the start of a broker is what takes long. It ends with the last
/// of them, and leaves nothing on the disk.
fn secure() -> Arc<SecureKafka> {
    static LAST: Mutex<Weak<SecureKafka>> = Mutex::new(Weak::new());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.upgrade().unwrap_or_else(|| {
        let started = Arc::new(SecureKafka::start(&[&PARTS[..], &[SecureKafka::ADMIN]].concat()));
        *last = Arc::downgrade(&started);
        started
    })
}

/// The line as `user` comes to it.
fn as_user(line: &Line, user: &str, proof: Proof) -> Line {
    let secure = secure();
    let line = line.clone().set("kafka.bootstrap_servers", secure.address(proof));
    let properties = secure.properties(user, proof);
    properties
        .into_iter()
        .fold(line, |line, (name, value)| line.set(&format!("kafka.properties.{name}"), value))
}

/// Starts easq as `user`, whose password is in a file.
fn start(line: &Line, user: &str, command: &[&str]) -> Easq {
    let file = secure().password_file(user);
    let line = as_user(line, user, Proof::Scram);
    Easq::start_with(line.arguments(command), [(PASSWORD_FILE, file.to_str().expect("a path in UTF-8"))])
}

/// Waits for a clean end.
#[track_caller]
fn ended(mut easq: Easq) -> String {
    let status = easq.wait(DEADLINE);
    assert!(status.success(), "{status}: {}", easq.output());
    easq.output()
}

/// SIGTERM, and a clean end.
#[track_caller]
fn stop(easq: Easq) -> String {
    easq.terminate();
    ended(easq)
}

/// A line whose topics, group and model have their default names, and are on the secure broker.
fn default_names() -> Line {
    let line = Line::on(secure().kafka(), "secure");
    let defaults = toml::Table::try_from(Settings::default()).expect("settings have a TOML form");
    let topics = defaults["topics"].as_table().expect("a section");
    let named = topics.iter().map(|(key, name)| (format!("topics.{key}"), name.as_str().expect("a name")));
    let line = named.fold(line, |line, (key, name)| line.set(&key, name));
    let of = |section: &str, key: &str| defaults[section][key].as_str().expect("a name").to_owned();
    line.set("joiner.group", of("joiner", "group")).set("model.name", of("model", "name"))
}

/// The commands of docs/security.md, in words.
fn granted_rights() -> Vec<Vec<&'static str>> {
    let commands = SECURITY.lines().filter_map(|line| line.strip_prefix("kafka-acls "));
    commands.map(|command| command.split_whitespace().collect()).collect()
}

#[test]
fn each_part_runs_with_the_rights_that_the_documentation_names_and_has_no_others() {
    let secure = secure();
    let line = default_names();
    line.create_topics(PARTITIONS);
    let rights = granted_rights();
    assert!(rights.len() >= PARTS.len(), "no rights are documented");
    rights.iter().for_each(|words| secure.grant(words));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let joiner = start(&line, "easq-joiner", &["run", "--role", "joiner"]);
    let trainer = start(&line, "easq-trainer", &["run", "--role", "trainer"]);
    let simulate = ["simulate", "--views", "20000", "--span", "12h"];
    let mut said = ended(start(&line, "producer", &simulate));
    let model = path("model");
    let ranker = start(&line, "ranker", &["follow", "--dir", &model]);
    eventually_some(DEADLINE, "the ranker has a version", || {
        easq::publish::read_current(Path::new(&model)).ok().filter(|(manifest, _)| manifest.step > 0)
    });
    let range = ["backfill", "--from", "-12h", "--to", "-1s", "--join-only"];
    said += &ended(start(&line, "easq-backfill", &range));
    for running in [joiner, trainer] {
        said += &stop(running);
    }
    // Two replays with all that they can ask for.
    let (manifest, _) = easq::publish::read_current(Path::new(&model)).expect("a version is there");
    let version = manifest.version.to_string();
    let all = ["--base", &version, "--publish", "lr", "--pairs-topic", "pairs-again"];
    said += &ended(start(&line, "easq-replay", &[&range[..5], &all].concat()));
    let samples = ["--source", "samples", "--samples", &path("samples.pb")];
    said += &ended(start(&line, "easq-replay", &[&range[..5], &samples].concat()));
    let accept = ["model", "accept-stream", "--reason", "as it is"];
    let pin = ["model", "promote", &version, "--reason", "as it is"];
    for command in [&accept[..], &pin, &["model", "unpin"]] {
        said += &ended(start(&line, "operator", command));
    }
    said += &stop(ranker);
    PARTS.iter().for_each(|part| assert!(!said.contains(&SecureKafka::password(part)), "{said}"));
    nobody_has_more_rights(&line.settings());
}

fn nobody_has_more_rights(settings: &Settings) {
    let principals = PARTS.map(|part| format!("User:{part}"));
    let principals = principals.iter().flat_map(|principal| ["--allow-principal", principal]);
    let to_ask = ["--add", "--operation", "Read", "--group", GROUP];
    secure().grant(&to_ask.into_iter().chain(principals).collect::<Vec<_>>());
    let topics = &settings.topics;
    let (pages, registry) = (topics.model(&settings.model.name), topics.registry(&settings.model.name));
    let inputs = [&*topics.behavior, &*topics.responses];
    let samples = [&*topics.preference_pairs, &*topics.behavior_groups];
    let outputs = [&samples[..], &[&*topics.labelled_views, &*topics.late, &*topics.dead_letters]].concat();
    let model = [&*pages, &*registry];
    let of_joiner = [&inputs[..], &outputs].concat();
    let of_trainer = [samples, model].concat();
    // What each of PARTS may read, and what it may write.
    let of_replay = [&inputs[..], &samples, &[&*topics.labelled_views], &model].concat();
    let wanted: [(&[&str], &[&str]); PARTS.len()] = [
        (&[], &inputs),
        (&of_joiner, &outputs),
        (&of_trainer, &model),
        (&model, &[]),
        (&[&*registry], &[&*registry]),
        (&inputs, &[]),
        (&of_replay, &[]),
    ];
    for (part, (reads, writes)) in PARTS.into_iter().zip(wanted) {
        for topic in of_joiner.iter().chain(&model) {
            assert_eq!(may_read(part, topic), reads.contains(topic), "{part} reads {topic}");
            assert_eq!(may_write(part, topic), writes.contains(topic), "{part} writes {topic}");
            let deletes = part == "easq-trainer" && *topic == pages;
            assert_eq!(may_delete(part, topic), deletes, "{part} deletes from {topic}");
        }
        // Each name with the one part that may use it, as the owner of its transactions and in its group.
        for (id, owner) in [("easq-joiner-a", "easq-joiner"), ("easq-trainer-main", "easq-trainer")] {
            assert_eq!(may_fence(part, id), part == owner, "{part} begins transactions as {id}");
        }
        for (group, owner) in [("easq-joiner", "easq-joiner"), ("easq-trainer-main", "easq-trainer")] {
            assert_eq!(may_join(part, group, &registry), part == owner, "{part} is a member of {group}");
        }
    }
}

fn is_refusal(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

fn may_read(user: &str, topic: &str) -> bool {
    let mut config = secure().client(user);
    config.set("group.id", GROUP).set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a valid client configuration");
    // A topic that the user may not even ask about says nothing to a reader.
    let asked = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata");
    let refusal = asked.topics().iter().find_map(|topic| topic.error());
    if refusal.map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
        return false;
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("a valid offset");
    consumer.assign(&list).expect("an assignable list");
    eventually_some(DEADLINE, &format!("{user} may read {topic} or may not"), || {
        match consumer.poll(Duration::from_millis(100))? {
            Ok(_) | Err(KafkaError::PartitionEOF(_)) => Some(true),
            Err(error) if is_refusal(&error) => Some(false),
            Err(_) => None,
        }
    })
}

/// Whether a record is taken; where it is, the topic is not used any more.
fn may_write(user: &str, topic: &str) -> bool {
    let producer: BaseProducer<Delivered> = secure()
        .client(user)
        .set("message.timeout.ms", "60000")
        .create_with_context(Delivered::default())
        .expect("a valid client configuration");
    let record = BaseRecord::to(topic).partition(0).key(b"key").payload(b"not a record of the contract");
    // A topic that may not even be described is unknown to the client at once.
    if let Err((error, _)) = producer.send(record) {
        assert!(is_refusal(&error), "{error}");
        return false;
    }
    eventually_some(DEADLINE, "the broker takes the record or refuses it", || {
        producer.poll(Duration::from_millis(100));
        producer.context().0.lock().expect("no callback panicked").take()
    })
}

/// Whether records may be deleted; those below offset 0 are none.
fn may_delete(user: &str, topic: &str) -> bool {
    let admin: AdminClient<DefaultClientContext> =
        secure().client(user).create().expect("a valid client configuration");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(0)).expect("a valid offset");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let options = AdminOptions::new().request_timeout(Some(DEADLINE));
    let outcome = runtime.block_on(admin.delete_records(&list, &options));
    let outcome = outcome.and_then(|list| list.find_partition(topic, 0).expect("an answer").error());
    match outcome {
        // What is only compacted cannot be deleted by those who may either.
        Ok(()) => true,
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PolicyViolation) => true,
        // A topic that they may not even describe is none to them, and who may delete may describe.
        Err(KafkaError::AdminOp(RDKafkaErrorCode::NoEnt)) => false,
        Err(error) => {
            assert!(is_refusal(&error), "{user} deletes from {topic}: {error:?}");
            false
        }
    }
}

/// Whether transactions may be begun under this name, which fences out whoever has it.
fn may_fence(user: &str, id: &str) -> bool {
    let mut config = secure().client(user);
    let producer: BaseProducer =
        config.set("transactional.id", id).create().expect("a valid client configuration");
    match producer.init_transactions(DEADLINE) {
        Ok(()) => true,
        Err(error) => {
            let code = error.rdkafka_error_code();
            assert_eq!(code, Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed), "{user}: {error}");
            false
        }
    }
}

/// Whether the group's coordinator talks to the user at all, which it does to members.
fn may_join(user: &str, group: &str, topic: &str) -> bool {
    let mut config = secure().client(user);
    let consumer: BaseConsumer =
        config.set("group.id", group).create().expect("a valid client configuration");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, 0);
    let is_refused =
        |error: &KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed);
    eventually_some(DEADLINE, &format!("{user} may join {group} or may not"), || {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Err(error)) if is_refused(&error) => return Some(false),
            _ => {}
        }
        match consumer.committed_offsets(list.clone(), Duration::from_millis(500)) {
            Err(error) if is_refused(&error) => Some(false),
            outcome => outcome.ok().map(|_| true),
        }
    })
}

/// Whether the one record of a producer was taken.
#[derive(Default)]
struct Delivered(Mutex<Option<bool>>);

impl rdkafka::ClientContext for Delivered {}

impl rdkafka::producer::ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        let is_taken = match result {
            Ok(_) => true,
            Err((error, _)) => {
                assert!(is_refusal(error), "{error}");
                false
            }
        };
        *self.0.lock().expect("no callback panicked") = Some(is_taken);
    }
}

/// From input to production, with a proof of who it is; all that it says and shows meanwhile.
fn works_with(proof: Proof, environment: &[(&str, &str)], secret: &str) {
    let line = Line::on(secure().kafka(), "secure-proof");
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, 3_000, 3_600_000, 1, PARTITIONS));
    let line = as_user(&line, SecureKafka::ADMIN, proof)
        .set("telemetry.listen", "127.0.0.1:0")
        .set("telemetry.log_filter", "trace")
        .set("kafka.properties.debug", "security,broker,conf");
    let mut easq = Easq::start_with(line.arguments(&["run"]), environment.iter().copied());
    easq.wait_for_output("serving /healthz", DEADLINE);
    let address = easq.address();
    easq.wait_for_output("version published", DEADLINE);
    let mut shown =
        ["/metrics", "/healthz", "/readyz", "/status"].map(|path| get(&address, path).expect(path)).concat();
    shown += &answer(&address, "/nothing").map(|(_, body)| body).unwrap_or_default();
    shown += &stop(easq);
    let mut command = Easq::start_with(line.arguments(&["config", "show"]), environment.iter().copied());
    assert!(command.wait(DEADLINE).success());
    shown += &command.output();
    assert!(!shown.contains(secret), "{proof:?}: the secret is shown");
}

#[test]
fn a_password_proves_who_it_is_and_is_shown_nowhere() {
    let _held = secure();
    let password = SecureKafka::password(SecureKafka::ADMIN);
    works_with(Proof::Plain, &[(PASSWORD, &password)], &password);
    works_with(Proof::Scram, &[(PASSWORD, &password)], &password);
}

#[test]
fn a_certificate_proves_who_it_is_and_its_key_is_shown_nowhere() {
    let secure = secure();
    let (certificate, key) = secure.certificate(SecureKafka::ADMIN);
    let line_of_key = key.lines().nth(1).expect("a line of the key itself");
    works_with(Proof::Certificate, &[(CERTIFICATE, &certificate), (KEY, &key)], line_of_key);
}

/// What `easq run` says last where it is not let in.
#[track_caller]
fn refused(line: &Line, password: &str) -> String {
    let mut easq = Easq::start_with(line.arguments(&["run"]), [(PASSWORD, password)]);
    let status = easq.wait(DEADLINE);
    let output = easq.output();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(!output.contains(password), "{output}");
    output.lines().last().expect("it says why").to_owned()
}

#[test]
fn who_is_not_let_in_ends_with_the_reason_and_without_the_password() {
    let secure = secure();
    let line = Line::on(secure.kafka(), "secure-refused");
    line.create_topics(PARTITIONS);
    for proof in [Proof::Plain, Proof::Scram] {
        let last = refused(&as_user(&line, SecureKafka::ADMIN, proof), "hunter3");
        assert!(last.contains("redentials"), "{proof:?}: {last}");
    }
    let ranker = as_user(&line, "ranker", Proof::Scram);
    let last = refused(&ranker, &SecureKafka::password("ranker"));
    // Of joiner and trainer the one that was refused first speaks.
    assert!(last.contains("grant the rights") || last.contains("grant Read"), "{last}");
}

#[test]
fn a_broker_with_a_certificate_of_someone_else_is_not_talked_to() {
    let secure = secure();
    let line = Line::on(secure.kafka(), "secure-other");
    line.create_topics(PARTITIONS);
    let other = secure.other_authority_file();
    let line = as_user(&line, SecureKafka::ADMIN, Proof::Scram)
        .set("kafka.properties.ssl.ca.location", other.display());
    let password = SecureKafka::password(SecureKafka::ADMIN);
    let mut easq = Easq::start_with(line.arguments(&["run"]), [(PASSWORD, &*password)]);
    easq.wait_for_output("certificate verify failed", DEADLINE);
    easq.terminate();
    easq.wait(DEADLINE);
    assert!(!easq.output().contains(&password));
}
