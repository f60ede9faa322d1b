use std::process::ExitCode;

use clap::Parser;
use easq::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
