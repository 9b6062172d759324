//! Against a real server: `PENSTOCK_NATS_SERVER`, or `nats-server` in `PATH`.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use async_nats::jetstream::{self, stream::Config as StreamConfig};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::forward::testing::{Model, batch, engine, record};

/// A server with JetStream on a directory; killed when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Server {
    /// `None`, loudly, where there is no server to run.
    fn start(test: &str) -> Option<Self> {
        Self::configured(test, "")
    }

    /// The same, with more in its configuration.
    fn configured(test: &str, configuration: &str) -> Option<Self> {
        let program = program();
        let found = Command::new(&program).arg("--version").output().is_ok();
        if !found {
            let required = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
            assert!(
                !required("CI") && !required("PENSTOCK_REQUIRE_TOOLS"),
                "no nats-server, and tests that need one must not be skipped here"
            );
            eprintln!("SKIPPED: {test}: no nats-server");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("nats.conf"), configuration).unwrap();
        let (process, address) = run(&dir, "-1");
        Some(Self {
            process,
            address,
            dir,
        })
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts again on what was kept, at the same address.
    fn restart(&mut self) {
        (self.process, self.address) = run(&self.dir, &self.address.port().to_string());
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    /// Positions of all messages of the stream, as its sequence has them.
    async fn positions(&self) -> Vec<u64> {
        let stream = self
            .jetstream()
            .await
            .get_stream("TELEMETRY")
            .await
            .unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut positions = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            positions.push(json["sequence"].as_str().unwrap().parse().unwrap());
        }
        positions
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn program() -> PathBuf {
    std::env::var_os("PENSTOCK_NATS_SERVER").map_or_else(|| "nats-server".into(), PathBuf::from)
}

fn run(dir: &TempDir, port: &str) -> (Child, SocketAddr) {
    let mut process = Command::new(program())
        .args([
            "--jetstream",
            "--addr",
            "127.0.0.1",
            "--port",
            port,
            "--store_dir",
        ])
        .arg(dir.path())
        .arg("--config")
        .arg(dir.path().join("nats.conf"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut address = None;
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((_, at)) = line.split_once("Listening for client connections on ") {
            address = Some(at.trim().parse().unwrap());
        }
        if line.ends_with("Server is ready") {
            break;
        }
    }
    // The server must not fill a pipe that nobody reads.
    std::thread::spawn(move || lines.for_each(drop));
    (process, address.expect("the server says where it listens"))
}

fn config(url: String) -> Config {
    Config {
        timeout: Duration::from_secs(2),
        subject: "telemetry.{device}".to_owned(),
        ..Config::new(vec![url], "TELEMETRY")
    }
}

fn nats(config: Config) -> Nats {
    Nats::new(config, Duration::from_secs(1)).unwrap()
}

fn all_acknowledged(outcomes: &Outcomes) -> bool {
    let all = |outcomes: &Vec<Outcome>| outcomes.iter().all(|o| *o == Outcome::Acknowledged);
    outcomes.as_ref().is_ok_and(all)
}

#[tokio::test]
async fn the_same_batch_sent_again_is_kept_once() {
    let Some(server) = Server::start("the_same_batch_sent_again_is_kept_once") else {
        return;
    };
    let nats = nats(config(server.url()));
    for _ in 0..2 {
        assert!(all_acknowledged(&nats.send(batch(1..=300)).await));
    }
    assert_eq!(server.positions().await, (1..=300).collect::<Vec<_>>());
    let stream = server
        .jetstream()
        .await
        .get_stream("TELEMETRY")
        .await
        .unwrap();
    let message = stream.get_raw_message(1).await.unwrap();
    let header = |name: &str| message.headers.get(name).unwrap().to_string();
    assert_eq!(header("content-type"), "application/cloudevents+json");
    assert_eq!(header("Nats-Msg-Id"), record(1, 1).key.to_string());
    assert_eq!(message.subject.as_str(), "telemetry.device-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_again_and_again_keeps_everything_once_and_in_order() {
    const TOTAL: u64 = 20_000;
    let Some(mut server) = Server::start("a_server_killed_again_and_again...") else {
        return;
    };
    let model = Model::new();
    let destination = Arc::new(nats(config(server.url())));
    let (engine, _) = engine(&model, destination, 20);
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    for position in 1..=TOTAL {
        model.append(record(position, u8::try_from(position % 7).unwrap()));
        if position % (TOTAL / 4) == 0 {
            let delivered = model.disk.lock().unwrap().delivered;
            server.kill();
            server.restart();
            until(|| model.disk.lock().unwrap().delivered > delivered).await;
        }
    }
    until(|| model.backlog() == 0).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    let mut positions = server.positions().await;
    let of = |device: u64| positions.iter().filter(move |p| *p % 7 == device);
    for device in 0..7 {
        assert!(of(device).is_sorted(), "order of device {device}");
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=TOTAL).collect::<Vec<_>>());
    assert!(model.disk.lock().unwrap().dead.is_empty());
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("it happens within a minute");
}

#[tokio::test]
async fn what_only_a_person_can_put_right_is_said_at_once() {
    let Some(server) = Server::start("what_only_a_person_can_put_right_is_said_at_once") else {
        return;
    };
    let misconfigured =
        async |config: Config, expect: &str| match nats(config).send(batch([1])).await {
            Err(Error::Misconfigured(reason)) => {
                assert!(reason.contains(expect), "{reason}");
            }
            other => panic!("{other:?}"),
        };
    let missing = Config {
        create_stream: false,
        ..config(server.url())
    };
    misconfigured(missing, "stream not found").await;
    let elsewhere = StreamConfig {
        name: "TELEMETRY".to_owned(),
        subjects: vec!["other.>".to_owned()],
        ..StreamConfig::default()
    };
    server
        .jetstream()
        .await
        .create_stream(elsewhere)
        .await
        .unwrap();
    misconfigured(config(server.url()), "does not cover").await;
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcomes = nats(config(format!("nats://{address}")))
        .send(batch([1]))
        .await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn with_a_dictionary_messages_say_so_and_are_deduplicated_as_ever() {
    let Some(server) =
        Server::start("with_a_dictionary_messages_say_so_and_are_deduplicated_as_ever")
    else {
        return;
    };
    let dictionary = crate::dictionary::tests::dictionary();
    let known = crate::dictionary::Known::new(std::slice::from_ref(&dictionary)).unwrap();
    let with = Config {
        dictionary: Some(dictionary.clone()),
        ..config(server.url())
    };
    assert!(all_acknowledged(
        &nats(with.clone()).send(batch(1..=5)).await
    ));
    assert!(all_acknowledged(&nats(with).send(batch(4..=6)).await));
    let stream = server.jetstream().await;
    let stream = stream.get_stream("TELEMETRY").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 6);
    for sequence in 1..=6 {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let encoding = message.headers.get("content-encoding").unwrap();
        assert_eq!(encoding.as_str(), "zstd");
        let mut inflated = Vec::with_capacity(64 * 1024);
        let size = known.inflate(dictionary.id(), &message.payload, &mut inflated);
        assert!(message.payload.len() < size.unwrap().unwrap());
        let json: serde_json::Value = serde_json::from_slice(&inflated).unwrap();
        assert_eq!(json["sequence"], format!("{sequence:020}"));
    }
}

#[tokio::test]
async fn a_full_stream_throttles_and_goes_on_when_there_is_room() {
    let Some(server) = Server::start("a_full_stream_throttles_and_goes_on_when_there_is_room")
    else {
        return;
    };
    let small = StreamConfig {
        name: "TELEMETRY".to_owned(),
        subjects: vec!["telemetry.*".to_owned()],
        max_messages: 3,
        discard: jetstream::stream::DiscardPolicy::New,
        duplicate_window: Duration::from_secs(60),
        ..StreamConfig::default()
    };
    let mut stream = server
        .jetstream()
        .await
        .create_stream(small.clone())
        .await
        .unwrap();
    let nats = nats(config(server.url()));
    let outcomes = nats.send(batch(1..=5)).await.unwrap();
    assert_eq!(outcomes[2], Outcome::Acknowledged);
    assert_eq!(outcomes[3], Outcome::Throttled { retry_after: None });
    stream.purge().await.unwrap();
    assert!(all_acknowledged(&nats.send(batch(4..=5)).await));
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn a_message_above_the_largest_size_is_refused_alone() {
    let Some(server) = Server::start("a_message_above_the_largest_size_is_refused_alone") else {
        return;
    };
    let small = StreamConfig {
        name: "TELEMETRY".to_owned(),
        subjects: vec!["telemetry.*".to_owned()],
        max_message_size: 1_000,
        ..StreamConfig::default()
    };
    server.jetstream().await.create_stream(small).await.unwrap();
    let large = crate::forward::testing::large_record(2, 2_000);
    let huge = crate::forward::testing::large_record(3, 2_000_000);
    let items = [record(1, 1), large, huge, record(4, 1)];
    let items = items.map(|record| Item::check(record).unwrap());
    let batch = Batch {
        items: items.into(),
    };
    let outcomes = nats(config(server.url())).send(batch).await.unwrap();
    assert_eq!(outcomes[0], Outcome::Acknowledged);
    assert!(matches!(outcomes[1], Outcome::Permanent(_)), "{outcomes:?}");
    assert!(matches!(outcomes[2], Outcome::Permanent(_)), "{outcomes:?}");
    assert_eq!(outcomes[3], Outcome::Acknowledged);
}

/// Passes bytes on, but for answers while they are held up.
struct Proxy {
    address: SocketAddr,
    mute: watch::Sender<bool>,
    deaf: watch::Sender<bool>,
    cut: watch::Sender<u32>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mute, deaf) = (watch::Sender::new(false), watch::Sender::new(false));
        let cut = watch::Sender::new(0);
        let (is_mute, is_deaf, cuts) = (mute.subscribe(), deaf.subscribe(), cut.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let (is_mute, is_deaf) = (is_mute.clone(), is_deaf.clone());
                let mut cuts = cuts.clone();
                tokio::spawn(async move {
                    cuts.mark_unchanged();
                    tokio::select! {
                        () = pass(client, server, is_mute, is_deaf) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            mute,
            deaf,
            cut,
        }
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    mute: watch::Receiver<bool>,
    deaf: watch::Receiver<bool>,
) {
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::join!(
        swallow(client_in, server_out, deaf),
        swallow(server_in, client_out, mute)
    );
}

/// Passes bytes on in one direction, unless they are to vanish.
async fn swallow(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, vanish: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !*vanish.borrow() && to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_but_not_answered_is_not_kept_twice_after_the_duplicate_window() {
    let Some(server) = Server::start("what_was_kept_but_not_answered...") else {
        return;
    };
    let window = Duration::from_millis(200);
    let proxy = Proxy::to(server.address).await;
    let nats = nats(Config {
        duplicate_window: window,
        timeout: Duration::from_millis(300),
        ..config(format!("nats://{}", proxy.address))
    });
    assert!(all_acknowledged(&nats.send(batch(1..=10)).await));
    proxy.mute.send_replace(true);
    let outcomes = nats.send(batch(11..=20)).await.unwrap();
    assert!(
        outcomes.iter().all(|o| matches!(o, Outcome::Unknown(_))),
        "{outcomes:?}"
    );
    proxy.cut.send_modify(|n| *n += 1);
    let context = server.jetstream().await;
    until_forgotten(&context, window).await;
    proxy.mute.send_replace(false);
    assert!(all_acknowledged(&nats.send(batch(11..=20)).await));
    assert!(all_acknowledged(&nats.send(batch(21..=25)).await));
    let kept = kept(&context).await;
    assert_eq!(kept, (1..=25).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_do_not_come_are_waited_for_once_and_not_one_after_another() {
    let Some(server) = Server::start("answers_that_do_not_come...") else {
        return;
    };
    let proxy = Proxy::to(server.address).await;
    let nats = nats(Config {
        timeout: Duration::from_millis(300),
        ..config(format!("nats://{}", proxy.address))
    });
    assert!(all_acknowledged(&nats.send(batch(1..=1)).await));
    // As where the leader of a stream is gone, and the server in between is not.
    proxy.mute.send_replace(true);
    let sending = nats.send(batch(2..=400));
    // One after another they take two minutes.
    let outcomes = tokio::time::timeout(Duration::from_secs(60), sending).await;
    let outcomes = outcomes.expect("it ends").unwrap();
    assert!(
        outcomes.iter().all(|o| matches!(o, Outcome::Unknown(_))),
        "{outcomes:?}"
    );
    proxy.mute.send_replace(false);
    assert!(all_acknowledged(&nats.send(batch(2..=400)).await));
    let kept = kept(&server.jetstream().await).await;
    assert_eq!(kept, (1..=400).collect::<Vec<_>>());
}

/// The server forgets ids in its own time; one that it has forgotten is kept again.
async fn until_forgotten(context: &jetstream::Context, window: Duration) {
    let mut forgotten = false;
    while !forgotten {
        tokio::time::sleep(window).await;
        let publish = || PublishMessage::build().message_id("probe");
        let ack = context
            .send_publish("telemetry.probe", publish())
            .await
            .unwrap();
        drop(ack.await.unwrap());
        tokio::time::sleep(window * 2).await;
        let ack = context
            .send_publish("telemetry.probe", publish())
            .await
            .unwrap();
        forgotten = !ack.await.unwrap().duplicate;
    }
}

/// Positions of the messages of device 1, as the stream has them.
async fn kept(context: &jetstream::Context) -> Vec<u64> {
    let stream = context.get_stream("TELEMETRY").await.unwrap();
    let mut kept = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        if message.subject.as_str() == "telemetry.device-1" {
            let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            kept.push(json["sequence"].as_str().unwrap().parse::<u64>().unwrap());
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_kept_goes_again_although_a_batch_before_it_was_kept() {
    let Some(server) = Server::start("what_was_not_kept_goes_again...") else {
        return;
    };
    let window = Duration::from_millis(200);
    let proxy = Proxy::to(server.address).await;
    let nats = nats(Config {
        duplicate_window: window,
        timeout: Duration::from_secs(20),
        ..config(format!("nats://{}", proxy.address))
    });
    assert!(all_acknowledged(&nats.send(batch(1..=10)).await));
    let context = server.jetstream().await;
    // The first batch is kept, the second never arrives, both are in doubt.
    proxy.mute.send_replace(true);
    let first = nats.send(batch(11..=15));
    let second = async {
        while kept(&context).await.len() < 15 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.deaf.send_replace(true);
        nats.send(batch(16..=20)).await
    };
    let cut = async {
        while nats.breaker.in_flight() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The lock is fair: the second has published.
        drop(nats.line.lock().await);
        proxy.cut.send_modify(|n| *n += 1);
    };
    // The second gives up first.
    let (second, first, ()) = tokio::join!(biased; second, first, cut);
    for outcomes in [first.unwrap(), second.unwrap()] {
        let unknown = |outcome: &Outcome| matches!(outcome, Outcome::Unknown(_));
        assert!(outcomes.iter().all(unknown), "{outcomes:?}");
    }
    until_forgotten(&context, window).await;
    proxy.mute.send_replace(false);
    proxy.deaf.send_replace(false);
    let (first, second) = tokio::join!(
        biased;
        nats.send(batch(11..=15)),
        nats.send(batch(16..=20))
    );
    assert!(all_acknowledged(&first), "{first:?}");
    assert!(all_acknowledged(&second), "{second:?}");
    assert_eq!(kept(&context).await, (1..=20).collect::<Vec<_>>());
}

mod access;
