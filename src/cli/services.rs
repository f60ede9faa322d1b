//! Commands that work for a while: supervised, stopped by signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime;

use super::Role;
use crate::publish::commands::{self, FollowArgs};
use crate::settings::Settings;
use crate::supervise::{Kind, Stage, SuperviseError, Supervisor};
use crate::telemetry::state::{self, Purpose};
use crate::telemetry::{self, Metrics, events};
use crate::{backfill as replay, demo as show, joiner, offline, simulate as world, trainer};

pub(super) fn run(settings: Settings, role: Role) -> Result<()> {
    let listen = Some(&settings.telemetry.listen).filter(|address| !address.is_empty());
    let endpoints = Endpoints::new(listen.map(|address| address.parse()).transpose()?)?;
    let roles = match role {
        Role::All => vec![state::Role::Joiner, state::Role::Trainer],
        Role::Joiner => vec![state::Role::Joiner],
        Role::Trainer => vec![state::Role::Trainer],
    };
    begin(&settings, "run", roles);
    let settings = Arc::new(settings);
    supervise(&settings, Some(endpoints), |supervisor| {
        if role != Role::Trainer {
            let settings = Arc::clone(&settings);
            supervisor
                .thread("joiner", Stage::Work, Kind::Service, move |stop| joiner::run(&settings, &stop))?;
        }
        if role != Role::Joiner {
            let settings = Arc::clone(&settings);
            supervisor
                .thread("trainer", Stage::Work, Kind::Service, move |stop| trainer::run(&settings, stop))?;
        }
        Ok(())
    })?;
    events::Stopped.emit();
    Ok(())
}

pub(super) fn follow(settings: Settings, args: FollowArgs, listen: Option<SocketAddr>) -> Result<()> {
    let endpoints = listen.map(|listen| Endpoints::new(Some(listen))).transpose()?;
    begin(&settings, "follow", vec![state::Role::Follower]);
    let settings = Arc::new(settings);
    supervise(&settings, endpoints, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor
            .thread("follower", Stage::Work, Kind::Job, move |stop| commands::follow(&settings, &args, &stop))
    })
}

pub(super) fn backfill(settings: Settings, args: replay::Args) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor
            .thread("backfill", Stage::Work, Kind::Job, move |stop| replay::run(&settings, &args, &stop))
    })
}

pub(super) fn simulate(settings: Settings, args: world::Args) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor.thread("simulate", Stage::Work, Kind::Job, move |stop| world::run(&settings, &args, &stop))
    })
}

pub(super) fn demo(settings: Settings, args: show::Args) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor.thread("demo", Stage::Work, Kind::Job, move |stop| show::run(&settings, &args, &stop))
    })
}

#[cfg(feature = "research")]
pub(super) fn compare(settings: Settings, args: crate::evaluate::compare::CompareArgs) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor.thread("compare", Stage::Work, Kind::Job, move |stop| {
            crate::evaluate::compare::compare(&settings, &args, &stop, &mut std::io::stdout())
        })
    })
}

#[cfg(feature = "research")]
pub(super) fn poison(settings: Settings, args: crate::evaluate::compare::PoisonArgs) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor.thread("poison", Stage::Work, Kind::Job, move |stop| {
            crate::evaluate::compare::poison(&settings, &args, &stop, &mut std::io::stdout())
        })
    })
}

pub(super) fn learn_file(settings: Settings, args: offline::Args) -> Result<()> {
    let settings = Arc::new(settings);
    supervise(&settings, None, |supervisor| {
        let settings = Arc::clone(&settings);
        supervisor.thread("train", Stage::Work, Kind::Job, move |stop| offline::run(&settings, &args, &stop))
    })
}

/// Metrics that are counted, and where they are served, if anywhere.
struct Endpoints {
    metrics: Metrics,
    listen: Option<SocketAddr>,
}

/// Says what the process is there for.
fn begin(settings: &Settings, command: &'static str, roles: Vec<state::Role>) {
    let joins = roles.contains(&state::Role::Joiner);
    let joiner_instances = if joins { settings.joiner.instances } else { 0 };
    let started = events::Started { command, roles: &roles, joiner_instances };
    started.emit();
    state::state().begin(Purpose {
        command,
        roles,
        joiner_instances,
        model: settings.model.name.clone(),
        unready_after: Duration::from_millis(settings.telemetry.unready_after_ms),
    });
}

impl Endpoints {
    fn new(listen: Option<SocketAddr>) -> Result<Self> {
        Ok(Self { metrics: telemetry::install_recorder()?, listen })
    }
}

/// Runs what `start` adds until it has ended or been stopped, with the endpoints beside it.
fn supervise(
    settings: &Settings,
    endpoints: Option<Endpoints>,
    start: impl FnOnce(&mut Supervisor) -> Result<(), SuperviseError>,
) -> Result<()> {
    // It serves HTTP and signals; the work has threads of its own.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let ended = runtime.block_on(async {
        let drain_deadline = Duration::from_millis(settings.joiner.drain_deadline_ms);
        let mut supervisor = Supervisor::new(drain_deadline);
        if let Some(Endpoints { metrics, listen }) = endpoints {
            let draining = supervisor.stop_token();
            supervisor.task("telemetry", Stage::Endpoints, Kind::Service, |stop| {
                telemetry::serve(listen, metrics, draining, stop)
            });
        }
        start(&mut supervisor)?;
        supervisor.join().await
    });
    // After a drain that was cut short something may still block: do not wait for it.
    runtime.shutdown_background();
    Ok(ended?)
}
