//! TCP proxies between clients and brokers: a network that a test can cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What a direction of a connection holds at most, apart from the kernel's own buffers.
const BUFFER_BYTES: usize = 16 << 10;
/// Without descriptors for another connection, others have to end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A way from clients to servers. All its connections flow, stand still or end together.
pub struct Door {
    state: watch::Sender<State>,
    /// Bytes from servers to clients.
    sent: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    flow: Flow,
    /// A connection made before the last of these has to end, also when it comes to look only after
    /// the door is open again.
    refusals: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Cut,
    Refused,
}

impl Door {
    /// An open door that leads nowhere yet.
    pub fn new() -> Self {
        let state = watch::Sender::new(State { flow: Flow::Open, refusals: 0 });
        Self { state, sent: Arc::default() }
    }

    /// Leads a port of its own to `server`, for as long as the runtime lasts.
    pub fn lead_to(&self, server: SocketAddr, network: &Runtime) -> SocketAddr {
        let bound = network.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = bound.local_addr().expect("a bound address");
        network.spawn(serve(bound, server, self.state.subscribe(), Arc::clone(&self.sent)));
        address
    }

    /// Bytes that servers have sent to clients so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes stop flowing both ways. Connections stay open, and new ones are accepted but lead
    /// nowhere: neither side learns of it but by waiting.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.flow = Flow::Cut);
    }

    /// Every connection ends, and every new one at once.
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.flow = Flow::Refused;
            state.refusals += 1;
        });
    }

    /// Bytes flow again, those first that a cut has held back.
    pub fn mend(&self) {
        self.state.send_modify(|state| state.flow = Flow::Open);
    }
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    state: watch::Receiver<State>,
    sent: Arc<AtomicU64>,
) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(connect(client, server, state.clone(), Arc::clone(&sent)))),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Carries one connection to its end. Dropping what is left of it closes both sides.
async fn connect(client: TcpStream, server: SocketAddr, state: watch::Receiver<State>, sent: Arc<AtomicU64>) {
    let accepted = *state.borrow();
    let mut of_refusal = state.clone();
    let refused =
        of_refusal.wait_for(|state| state.flow == Flow::Refused || state.refusals > accepted.refusals);
    tokio::select! {
        biased;
        _ = refused => {}
        // A connection that fails ends on both sides, which is all there is to say of it.
        _ = exchange(client, server, state, sent) => {}
    }
}

async fn exchange(
    client: TcpStream,
    server: SocketAddr,
    mut state: watch::Receiver<State>,
    sent: Arc<AtomicU64>,
) -> io::Result<()> {
    let is_open = state.wait_for(|state| state.flow == Flow::Open).await.is_ok();
    if !is_open {
        return Ok(());
    }
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = Way::new(from_client, to_server, Arc::default());
    let back = Way::new(from_server, to_client, sent);
    tokio::try_join!(there.carry(state.clone()), back.carry(state))?;
    Ok(())
}

/// One direction of a connection.
struct Way {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    buffer: Box<[u8]>,
    /// What of the buffer was read and is still to be written.
    held: std::ops::Range<usize>,
    /// Counts what was written.
    sent: Arc<AtomicU64>,
}

impl Way {
    fn new(from: OwnedReadHalf, to: OwnedWriteHalf, sent: Arc<AtomicU64>) -> Self {
        Self { from, to, buffer: vec![0; BUFFER_BYTES].into(), held: 0..0, sent }
    }

    /// Carries bytes while the door is open, until this direction's end, which is passed on: the
    /// other direction may go on.
    async fn carry(mut self, mut state: watch::Receiver<State>) -> io::Result<()> {
        loop {
            let is_open = state.borrow_and_update().flow == Flow::Open;
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return Ok(()) },
                more = self.step(), if is_open => if !more? { return self.to.shutdown().await },
            }
        }
    }

    /// Reads or writes once; `false` at the end. Can be dropped on the way: what was read is held.
    async fn step(&mut self) -> io::Result<bool> {
        if self.held.is_empty() {
            self.held = 0..self.from.read(&mut self.buffer).await?;
            return Ok(!self.held.is_empty());
        }
        let written = self.to.write(&self.buffer[self.held.clone()]).await?;
        self.held.start += written;
        self.sent.fetch_add(written as u64, Ordering::Relaxed);
        Ok(true)
    }
}
