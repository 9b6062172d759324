//! A tiny MQTT server for tests: raw TCP, packets taken apart by hand, every
//! answer decided by the test. It shares nothing with the codecs that the
//! simulator uses.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// A publish as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    /// Counts connections from 0, in the order in which they were accepted.
    pub(crate) connection: usize,
    pub(crate) client: String,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) properties: HashMap<String, String>,
}

impl Publish {
    /// The identity, from the user property or the JSON field.
    pub(crate) fn id(&self) -> Option<String> {
        let json = || serde_json::from_slice::<serde_json::Value>(&self.payload).ok();
        self.properties
            .get("idempotency-key")
            .cloned()
            .or_else(|| Some(json()?.get("id")?.as_str()?.to_owned()))
    }

    /// The device's counter.
    pub(crate) fn seq(&self) -> Option<u64> {
        serde_json::from_slice::<serde_json::Value>(&self.payload).ok()?["seq"].as_u64()
    }
}

/// What the server does about a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// PUBACK, or PUBREC and later PUBCOMP.
    Ack,
    /// The same with an MQTT 5 reason.
    Reason(u8),
    /// PUBREC, and no PUBCOMP to the PUBREL that follows.
    Half,
    Nothing,
    /// Closes the connection.
    Drop,
    /// An acknowledgement of a packet that was never sent.
    Nonsense,
}

type Script = dyn Fn(&Publish) -> Answer + Send + Sync;

struct Shared {
    script: Box<Script>,
    publishes: Mutex<Vec<Publish>>,
    connections: Mutex<Vec<TcpStream>>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    receive_max: Option<u16>,
    stopped: AtomicBool,
    torn: AtomicU64,
}

/// A client's place: a new connection takes it over when the old one has ended.
#[derive(Default)]
struct Client {
    stream: Mutex<Option<TcpStream>>,
    serving: Mutex<()>,
}

/// The server; its threads end when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port of its own.
    pub(crate) fn start(script: impl Fn(&Publish) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap(), None, script)
    }

    /// Listens where it is told to, and announces a Receive Maximum to MQTT 5 clients.
    pub(crate) fn listen(
        address: SocketAddr,
        receive_max: Option<u16>,
        script: impl Fn(&Publish) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            publishes: Mutex::default(),
            connections: Mutex::default(),
            clients: Mutex::default(),
            receive_max,
            stopped: AtomicBool::new(false),
            torn: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                accepting
                    .connections
                    .lock()
                    .unwrap()
                    .push(stream.try_clone().unwrap());
                let serving = Arc::clone(&accepting);
                // It ends with its connection, which `drop` closes.
                std::thread::spawn(move || {
                    let closing = stream.try_clone().unwrap();
                    serve(&serving, stream, number);
                    // `connections` still holds it open.
                    drop(closing.shutdown(std::net::Shutdown::Both));
                });
            }
        });
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Everything received so far, in order of arrival.
    pub(crate) fn publishes(&self) -> Vec<Publish> {
        self.shared.publishes.lock().unwrap().clone()
    }

    /// Connections that ended in the middle of a packet.
    pub(crate) fn torn(&self) -> u64 {
        self.shared.torn.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(std::net::Shutdown::Both));
        }
        self.acceptor.take().unwrap().join().unwrap();
    }
}

fn serve(shared: &Shared, mut stream: TcpStream, number: usize) {
    let Some((_, connect)) = packet(&mut stream, &shared.torn) else {
        return;
    };
    // Name, level, flags, keep-alive.
    let v5 = connect[6] == 5;
    let mut at = 10;
    if v5 {
        at += 1 + usize::from(connect[10]);
    }
    let client = String::from_utf8(text(&connect, &mut at).to_vec()).unwrap();
    let place = Arc::clone(
        shared
            .clients
            .lock()
            .unwrap()
            .entry(client.clone())
            .or_default(),
    );
    if let Some(old) = place
        .stream
        .lock()
        .unwrap()
        .replace(stream.try_clone().unwrap())
    {
        // What it has received is still served.
        drop(old.shutdown(std::net::Shutdown::Both));
    }
    let _serving = place.serving.lock().unwrap();
    let connack: &[u8] = match (v5, shared.receive_max) {
        (false, _) => &[0x20, 2, 0, 0],
        (true, None) => &[0x20, 3, 0, 0, 0],
        (true, Some(max)) => &[0x20, 6, 0, 0, 3, 0x21, (max >> 8) as u8, max as u8],
    };
    if stream.write_all(connack).is_err() {
        return;
    }
    let mut half = false;
    while let Some((header, body)) = packet(&mut stream, &shared.torn) {
        let answer = match header >> 4 {
            3 => {
                let publish = publish(header, &body, v5, number, &client);
                let answer = (shared.script)(&publish);
                shared.publishes.lock().unwrap().push(publish.clone());
                let [high, low] = publish.packet_id.to_be_bytes();
                let kind = if publish.qos == 2 { 0x50 } else { 0x40 };
                half |= answer == Answer::Half;
                match answer {
                    Answer::Drop => return,
                    Answer::Nothing => vec![],
                    _ if publish.qos == 0 => vec![],
                    Answer::Ack | Answer::Half => vec![kind, 2, high, low],
                    Answer::Reason(reason) => vec![kind, 3, high, low, reason],
                    Answer::Nonsense => vec![kind, 2, 0xff, 0xff],
                }
            }
            6 if half => vec![],
            6 => vec![0x70, 2, body[0], body[1]],
            12 => vec![0xd0, 0],
            14 => return,
            other => panic!("a device sent packet type {other}"),
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// The next packet: first byte and body; `None` at the end, and `torn` counts
/// when that is in the middle of one.
fn packet(stream: &mut TcpStream, torn: &AtomicU64) -> Option<(u8, Vec<u8>)> {
    let mut header = [0];
    stream.read_exact(&mut header).ok()?;
    let rest = rest_of_packet(stream);
    if rest.is_err() {
        torn.fetch_add(1, Ordering::SeqCst);
    }
    Some((header[0], rest.ok()?))
}

fn rest_of_packet(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut byte = [0];
    let mut length = 0;
    for shift in 0..4 {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << (7 * shift);
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn publish(header: u8, body: &[u8], v5: bool, connection: usize, client: &str) -> Publish {
    let qos = (header >> 1) & 3;
    let mut at = 0;
    let topic = text(body, &mut at);
    assert_eq!(topic, format!("devices/{client}/telemetry").as_bytes());
    let packet_id = if qos > 0 { number(body, &mut at) } else { 0 };
    assert_eq!(packet_id == 0, qos == 0);
    let mut properties = HashMap::new();
    if v5 {
        let end = at + 1 + usize::from(body[at]);
        assert!(body[at] < 0x80, "the tests have short properties");
        at += 1;
        while at < end {
            assert_eq!(body[at], 0x26, "user property");
            at += 1;
            let name = String::from_utf8(text(body, &mut at).to_vec()).unwrap();
            let value = String::from_utf8(text(body, &mut at).to_vec()).unwrap();
            properties.insert(name, value);
        }
    }
    Publish {
        connection,
        client: client.to_owned(),
        qos,
        dup: header & 8 != 0,
        packet_id,
        payload: body[at..].to_vec(),
        properties,
    }
}

fn number(body: &[u8], at: &mut usize) -> u16 {
    let number = u16::from_be_bytes([body[*at], body[*at + 1]]);
    *at += 2;
    number
}

fn text<'a>(body: &'a [u8], at: &mut usize) -> &'a [u8] {
    let length = usize::from(number(body, at));
    let start = *at;
    *at += length;
    &body[start..*at]
}
