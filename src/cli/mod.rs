//! The command line: arguments, settings, telemetry, and the command that they name.

mod exit;
mod services;
mod status;
mod topics;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::status::StatusArgs;
use self::topics::TopicsCommand;
use crate::evaluate::{EvaluateArgs, evaluate};
use crate::kafka::client::property_fault;
use crate::publish::commands::{FollowArgs, ModelCommand, ScoreArgs, model, score};
use crate::settings::{self, LogFormat, Settings, Sources};
use crate::supervise::StopToken;
use crate::telemetry::{events, init_logging};
use crate::train::end_process;
use crate::{backfill, demo, offline, simulate};

/// Learn, online, a ranking model that is aligned with satisfaction questionnaires: two Kafka
/// streams in, a model in Kafka out.
// No Debug: overrides may hold secrets.
#[derive(Parser)]
#[command(name = "easq", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Settings in TOML, over the built-in defaults.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over those of the file and of the environment (EASQ__SECTION__KEY).
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Log lines as text or JSON [default: telemetry.log_format].
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Subcommand)]
enum Command {
    /// Join, train and publish until SIGTERM or Ctrl-C.
    Run(RunArgs),
    Backfill(backfill::Args),
    Simulate(simulate::Args),
    Demo(demo::Args),
    Train(offline::Args),
    Evaluate(EvaluateCommand),
    #[cfg(feature = "research")]
    Poison(crate::evaluate::compare::PoisonArgs),
    Score(ScoreArgs),
    Follow(FollowCommand),
    Status(StatusArgs),
    /// Look at the versions of the model.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Prepare the topics.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Args)]
struct RunArgs {
    /// What this process does; between the roles there is only Kafka.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Train on although offsets that come next are gone, and record the gap (train.gap = "accept").
    #[arg(long)]
    accept_gap: bool,
}

#[derive(Args)]
struct FollowCommand {
    #[command(flatten)]
    args: FollowArgs,
    /// Serve /healthz, /readyz (200 once DIR/current is there), /status and /metrics here; `easq run` does it
    /// at telemetry.listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// Measure a model, or the method against its baselines.
#[derive(Args)]
struct EvaluateCommand {
    #[command(flatten)]
    of_model: Option<EvaluateArgs>,
    /// Train the method, its baselines and ablations on the synthetic world, and rank them.
    #[cfg(feature = "research")]
    #[arg(long, conflicts_with = "model")]
    compare: bool,
    #[cfg(feature = "research")]
    #[command(flatten, next_help_heading = "With --compare")]
    comparison: crate::evaluate::compare::CompareArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    All,
    Joiner,
    Trainer,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the settings in effect as TOML, secrets redacted.
    Show,
    /// Say whether the settings are right, and if not, everything that is wrong.
    Check,
}

impl Cli {
    /// Does what the arguments say; a failure is reported on stderr.
    pub fn run(self) -> ExitCode {
        let (result, format) = match settings::load(&self.sources(), property_fault) {
            Ok(settings) => {
                let format = settings.telemetry.log_format;
                (self.dispatch(settings), format)
            }
            // They are for the person who starts the program, line by line.
            Err(faults) => (Err(faults.into()), LogFormat::Text),
        };
        let Err(error) = result else { return ExitCode::SUCCESS };
        let (text, exit_code) = (exit::in_one_line(&error), exit::code(&error));
        match format {
            LogFormat::Text => eprintln!("easq: {text}"),
            LogFormat::Json => events::Failed { error: &text, exit_code }.emit(),
        }
        if exit::leaves_threads(&error) {
            end_process(exit_code);
        }
        ExitCode::from(exit_code)
    }

    fn dispatch(self, settings: Settings) -> Result<()> {
        if let Command::Config(command) = &self.command {
            return printed(|out| config(&settings, command, out));
        }
        init_logging(&settings.telemetry)?;
        match self.command {
            Command::Run(args) => services::run(settings, args.role),
            Command::Backfill(args) => services::backfill(settings, args),
            Command::Simulate(args) => services::simulate(settings, args),
            Command::Demo(args) => services::demo(settings, args),
            Command::Train(args) => services::learn_file(settings, args),
            #[cfg(feature = "research")]
            Command::Evaluate(command) if command.compare => services::compare(settings, command.comparison),
            #[cfg(feature = "research")]
            Command::Poison(args) => services::poison(settings, args),
            Command::Evaluate(command) => {
                let args = command.of_model.expect("required but for a comparison");
                printed(|out| Ok(evaluate(&settings, &args, out)?))
            }
            Command::Follow(command) => services::follow(settings, command.args, command.listen),
            Command::Status(args) => printed(|out| status::status(&settings, &args, out)),
            Command::Score(args) => printed(|out| Ok(score(&settings, &args, out)?)),
            Command::Model(command) => {
                // Signals end it as they end any program that only reads.
                printed(|out| Ok(model(&settings, &command, &StopToken::new(), out)?))
            }
            Command::Topics(command) => printed(|out| topics::topics(&settings, &command, out)),
            Command::Config(_) => unreachable!("answered above"),
        }
    }

    fn sources(&self) -> Sources {
        let mut overrides = self.global.set.clone();
        match self.global.log_format {
            Some(LogFormat::Text) => overrides.push("telemetry.log_format=text".to_owned()),
            Some(LogFormat::Json) => overrides.push("telemetry.log_format=json".to_owned()),
            None => {}
        }
        if matches!(self.command, Command::Run(RunArgs { accept_gap: true, .. })) {
            overrides.push("train.gap=accept".to_owned());
        }
        if matches!(self.command, Command::Demo(_)) {
            // Its progress is what a person wants to see; --set still has the last word.
            overrides.insert(0, "telemetry.log_filter=warn,librdkafka=error".to_owned());
        }
        Sources::of_process(self.global.config.clone(), overrides)
    }
}

fn config(settings: &Settings, command: &ConfigCommand, out: &mut dyn Write) -> Result<()> {
    match command {
        ConfigCommand::Show => write!(out, "{}", settings::show(settings))?,
        ConfigCommand::Check => writeln!(out, "ok")?,
    }
    Ok(())
}

/// Runs a command whose result is what it prints. A reader that has seen enough (`| head`) ends it
/// without an error.
fn printed(command: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    match command(&mut out).and_then(|()| Ok(out.flush()?)) {
        Err(error) if exit::is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}
