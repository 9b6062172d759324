//! Servers that refuse a message by ending the connection, as AWS IoT Core and others do.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::forward::{batch::Item, engine::Engine, testing::Model as Journal};

/// A server of MQTT 3.1.1 that ends the connection when `refuses` says so.
struct Closer {
    port: u16,
    /// Positions of what was taken, in order.
    taken: Arc<Plain<Vec<u64>>>,
    connections: Arc<AtomicUsize>,
}

/// Says of a topic and a payload whether the connection ends.
type Refuses = Arc<dyn Fn(&str, &[u8]) -> bool + Send + Sync>;

impl Closer {
    async fn start(refuses: impl Fn(&str, &[u8]) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closer = Self {
            port: listener.local_addr().unwrap().port(),
            taken: Arc::default(),
            connections: Arc::default(),
        };
        let (taken, connections) = (closer.taken.clone(), closer.connections.clone());
        let refuses: Refuses = Arc::new(refuses);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(stream, refuses.clone(), taken.clone()));
            }
        });
        closer
    }

    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    refuses: Refuses,
    taken: Arc<Plain<Vec<u64>>>,
) -> std::io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let (mut len, mut shift) = (0, 0);
        loop {
            let byte = stream.read_u8().await?;
            len |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await?;
        match first >> 4 {
            1 => stream.write_all(&[0x20, 2, 0, 0]).await?,
            3 => {
                let end = 2 + usize::from(body[0]) * 256 + usize::from(body[1]);
                let topic = std::str::from_utf8(&body[2..end]).unwrap();
                let payload = &body[end + 2..];
                if refuses(topic, payload) {
                    return Ok(());
                }
                let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
                let position = json["sequence"].as_str().unwrap().parse().unwrap();
                taken.lock().unwrap().push(position);
                stream
                    .write_all(&[0x40, 2, body[end], body[end + 1]])
                    .await?;
            }
            12 => stream.write_all(&[0xD0, 0]).await?,
            _ => return Ok(()),
        }
    }
}

fn at_once(port: u16) -> Mqtt {
    Mqtt {
        connect_every: Duration::ZERO,
        ..mqtt(config(port, Version::V4))
    }
}

fn run(
    journal: &Journal,
    destination: Mqtt,
) -> (
    CancellationToken,
    JoinHandle<Result<(), crate::forward::Error>>,
) {
    let (engine, _): (Engine<_, _>, _) = engine(journal, Arc::new(destination), 1_000);
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(engine.run(stop)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_devices_topic_that_ends_the_connection_stops_nobody_else() {
    const TOTAL: u64 = 210;
    let closer = Closer::start(|topic, _| topic.contains("device-3")).await;
    let journal = Journal::new();
    for position in 1..=TOTAL {
        journal.append(record(position, u8::try_from(position % 7).unwrap()));
    }
    let (stop, task) = run(&journal, at_once(closer.port));
    until(|| journal.backlog() == 0).await;
    stop.cancel();
    task.await.unwrap().unwrap();

    let is_bad = |position: &u64| position % 7 == 3;
    let dead = journal.disk.lock().unwrap().dead.clone();
    let found: Vec<u64> = dead.keys().map(|position| position.0).collect();
    assert_eq!(found, (1..=TOTAL).filter(is_bad).collect::<Vec<_>>());
    let (_, first) = &dead[&crate::record::Position(3)];
    assert!(
        first.starts_with("the server ends the connection"),
        "{first}"
    );
    let (_, last) = dead.values().last().unwrap();
    assert!(last.starts_with("not sent: "), "{last}");
    // Nobody else's is lost, and after copies are taken out each device's are in order.
    let mut taken = closer.taken();
    let mut seen = std::collections::BTreeSet::new();
    taken.retain(|position| seen.insert(*position));
    assert_eq!(taken.len(), dead.len() * 6);
    for device in 0..7 {
        let of = taken.iter().filter(|position| *position % 7 == device);
        assert!(of.is_sorted(), "order of device {device}");
    }
    // A device that is shunned costs no more connections.
    assert!(closer.connections.load(SeqCst) < 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_the_connection_is_given_up_and_its_device_goes_on() {
    let closer = Closer::start(|_, payload| payload.len() > 5_000).await;
    let journal = Journal::new();
    for position in 1..=60 {
        journal.append(match position {
            20 | 40 => large_record(position, 6_000),
            _ => record(position, 1),
        });
    }
    let (stop, task) = run(&journal, at_once(closer.port));
    until(|| journal.backlog() == 0).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    let dead = journal.disk.lock().unwrap().dead.clone();
    let dead: Vec<u64> = dead.keys().map(|position| position.0).collect();
    assert_eq!(dead, [20, 40]);
    let mut taken = closer.taken();
    let mut seen = std::collections::BTreeSet::new();
    taken.retain(|position| seen.insert(*position));
    let expect: Vec<u64> = (1..=60).filter(|p| ![20, 40].contains(p)).collect();
    assert_eq!(taken, expect);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_every_connection_is_to_blame_itself() {
    let closer = Closer::start(|_, _| true).await;
    let mqtt = at_once(closer.port);
    let items = (1..=40).map(|n| Item::check(record(n, u8::try_from(n).unwrap())).unwrap());
    let batch = Batch {
        items: items.collect(),
    };
    let refusing = loop {
        match mqtt.send(batch.clone()).await {
            // No message is given up for it.
            Ok(outcomes) => assert!(
                outcomes.iter().all(|o| matches!(o, Outcome::Unknown(_))),
                "{outcomes:?}"
            ),
            Err(error) => break error,
        }
        assert!(closer.connections.load(SeqCst) < 100);
    };
    assert!(matches!(refusing, Error::Refusing { .. }), "{refusing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_refused_before_is_found_at_its_first_end() {
    let closer = Closer::start(|topic, _| topic.contains("device-3")).await;
    let mqtt = at_once(closer.port);
    let of = |devices: [u8; 3], first: u64| Batch {
        items: (first..)
            .zip(devices)
            .map(|(position, device)| Item::check(record(position, device)).unwrap())
            .collect(),
    };
    // Until the one in the middle is given up.
    let deliver = async |batch: Batch| {
        let mut left = batch.items.to_vec();
        while !left.is_empty() {
            let batch = Batch {
                items: left.clone().into(),
            };
            let outcomes = mqtt.send(batch).await.unwrap();
            let open = left.iter().zip(&outcomes).filter(|(_, o)| o.is_open());
            left = open.map(|(item, _)| item.clone()).collect();
        }
    };
    deliver(of([1, 3, 2], 1)).await;
    let before = closer.connections.load(SeqCst);
    deliver(of([1, 3, 2], 4)).await;
    // One for all, one on which it is alone, and one for who is behind it.
    let more = closer.connections.load(SeqCst) - before;
    assert!(more <= 3, "{more}");
}
