use super::*;
use crate::telemetry::state::{Purpose, Role, TrainerState};
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OnceCell;

/// The recorder is global to the process, so the tests share it.
static METRICS: OnceCell<Metrics> = OnceCell::const_new();

async fn served() -> (SocketAddr, StopToken, StopToken) {
    served_in(State::default()).await
}

async fn served_in(state: State) -> (SocketAddr, StopToken, StopToken) {
    let metrics = METRICS
        .get_or_init(|| async { crate::telemetry::install_recorder().expect("installed once") })
        .await
        .clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (draining, stop) = (StopToken::new(), StopToken::new());
    let router = router(Shared { metrics, state, draining: draining.clone() });
    tokio::spawn(accept(listener, router, CONNECTION_TIMEOUT, stop.clone()));
    (address, draining, stop)
}

/// Sends `request` and reads until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn healthz_turns_from_ok_to_draining() {
    let (address, draining, _stop) = served().await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(exchange(address, request).await.starts_with("HTTP/1.1 200"));
    draining.stop();
    let answer = exchange(address, request).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"), "{answer}");
}

#[tokio::test]
async fn readyz_is_unready_until_told_otherwise_and_again_while_draining() {
    let state = State::default();
    state.begin(Purpose { roles: vec![Role::Trainer], ..Purpose::default() });
    let (address, draining, _stop) = served_in(state.clone()).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request("/readyz").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("who owns the model\n"), "{answer}");
    assert!(exchange(address, request("/healthz").as_bytes()).await.starts_with("HTTP/1.1 200"));
    state.trainer_is(TrainerState::StandingBy);
    assert!(exchange(address, request("/readyz").as_bytes()).await.starts_with("HTTP/1.1 200"));
    draining.stop();
    assert!(exchange(address, request("/readyz").as_bytes()).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn metrics_are_served_with_their_help() {
    let (address, _draining, _stop) = served().await;
    crate::telemetry::events::Started { command: "test", roles: &[], joiner_instances: 0 }.emit();
    let answer = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("# HELP easq_build_info"), "{answer}");
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
}

#[tokio::test]
async fn anything_but_get_is_refused_and_its_body_is_not_read() {
    let (address, _draining, _stop) = served().await;
    for path in ["/healthz", "/readyz", "/status", "/metrics"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc");
            let answer = exchange(address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 405"), "{method} {path}: {answer}");
        }
    }
    let unknown = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
}

#[tokio::test]
async fn status_is_json_and_follows_the_drain() {
    let state = State::default();
    state.begin(Purpose { command: "run", roles: vec![Role::Trainer], ..Purpose::default() });
    state.trainer_is(TrainerState::Training);
    let (address, draining, _stop) = served_in(state).await;
    let request = b"GET /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for is_draining in [false, true] {
        let answer = exchange(address, request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
        let status: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&status["draining"], &status["ready"]), (&is_draining.into(), &(!is_draining).into()));
        draining.stop();
    }
}

#[tokio::test]
async fn clients_that_send_nothing_keep_no_place_from_one_that_asks() {
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let (address, _draining, _stop) = served().await;
    let mut held = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&REQUEST[..REQUEST.len() / 2]).await.unwrap();
        held.push(stream);
    }
    let answer = timeout(HEADER_TIMEOUT / 2, exchange(address, REQUEST)).await;
    assert!(answer.expect("an answer before the others have to end").contains("200 OK"));
    // Of all that came, so many are served and the others are ended.
    let mut rest = Vec::new();
    let ended = timeout(HEADER_TIMEOUT / 2, held[0].read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "more connections are open than there are places");
}

#[tokio::test]
async fn a_connection_ends_with_the_answer_whether_its_client_asks_for_that_or_not() {
    let (address, _draining, _stop) = served().await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    // Kept alive, it would be closed when no other request comes.
    let answer = timeout(HEADER_TIMEOUT * 3 / 4, exchange(address, request)).await;
    assert!(answer.expect("the connection was kept").ends_with("ok\n"));
}

#[tokio::test]
async fn a_connection_lives_no_longer_than_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/never", get(std::future::pending::<StatusCode>));
    tokio::spawn(accept(listener, router, Duration::from_millis(50), StopToken::new()));
    let asked = exchange(address, b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = timeout(CONNECTION_TIMEOUT, asked).await;
    assert_eq!(answer.expect("the connection was not ended"), "");
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let (address, _draining, _stop) = served().await;
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEADER_BYTES));
    assert!(exchange(address, request.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_stop_ends_open_connections() {
    let (address, _draining, stop) = served().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    stop.stop();
    let mut rest = Vec::new();
    // Left alone, a connection without a whole request would be closed a little later.
    let closed = timeout(HEADER_TIMEOUT * 3 / 4, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection outlived the stop");
}
