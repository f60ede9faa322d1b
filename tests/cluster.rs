//! The cluster that tests of trouble hurt does what they rely on: brokers that die and come back, and
//! a network that is cut.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::{Cluster, Door, Input, Kafka, eventually, eventually_some};
use tokio::runtime::Runtime;

const WITHIN: Duration = Duration::from_secs(60);
/// Longer than bytes take that nothing holds back.
const NOTHING_WITHIN: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A door before a server of this test, which takes connections by hand.
struct Passage {
    door: Door,
    server: TcpListener,
    address: SocketAddr,
    _network: Runtime,
}

impl Passage {
    fn new() -> Self {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        server.set_nonblocking(true).expect("a socket");
        let network = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let network = network.expect("a thread");
        let door = Door::new();
        let address = door.lead_to(server.local_addr().expect("a bound address"), &network);
        Self { door, server, address, _network: network }
    }

    fn client(&self) -> TcpStream {
        with_timeouts(TcpStream::connect(self.address).expect("a door takes connections"))
    }

    #[track_caller]
    fn accept(&self) -> TcpStream {
        let stream = eventually_some(WITHIN, "a connection comes through the door", || {
            self.server.accept().ok().map(|(stream, _)| stream)
        });
        stream.set_nonblocking(false).expect("a socket");
        with_timeouts(stream)
    }

    /// Both ends of a connection that has carried a byte.
    fn connected(&self) -> (TcpStream, TcpStream) {
        let mut client = self.client();
        client.write_all(b"?").expect("room");
        let mut server = self.accept();
        assert_eq!(read(&mut server, 1), b"?");
        (client, server)
    }
}

fn with_timeouts(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(WITHIN)).expect("a socket");
    stream.set_write_timeout(Some(WITHIN)).expect("a socket");
    stream
}

#[track_caller]
fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("the bytes arrive");
    read
}

#[track_caller]
fn nothing_arrives(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(NOTHING_WITHIN)).expect("a socket");
    let error = stream.read(&mut [0]).expect_err("neither bytes nor an end");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    stream.set_read_timeout(Some(WITHIN)).expect("a socket");
}

/// An end or a reset, not a timeout.
#[track_caller]
fn ends(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0, "bytes of a connection that should end"),
        Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{error}"),
    }
}

#[test]
fn a_door_carries_bytes_both_ways_and_the_end_of_one_way_alone() {
    let passage = Passage::new();
    let (mut client, mut server) = passage.connected();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&sent).expect("room"));
        assert!(read(&mut server, sent.len()) == sent, "other bytes, or in another order");
    });
    client.shutdown(Shutdown::Write).expect("a socket");
    ends(&mut server);
    server.write_all(b"still").expect("the way back is open");
    assert_eq!(read(&mut client, 5), b"still");
    drop(server);
    ends(&mut client);
}

#[test]
fn a_cut_holds_back_bytes_and_ends_until_it_is_mended_and_loses_none() {
    let passage = Passage::new();
    let (mut client, mut server) = passage.connected();
    passage.door.cut();
    client.write_all(b"there").expect("room");
    server.write_all(b"back").expect("room");
    let mut later = passage.client();
    later.write_all(b"later").expect("room");
    nothing_arrives(&mut server);
    nothing_arrives(&mut client);
    server.shutdown(Shutdown::Write).expect("a socket");
    nothing_arrives(&mut later);

    passage.door.mend();
    assert_eq!(read(&mut server, 5), b"there");
    assert_eq!(read(&mut client, 4), b"back");
    ends(&mut client);
    let mut of_later = passage.accept();
    assert_eq!(read(&mut of_later, 5), b"later");
}

#[test]
fn a_refused_door_ends_every_connection_even_if_it_is_mended_at_once() {
    let passage = Passage::new();
    let (mut client, mut server) = passage.connected();
    passage.door.refuse();
    passage.door.mend();
    ends(&mut client);
    ends(&mut server);
    passage.connected();
    passage.door.refuse();
    ends(&mut passage.client());
}

#[test]
fn a_door_holds_little_of_what_nobody_reads() {
    let passage = Passage::new();
    let (mut client, _server) = passage.connected();
    client.set_write_timeout(Some(NOTHING_WITHIN)).expect("a socket");
    let chunk = [0; 1 << 16];
    let mut taken = 0;
    let error: io::Error = loop {
        match client.write(&chunk) {
            Ok(bytes) => taken += bytes,
            Err(error) => break error,
        }
        // Sockets' own buffers come to a few MB.
        assert!(taken < 64 << 20, "{taken} bytes were taken that nobody reads");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

#[test]
fn a_door_carries_hundreds_of_connections_at_a_time() {
    let passage = Passage::new();
    let mut connections: Vec<_> = (0..300).map(|_| passage.connected()).collect();
    for (number, (client, server)) in connections.iter_mut().enumerate() {
        let text = format!("{number:03}");
        server.write_all(text.as_bytes()).expect("room");
        assert_eq!(read(client, 3), text.as_bytes());
    }
}

#[test]
fn a_server_that_is_not_there_ends_the_connection() {
    let Passage { door: _door, server, address, _network } = Passage::new();
    drop(server);
    ends(&mut with_timeouts(TcpStream::connect(address).expect("a door takes connections")));
}

fn behind(bootstrap: &str) -> BaseConsumer {
    Kafka::at(bootstrap, 1).client().create().expect("a valid client configuration")
}

fn answers(client: &BaseConsumer) -> bool {
    client.fetch_metadata(None, REQUEST_TIMEOUT).is_ok()
}

fn record(text: &str) -> Input {
    Input::new("key", text, 1_000_000)
}

#[track_caller]
fn holds(cluster: &Cluster, topic: &str, expected: &[&str]) {
    let records = cluster.kafka().read_to_end(topic);
    let texts: Vec<_> = records.iter().map(|record| record.payload.as_deref().expect("a payload")).collect();
    assert_eq!(texts, expected.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
}

#[test]
fn a_broker_comes_back_with_its_records_and_each_door_is_a_way_of_its_own() {
    let cluster = Cluster::start(1, 2);
    let kafka = cluster.kafka();
    kafka.create_topic("log", 1);
    kafka.produce("log", &[record("first")]);

    let clients = [behind(cluster.door(0)), behind(cluster.door(1))];
    eventually(WITHIN, "both ways are open", || clients.iter().all(answers));
    let metadata = clients[0].fetch_metadata(None, WITHIN).expect("an open door");
    let broker = &metadata.brokers()[0];
    assert_eq!(format!("{}:{}", broker.host(), broker.port()), cluster.door(0), "it stays on its way");
    cluster.cut(0);
    assert!(!answers(&clients[0]));
    eventually(WITHIN, "the other way is open", || answers(&clients[1]));
    cluster.mend(0);
    eventually(WITHIN, "the way is open again", || answers(&clients[0]));
    cluster.pause(0);
    assert!(!answers(&clients[1]));
    cluster.resume(0);
    eventually(WITHIN, "the broker goes on", || answers(&clients[1]));

    cluster.kill(0);
    cluster.restart(0);
    cluster.until_in_sync();
    kafka.produce("log", &[record("second")]);
    cluster.fill_disk(0);
    let producer: BaseProducer =
        kafka.client().set("enable.idempotence", "true").create().expect("a valid configuration");
    producer.send(BaseRecord::<(), str>::to("log").payload("third")).expect("room in the queue");
    assert!(!cluster.reap(0).success(), "a broker without a disk ends itself");
    cluster.restart(0);
    producer.flush(WITHIN).expect("what the disk had no room for is sent again");
    cluster.stop(0);
    cluster.restart(0);
    cluster.until_in_sync();
    holds(&cluster, "log", &["first", "second", "third"]);
}

#[test]
fn two_of_three_brokers_go_on_and_the_third_catches_up() {
    let cluster = Cluster::start(3, 1);
    let kafka = cluster.kafka();
    kafka.create_topic("log", 3);
    let metadata = behind(cluster.door(0)).fetch_metadata(None, WITHIN).expect("an open door");
    let advertised: Vec<_> =
        metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
    let mut through: Vec<_> = cluster.door(0).split(',').collect();
    assert!(advertised.iter().all(|address| through.contains(&address.as_str())), "{advertised:?}");
    through.sort_unstable();
    through.dedup();
    assert_eq!(through.len(), 3);

    let mut input = record("before");
    input.partition = Some(0);
    kafka.produce("log", &[input.clone()]);
    cluster.kill(1);
    input.payload = Some(b"without".to_vec());
    kafka.produce("log", &[input.clone()]);
    holds(&cluster, "log", &["before", "without"]);
    cluster.restart(1);
    cluster.until_in_sync();
    cluster.stop(0);
    input.payload = Some(b"with".to_vec());
    kafka.produce("log", &[input]);
    holds(&cluster, "log", &["before", "without", "with"]);
}
