//! Where the demo runs: its broker, its topics, its settings, its world.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::args::Args;
use super::error::DemoError;
use crate::kafka::embedded::EmbeddedBroker;
use crate::kafka::reader::LogReader;
use crate::kafka::topics::{self, CreateOptions, Created};
use crate::settings::{Settings, Topics};
use crate::simulate::WorldConfig;
use crate::supervise::StopToken;

/// Views per second of the clock: 162,000 in a minute.
const VIEWS_PER_SECOND: f64 = 2700.0;
/// Event time of the stream. Windows of 30 minutes and groups of 5 close many times within it.
const SPAN: Duration = Duration::from_secs(12 * 3600);
/// The last answers come some 20 minutes after the last views; everything has happened by now.
const ENDED_BEFORE: Duration = Duration::from_secs(30 * 60);
/// Serving versions in a run. With the checkpoint at the end their pages fit into the 5 MiB that a
/// partition of the embedded broker keeps.
const SERVING_VERSIONS: u32 = 20;
/// A view weighs less than this, in the log and in its group.
const VIEW_BYTES: u64 = 256;
/// What is put into a partition of the embedded broker on average: users are unequally active, and
/// it keeps 5 MiB.
const PARTITION_BYTES: u64 = 2 * 1024 * 1024;
const REAL_PARTITIONS: i32 = 8;
const LEADERS_WITHIN: Duration = Duration::from_secs(30);
const LEADERS_POLL: Duration = Duration::from_millis(100);

/// The broker of a run.
pub(super) enum Broker {
    Embedded(EmbeddedBroker),
    Real { address: String, run: String },
}

impl Broker {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Embedded(_) => "embedded".to_owned(),
            Self::Real { address, .. } => format!("Apache Kafka at {address}"),
        }
    }

    /// What a run on this broker does not show, and what it leaves there.
    pub(super) fn note(&self) -> String {
        match self {
            Self::Embedded(_) => {
                "This ran on an embedded broker inside the process, librdkafka's mock cluster: a happy path on \
                 one instance of each role. That broker accepts transactions without isolating them and never \
                 fails, so this run proves nothing about failure; the tests against a real Apache Kafka do that."
                    .to_owned()
            }
            Self::Real { run, .. } => format!(
                "This ran on a real broker, with one instance of each role and without failures: the tests show \
                 what happens when things break. Its topics are its own, and stay where the broker stays: all \
                 those with 'demo-{run}' in their names can be deleted."
            ),
        }
    }

    /// How many records a commit leaves behind the last record of a partition.
    pub(super) fn control_records(&self) -> i64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Real { .. } => 1,
        }
    }

    /// # Errors
    /// When the embedded broker has dropped records, so that what was read is not everything.
    pub(super) fn check_nothing_dropped(&self) -> Result<(), DemoError> {
        match self {
            Self::Embedded(broker) => Ok(broker.check_nothing_dropped()?),
            Self::Real { .. } => Ok(()),
        }
    }
}

/// Everything that is decided before the run begins.
pub(super) struct Setup {
    pub broker: Broker,
    pub settings: Settings,
    pub world: WorldConfig,
}

/// Starts the broker, or finds it, and creates the topics.
///
/// # Errors
/// When there is no broker or it does not create topics.
pub(super) fn set_up(
    base: &Settings,
    args: &Args,
    now: Timestamp,
    stop: &StopToken,
) -> Result<Setup, DemoError> {
    let mut settings = base.clone();
    settings.simulate.seed = args.seed;
    settings.model.seed = args.seed;
    let world = WorldConfig {
        views: (VIEWS_PER_SECOND * args.duration.as_secs_f64()).ceil() as u64,
        start_ms: now.as_millisecond() - millis(SPAN) - millis(ENDED_BEFORE),
        span_ms: millis(SPAN),
        ..WorldConfig::new(&settings.simulate, settings.features.schema_version)
    };
    let run = format!("{:x}", now.as_millisecond());
    fit_to_run(&mut settings, &world, args.duration, &run);
    let broker = match &args.kafka {
        Some(address) => {
            create_real_topics(&mut settings, address, stop)?;
            Broker::Real { address: address.clone(), run }
        }
        None => start_embedded(&mut settings, &world)?,
    };
    Ok(Setup { broker, settings, world })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Names that no other run uses, tables as large as the world, versions that fit the broker.
fn fit_to_run(settings: &mut Settings, world: &WorldConfig, duration: Duration, run: &str) {
    settings.topics = Topics {
        behavior: own(&settings.topics.behavior, run),
        responses: own(&settings.topics.responses, run),
        labelled_views: own(&settings.topics.labelled_views, run),
        preference_pairs: own(&settings.topics.preference_pairs, run),
        behavior_groups: own(&settings.topics.behavior_groups, run),
        late: own(&settings.topics.late, run),
        dead_letters: own(&settings.topics.dead_letters, run),
        ..settings.topics.clone()
    };
    settings.joiner.group = own(&settings.joiner.group, run);
    settings.joiner.instances = 1;
    settings.joiner.instance_id = String::new();
    settings.model.name = format!("demo-{run}");
    let rows = [world.users, world.videos, world.authors, world.topics];
    for (table, rows) in settings.features.sparse.iter_mut().zip(rows) {
        table.rows = rows as u64;
    }
    let interval = duration / SERVING_VERSIONS;
    settings.publish.interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(500);
    // The one checkpoint is that of the clean stop.
    settings.publish.checkpoint_interval_ms = 24 * 3600 * 1000;
    settings.publish.keep_versions = 1000;
    settings.publish.trim = false;
    settings.telemetry.listen = String::new();
}

fn own(name: &str, run: &str) -> String {
    format!("demo-{run}.{name}")
}

fn create_real_topics(settings: &mut Settings, address: &str, stop: &StopToken) -> Result<(), DemoError> {
    settings.kafka.bootstrap_servers = address.to_owned();
    let options = CreateOptions { inputs: true, partitions: Some(REAL_PARTITIONS), replicas: None };
    let created = topics::create(settings, &options)?;
    wait_for_leaders(settings, &created, stop)
}

/// A new topic is known before its partitions have leaders; until then whoever asks about it fails.
fn wait_for_leaders(settings: &Settings, created: &[Created], stop: &StopToken) -> Result<(), DemoError> {
    let reader = LogReader::new(&settings.kafka, "demo set-up")?;
    let began = Instant::now();
    for Created { topic, partitions, .. } in created {
        for partition in 0..*partitions {
            while let Err(error) = reader.watermarks(topic, partition) {
                if began.elapsed() > LEADERS_WITHIN {
                    return Err(error.into());
                }
                if stop.wait(LEADERS_POLL) {
                    return Err(DemoError::Interrupted);
                }
            }
        }
    }
    Ok(())
}

fn start_embedded(settings: &mut Settings, world: &WorldConfig) -> Result<Broker, DemoError> {
    let mut broker = EmbeddedBroker::start()?;
    let partitions = world.views.saturating_mul(VIEW_BYTES).div_ceil(PARTITION_BYTES).max(4);
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    let topics = &settings.topics;
    for (_, topic) in topics.partitioned() {
        broker.create_topic(topic, partitions)?;
    }
    broker.create_topic(&topics.model(&settings.model.name), 1)?;
    broker.create_topic(&topics.registry(&settings.model.name), 1)?;
    broker.connect(&mut settings.kafka);
    Ok(Broker::Embedded(broker))
}
