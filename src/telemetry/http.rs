//! `/healthz`, `/readyz`, `/status` and `/metrics`, for a probe and a scraper that may be anyone who reaches the port:
//! the size and the time of a request are limited, as is the number of connections.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::exposition::Samples;
use super::partitions;
use super::recorder::{Metrics, UPKEEP_INTERVAL};
use super::state::{State, state};
use super::status::{Sources, Status};
use crate::supervise::StopToken;

/// Connections served at once. One more ends the oldest: an answer takes milliseconds, so that one is
/// of a client that lets the others wait.
const MAX_CONNECTIONS: usize = 32;
/// Request line and headers together.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// A client that has not sent its headers by then is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest life of a connection, which is one request: so a slow client does not keep its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (descriptors exhausted), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The endpoints cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "cannot serve /metrics at {address}; choose another address (telemetry.listen), or \"\" for none"
    )]
    Listen { address: SocketAddr, source: io::Error },
}

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    state: State,
    draining: StopToken,
}

/// Keeps the metrics up and, when `listen` is given, serves them until `stop`.
///
/// `GET /healthz` answers 200 while the process works and 503 from the moment `draining` stops;
/// `GET /readyz` answers 200 while every role of the process is ready, otherwise and from the drain on
/// 503 with the reasons; `GET /status` answers with what a person asks first, as JSON; `GET /metrics` answers in the Prometheus text format.
///
/// # Errors
/// [`ServeError::Listen`] when the address cannot be had.
pub async fn serve(
    listen: Option<SocketAddr>,
    metrics: Metrics,
    draining: StopToken,
    stop: StopToken,
) -> Result<(), ServeError> {
    let upkeep = upkeep(metrics.clone());
    let Some(address) = listen else {
        tokio::select! { () = upkeep => {}, () = stop.cancelled() => {} }
        return Ok(());
    };
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "serving /healthz, /readyz, /status and /metrics");
    let router = router(Shared { metrics, state: state().clone(), draining });
    tokio::select! {
        () = accept(listener, router, CONNECTION_TIMEOUT, stop.clone()) => {}
        () = upkeep => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn healthz(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    if shared.draining.is_stopped() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn readyz(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    if shared.draining.is_stopped() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    let reasons = shared.state.known().not_ready(Instant::now());
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn metrics(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

async fn status(extract::State(shared): extract::State<Shared>) -> impl IntoResponse {
    let (metrics, partitions) = (shared.metrics.render(), partitions::reports());
    let draining = shared.draining.is_stopped();
    // A copy: who asks holds up nobody who works.
    let known = shared.state.known().clone();
    let samples = Samples::parse(&metrics);
    let sources = Sources { known: &known, samples: &samples, partitions: &partitions, draining };
    ([(header::CONTENT_TYPE, "application/json")], Status::new(&sources).to_json())
}

async fn upkeep(metrics: Metrics) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn accept(listener: TcpListener, router: Router, life: Duration, stop: StopToken) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let (router, stop) = (router.clone(), stop.clone());
                let connection = tokio::spawn(async move {
                    tokio::select! {
                        _ = timeout(life, connection(stream, router)) => {}
                        () = stop.cancelled() => {}
                    }
                });
                open.push_back(connection.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Serves one connection, one request. Request bodies are never read: no route wants one, and the
/// connection of a client that sends one is closed after the answer.
async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests;
