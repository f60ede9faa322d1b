//! `easq demo`: its arguments.

use std::path::PathBuf;
use std::time::Duration;

use crate::simulate::parse_duration;

/// Show the whole line at work: a synthetic world's views and answers are joined, learned,
/// published and followed, and the published model is evaluated on lists nothing was trained on.
///
/// Everything runs in this process, on an embedded broker: a happy path, no proof of anything
/// about failure. With --kafka the same runs on a real Apache Kafka, in topics of its own.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long the world produces views and answers.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Everything random follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder for report.html and report.json; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub output: PathBuf,
    /// A real Apache Kafka to run on.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
}
