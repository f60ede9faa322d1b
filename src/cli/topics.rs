//! `easq topics create` and `easq topics check`.

use std::io::Write;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::kafka::topics::{CreateOptions, check, create};
use crate::settings::Settings;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum TopicsCommand {
    /// Create the topics that are missing; those that exist stay as they are.
    Create(CreateArgs),
    /// Say what is wrong with the topics, each with its remedy; exit code 1 when anything is.
    Check,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CreateArgs {
    /// Create the two input topics too.
    #[arg(long)]
    inputs: bool,
    /// Partitions where no input topic exists yet; else the outputs get as many as the inputs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of new topics [default: 3, or as many as there are brokers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
}

pub(super) fn topics(settings: &Settings, command: &TopicsCommand, out: &mut dyn Write) -> Result<()> {
    match command {
        TopicsCommand::Create(args) => {
            let options = CreateOptions {
                inputs: args.inputs,
                partitions: args.partitions,
                replicas: args.replicas.map(usize::from),
            };
            for topic in create(settings, &options)? {
                writeln!(out, "{topic}")?;
            }
        }
        TopicsCommand::Check => {
            let findings = check(settings)?;
            for finding in &findings {
                writeln!(out, "{finding}")?;
            }
            match findings.len() {
                0 => writeln!(out, "ok")?,
                1 => bail!("1 thing about the topics needs attention"),
                count => bail!("{count} things about the topics need attention"),
            }
        }
    }
    Ok(())
}
