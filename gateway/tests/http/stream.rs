//! Live tails: what is shown, where it goes on, and what is said of the rest.

use std::time::Duration;

use penstock::config::Config;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::gateway::{Gateway, LONG};

/// What is delivered stays: otherwise it leaves the journal at once.
fn keeping(config: &mut Config) {
    config.store.keep_delivered = Some(Duration::from_secs(3_600));
}

/// One block of a stream.
#[derive(Debug, Default, Clone)]
struct Block {
    id: u64,
    event: String,
    data: Value,
}

struct Stream {
    connection: TcpStream,
    text: String,
}

impl Stream {
    async fn open(gateway: &Gateway, question: &str, last: Option<u64>) -> Self {
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let mut connection = TcpStream::connect(gateway.http).await.expect("connect");
        let request = format!(
            "GET /api/v1/events/stream{question} HTTP/1.0\r\nHost: localhost\r\n{last}\r\n"
        );
        connection
            .write_all(request.as_bytes())
            .await
            .expect("write");
        let mut stream = Self {
            connection,
            text: String::new(),
        };
        let head = stream.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: text/event-stream")
        );
        assert!(stream.until("\n\n").await.starts_with("retry: "));
        stream
    }

    /// What comes up to an end, without it.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some((before, after)) = self.text.split_once(end) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.text = after;
                return before;
            }
            let mut bytes = vec![0; 65_536];
            let read = timeout(LONG, self.connection.read(&mut bytes)).await;
            let count = read.expect("more in time").expect("more");
            assert_ne!(count, 0, "the stream has ended: {:?}", self.text);
            self.text
                .push_str(std::str::from_utf8(&bytes[..count]).expect("ASCII"));
        }
    }

    async fn block(&mut self) -> Block {
        loop {
            let mut block = Block::default();
            for line in self.until("\n\n").await.lines() {
                match line.split_once(": ").expect("a field") {
                    ("id", id) => block.id = id.parse().expect("a position"),
                    ("event", event) => block.event = event.to_owned(),
                    ("data", data) => block.data = serde_json::from_str(data).expect("JSON"),
                    other => panic!("{other:?}"),
                }
            }
            // Only how far it has looked.
            if !block.data.is_null() {
                return block;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_are_committed_and_only_those_that_are_wanted() {
    let gateway = Gateway::start().await;
    let mut all = Stream::open(&gateway, "", None).await;
    let mut pumps = Stream::open(&gateway, "?device=pump-*", None).await;
    let mut hot = Stream::open(
        &gateway,
        "?device=pump-1&filter=%7B%22values%22:%7B%22t%22:%5B%7B%22numeric%22:%5B%22%3E%22,50%5D%7D%5D%7D%7D",
        None,
    )
    .await;
    for (device, t) in [
        ("valve", 90),
        ("pump-1", 20),
        ("pump-2", 90),
        ("pump-1", 90),
    ] {
        let payload = format!(r#"{{"t":{t}}}"#);
        let topic = format!("devices/{device}/telemetry");
        gateway.publish(&topic, payload.as_bytes()).await;
    }
    let mut last = 0;
    for device in ["valve", "pump-1", "pump-2", "pump-1"] {
        let block = all.block().await;
        assert_eq!(block.data["device"], device);
        assert_eq!(block.data["position"], block.id.to_string());
        assert!(block.id > last);
        last = block.id;
    }
    for device in ["pump-1", "pump-2", "pump-1"] {
        assert_eq!(pumps.block().await.data["device"], device);
    }
    let block = hot.block().await;
    assert_eq!((&block.data["device"], block.id), (&"pump-1".into(), last));
    for (question, what) in [
        ("?filter=%7B", "filter: "),
        (
            "?filter=%7B%22device%22:%5B%7B%22nix%22:1%7D%5D%7D",
            "filter: ",
        ),
        ("?devise=x", "devise"),
        ("?after=x", "after"),
    ] {
        let answer = gateway
            .get(&format!("/api/v1/events/stream{question}"))
            .await;
        assert_eq!(answer.status, 400, "{question}");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(what), "{question}: {detail}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_goes_on_where_it_was() {
    let gateway = Gateway::start_with(keeping).await;
    let mut stream = Stream::open(&gateway, "", None).await;
    gateway.publish("devices/a/telemetry", br#"{"n":0}"#).await;
    let seen = stream.block().await.id;
    drop(stream);
    let more: Vec<String> = (1..=600).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    gateway.publish_all("devices/a/telemetry", &more).await;
    let mut again = Stream::open(&gateway, "", Some(seen)).await;
    let mut from = Stream::open(&gateway, &format!("?after={}", seen + 300), None).await;
    for n in 1..=600 {
        let block = again.block().await;
        assert_eq!((block.id, &*block.event), (seen + n, ""));
    }
    assert_eq!(from.block().await.id, seen + 301);
    // A position that is not given yet is no place to go on from.
    let mut ahead = Stream::open(&gateway, "", Some(u64::MAX)).await;
    gateway.publish("devices/a/telemetry", br#"{"n":0}"#).await;
    assert_eq!(ahead.block().await.id, seen + 601);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_before_a_slow_reader_came_to_it_is_counted() {
    let gateway = Gateway::start().await;
    let mut stream = Stream::open(&gateway, "", None).await;
    // Nobody reads meanwhile; what is delivered leaves the journal, and memory is bounded.
    let text = "x".repeat(8_000);
    let mut publishes = Vec::new();
    for n in 0..4_000 {
        publishes.push(format!(r#"{{"n":{n},"text":"{text}"}}"#));
    }
    gateway.publish_all("devices/a/telemetry", &publishes).await;
    let began = Instant::now();
    while gateway.get("/api/v1/status").await.json()["store"]["buffered"] != 0 {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut shown, mut missed, mut last) = (0, 0, 0);
    while shown + missed < 4_000 {
        let block = stream.block().await;
        assert!(block.id > last, "{} after {last}", block.id);
        last = block.id;
        match &*block.event {
            "missed" => {
                missed += block.data["count"].as_u64().expect("a number");
                assert_eq!(block.data["through"], block.id);
            }
            _ => shown += 1,
        }
    }
    assert_eq!(shown + missed, 4_000);
    assert!(missed > 0, "{shown}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_streams_and_no_more_until_one_is_closed() {
    let gateway = Gateway::start().await;
    let mut streams = Vec::new();
    let refused = loop {
        let question = "GET /api/v1/events/stream HTTP/1.0\r\nHost: localhost\r\n\r\n";
        let mut connection = TcpStream::connect(gateway.http).await.expect("connect");
        connection
            .write_all(question.as_bytes())
            .await
            .expect("write");
        let mut status = [0; 12];
        let read = timeout(LONG, connection.read_exact(&mut status)).await;
        read.expect("an answer in time").expect("an answer");
        match &status[9..] {
            b"200" => streams.push(connection),
            other => break other.to_owned(),
        }
        assert!(streams.len() < 60);
    };
    assert_eq!(refused, b"503");
    // Others are answered all the same.
    assert_eq!(gateway.get("/healthz").await.status, 200);
    streams.clear();
    let began = Instant::now();
    loop {
        let question = "HEAD /api/v1/events/stream HTTP/1.0\r\nHost: localhost\r\n\r\n";
        if gateway.ask(question).await.status == 200 {
            break;
        }
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_this_machine_watches_with_the_key_of_the_start() {
    use std::io::BufRead as _;
    let gateway = Gateway::start_with(keeping).await;
    gateway.publish("devices/a/telemetry", br#"{"n":1}"#).await;
    let running = gateway.running.clone();
    let seen = tokio::task::spawn_blocking(move || {
        let stream = running.stream("/api/v1/events/stream?after=0")?;
        let data = stream
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
        assert!(running.stream("/api/v1/events/stream?filter=x").is_err());
        anyhow::Ok(data.expect("an event"))
    });
    let seen = seen.await.expect("no panic").expect("a stream");
    let event: Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(event["device"], "a");
    gateway.stop().await;
}
