use std::process::ExitCode;

use clap::Parser;
use easq::cli::Cli;

fn main() -> ExitCode {
    // Armed by the environment, in programs that were built for tests alone.
    let _failpoints = fail::has_failpoints().then(fail::FailScenario::setup);
    Cli::parse().run()
}
