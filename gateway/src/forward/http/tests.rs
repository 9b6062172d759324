//! Against a receiver in this process that answers from a script.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes as Payload},
    extract::State,
    http::{HeaderMap as Headers, Response, StatusCode},
    routing::post,
};
use flate2::read::GzDecoder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::SystemClock,
    forward::{
        Secret,
        testing::{Model, batch, engine, record},
    },
};

/// What the receiver does with a request.
#[derive(Debug, Clone)]
enum Answer {
    Take,
    /// Takes it, with this for a body.
    Say(u16, &'static str),
    Refuse(u16),
    /// Refuses, with `Retry-After`.
    Later(u16, &'static str),
    /// Takes it, but answers only after the client has given up.
    TakeInSilence,
    /// Refuses every batch that holds one of these sequences.
    Poison(Vec<u64>),
}

#[derive(Debug, Default)]
struct Receiver {
    script: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<Request>>,
    /// Sequences taken, in order, each `Idempotency-Key` once.
    taken: Mutex<Vec<u64>>,
    keys: Mutex<BTreeMap<String, Vec<u64>>>,
}

#[derive(Debug, Clone)]
struct Request {
    key: String,
    headers: Headers,
    sequences: Vec<u64>,
}

impl Receiver {
    async fn start(script: impl IntoIterator<Item = Answer>) -> (Arc<Self>, SocketAddr) {
        let receiver = Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            ..Self::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/events", post(receive))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, address)
    }

    fn take(&self, request: &Request) {
        let mut keys = self.keys.lock().unwrap();
        if let Some(before) = keys.insert(request.key.clone(), request.sequences.clone()) {
            assert_eq!(before, request.sequences, "one key, two batches");
            return;
        }
        self.taken.lock().unwrap().extend(&request.sequences);
    }

    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: Headers,
    body: Payload,
) -> Response<Body> {
    let mut json = Vec::new();
    if headers
        .get("content-encoding")
        .is_some_and(|encoding| encoding == "gzip")
    {
        GzDecoder::new(&body[..]).read_to_end(&mut json).unwrap();
    } else {
        json.extend_from_slice(&body);
    }
    let events: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    let sequence = |e: &serde_json::Value| e["sequence"].as_str().unwrap().parse().unwrap();
    let request = Request {
        key: headers["idempotency-key"].to_str().unwrap().to_owned(),
        sequences: events.iter().map(sequence).collect(),
        headers,
    };
    receiver.requests.lock().unwrap().push(request.clone());
    let answer = {
        let mut script = receiver.script.lock().unwrap();
        match script.front() {
            // Poison stays.
            Some(Answer::Poison(which)) => Answer::Poison(which.clone()),
            _ => script.pop_front().unwrap_or(Answer::Take),
        }
    };
    let reply = |status: u16| Response::builder().status(StatusCode::from_u16(status).unwrap());
    match answer {
        Answer::Take => {
            receiver.take(&request);
            reply(204).body(Body::empty())
        }
        Answer::Say(status, body) => {
            receiver.take(&request);
            reply(status)
                .header("content-type", "application/json")
                .body(body.into())
        }
        Answer::Refuse(status) => reply(status).body("because".into()),
        Answer::Later(status, after) => reply(status)
            .header("retry-after", after)
            .body(Body::empty()),
        Answer::TakeInSilence => {
            receiver.take(&request);
            std::future::pending().await
        }
        Answer::Poison(which) => {
            if request
                .sequences
                .iter()
                .any(|sequence| which.contains(sequence))
            {
                reply(422).body("poison".into())
            } else {
                receiver.take(&request);
                reply(200).body("thanks".into())
            }
        }
    }
    .unwrap()
}

fn http(address: SocketAddr) -> Http {
    http_with(Config::new(format!("http://{address}/events")))
}

fn http_with(config: Config) -> Http {
    let config = Config {
        timeout: Duration::from_millis(500),
        linger: Duration::ZERO,
        ..config
    };
    Http::new(config, Arc::new(SystemClock)).unwrap()
}

fn acknowledged(records: usize) -> Outcomes {
    Ok(vec![Outcome::Acknowledged; records])
}

#[tokio::test]
async fn a_batch_is_one_gzipped_post_under_a_key_made_of_its_events() {
    let (receiver, address) = Receiver::start([]).await;
    let http = http_with(Config {
        headers: vec![("Authorization".to_owned(), Secret::from("Bearer t"))],
        ..Config::new(format!("http://{address}/events"))
    });
    assert_eq!(http.send(batch(1..=3)).await, acknowledged(3));
    let request = receiver.requests.lock().unwrap()[0].clone();
    assert_eq!(request.sequences, [1, 2, 3]);
    assert_eq!(
        request.headers["content-type"],
        "application/cloudevents-batch+json"
    );
    assert_eq!(request.headers["content-encoding"], "gzip");
    assert_eq!(request.headers["authorization"], "Bearer t");
    assert_eq!(request.key.len(), 32);
}

#[tokio::test]
async fn answers_become_outcomes() {
    let unavailable = |outcomes: &Outcomes| matches!(outcomes, Err(Error::Unavailable { .. }));
    let misconfigured = |outcomes: &Outcomes| matches!(outcomes, Err(Error::Misconfigured(_)));
    let throttled = |outcomes: &Outcomes| {
        let retry_after = Some(Duration::from_secs(7));
        *outcomes == Ok(vec![Outcome::Throttled { retry_after }; 2])
    };
    let done = |outcomes: &Outcomes| *outcomes == acknowledged(2);
    type Check<'a> = &'a dyn Fn(&Outcomes) -> bool;
    let table: [(Answer, Check<'_>); 18] = [
        (Answer::Take, &done),
        (Answer::Say(200, "not ours"), &done),
        (Answer::Say(200, r#"{"items":[]}"#), &done),
        (Answer::Say(200, r#"{"taken":2}"#), &done),
        (
            Answer::Say(200, r#"{"items":[{"index":2,"status":422}]}"#),
            &unavailable,
        ),
        (
            Answer::Say(200, r#"{"items":[{"index":1,"err"#),
            &unavailable,
        ),
        (Answer::Refuse(409), &unavailable),
        (Answer::Later(429, "7"), &throttled),
        (Answer::Later(503, "7"), &throttled),
        (Answer::Refuse(503), &unavailable),
        (Answer::Refuse(500), &unavailable),
        (Answer::Refuse(408), &unavailable),
        (Answer::Say(207, "not ours"), &unavailable),
        (Answer::TakeInSilence, &unavailable),
        (Answer::Refuse(401), &misconfigured),
        (Answer::Refuse(404), &misconfigured),
        (Answer::Refuse(308), &misconfigured),
        (Answer::Refuse(415), &misconfigured),
    ];
    for (answer, check) in table {
        let (_, address) = Receiver::start([answer.clone()]).await;
        let outcomes = http(address).send(batch(1..=2)).await;
        assert!(check(&outcomes), "{answer:?}: {outcomes:?}");
    }
}

#[tokio::test]
async fn a_receiver_can_answer_for_each_record() {
    let body = r#"{"items":[{"index":1,"status":422,"error":"no unit"}]}"#;
    let (_, address) = Receiver::start([Answer::Say(207, body)]).await;
    let outcomes = http(address).send(batch(1..=3)).await.unwrap();
    assert_eq!(outcomes[1], Outcome::Permanent("422: no unit".to_owned()));
    assert_eq!([&outcomes[0], &outcomes[2]], [&Outcome::Acknowledged; 2]);
}

#[tokio::test]
async fn poison_is_found_by_halving_and_refused_alone() {
    let (receiver, address) = Receiver::start([Answer::Poison(vec![3, 77])]).await;
    let outcomes = http(address).send(batch(1..=100)).await.unwrap();
    for (outcome, sequence) in outcomes.iter().zip(1u64..) {
        let poison = [3, 77].contains(&sequence);
        assert_eq!(
            matches!(outcome, Outcome::Permanent(_)),
            poison,
            "{sequence}"
        );
    }
    let rest: Vec<u64> = (1..=100).filter(|n| ![3, 77].contains(n)).collect();
    assert_eq!(receiver.taken(), rest, "in order");
}

/// How many records at the beginning were refused.
fn refused(outcomes: &Outcomes) -> usize {
    let outcomes = outcomes.as_ref().unwrap();
    let refused = |o: &&Outcome| matches!(o, Outcome::Permanent(_));
    outcomes.iter().take_while(refused).count()
}

/// A batch of one device's records after the other's.
fn mixed(positions: impl IntoIterator<Item = u64>, devices: u64) -> Batch {
    let item = |position| {
        let device = u8::try_from(position % devices).unwrap();
        Item::check(record(position, device)).unwrap()
    };
    Batch {
        items: positions.into_iter().map(item).collect(),
    }
}

/// How long until the endpoint is tried again.
fn refusing(outcomes: &Outcomes) -> Duration {
    match outcomes {
        Err(Error::Refusing { retry_after, .. }) => *retry_after,
        other => panic!("not at fault: {other:?}"),
    }
}

/// The time passes without waiting for it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_endpoint_that_refuses_everything_is_tried_ever_more_rarely_and_costs_a_record_each_time()
 {
    let (receiver, address) = Receiver::start([Answer::Poison((1..=500).collect())]).await;
    let http = http(address);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let near = |wait: Duration, expect: Duration| {
        assert!(wait <= expect && wait > expect - minutes(1), "{wait:?}");
    };
    // The first three times nothing is given up, and after that one record.
    let mut first = 1;
    for (round, wait) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        let outcomes = http.send(mixed(first..=500, 5)).await;
        if round > 1 {
            assert_eq!(refused(&outcomes), 1);
            let rest = &outcomes.unwrap()[1..];
            assert!(rest.iter().all(|o| matches!(o, Outcome::Unknown(_))));
            first += 1;
        } else {
            near(refusing(&outcomes), minutes(wait));
        }
        let asked = receiver.requests.lock().unwrap().len();
        near(
            refusing(&http.send(mixed(first..=500, 5)).await),
            minutes(wait),
        );
        let requests = receiver.requests.lock().unwrap().clone();
        assert_eq!(requests.len(), asked, "it is left alone meanwhile");
        if round > 0 {
            assert!(requests.last().is_some_and(|r| r.sequences.len() == 1));
        }
        pass(minutes(wait)).await;
    }
    receiver.script.lock().unwrap().clear();
    assert_eq!(
        http.send(mixed(first..=500, 5)).await,
        acknowledged((first..=500).count())
    );
    assert_eq!(
        receiver.taken(),
        (first..=500).collect::<Vec<_>>(),
        "in order"
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_every_small_batch_is_at_fault_too() {
    let poison = (1..=15).chain(17..=100).collect();
    let (_, address) = Receiver::start([Answer::Poison(poison)]).await;
    let http = http(address);
    for n in 1..=15 {
        assert_eq!(refused(&http.send(mixed([n], 5)).await), 1, "{n}");
    }
    // Taken: it begins anew.
    assert_eq!(http.send(mixed([16], 5)).await, acknowledged(1));
    for n in 17..=31 {
        assert_eq!(refused(&http.send(mixed([n], 5)).await), 1, "{n}");
    }
    for _ in 0..2 {
        let wait = refusing(&http.send(mixed([32], 5)).await);
        pass(wait).await;
    }
    assert_eq!(refused(&http.send(mixed([32], 5)).await), 1);
    refusing(&http.send(mixed([33], 5)).await);
}

#[tokio::test]
async fn bad_records_of_several_devices_do_not_stop_the_good_ones_behind_them() {
    // Devices 0 to 2 are bad for a while, and 3 is not.
    let bad: Vec<u64> = (1..=80).filter(|n| n % 4 != 3).collect();
    let (receiver, address) = Receiver::start([Answer::Poison(bad.clone())]).await;
    let http = http(address);
    // A run of bad ones is met first.
    let positions = || {
        bad.iter()
            .copied()
            .chain((1..=100).filter(|n| !bad.contains(n)))
    };
    let wait = refusing(&http.send(mixed(positions(), 4)).await);
    pass(wait).await;
    let outcomes = http.send(mixed(positions(), 4)).await;
    assert_eq!(refused(&outcomes), bad.len());
    let outcomes = outcomes.unwrap();
    assert!(
        outcomes[bad.len()..]
            .iter()
            .all(|o| *o == Outcome::Acknowledged)
    );
    let good: Vec<u64> = (1..=100).filter(|n| !bad.contains(n)).collect();
    let of = |device: u64| {
        let mut taken = receiver.taken();
        taken.retain(|n| n % 4 == device);
        taken
    };
    for device in 0..4 {
        let expect: Vec<_> = good.iter().copied().filter(|n| n % 4 == device).collect();
        assert_eq!(of(device), expect, "in the order of device {device}");
    }
}

#[tokio::test]
async fn one_device_with_a_bad_past_does_not_put_the_endpoint_at_fault() {
    let (receiver, address) = Receiver::start([Answer::Poison((1..=200).collect())]).await;
    let outcomes = http(address).send(batch(1..=250)).await;
    assert_eq!(refused(&outcomes), 200);
    assert_eq!(receiver.taken(), (201..=250).collect::<Vec<_>>());
    // Unless it goes on and on.
    let (_, address) = Receiver::start([Answer::Poison((1..=1_000).collect())]).await;
    let outcomes = http(address).send(batch(1..=1_000)).await;
    refusing(&outcomes);
}

#[tokio::test]
async fn what_is_known_when_the_receiver_goes_away_in_the_middle_is_kept() {
    // Refused whole; the first half taken; then away.
    let script = [Answer::Refuse(422), Answer::Take, Answer::Refuse(500)];
    let (_, address) = Receiver::start(script).await;
    let outcomes = http(address).send(batch(1..=4)).await.unwrap();
    assert_eq!(
        outcomes[..2],
        [Outcome::Acknowledged, Outcome::Acknowledged]
    );
    assert!(
        outcomes[2..]
            .iter()
            .all(|o| matches!(o, Outcome::Unknown(_))),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn the_part_of_a_batch_that_is_in_doubt_goes_again_as_it_was() {
    // Refused whole; 1 to 4 taken; 5 to 8 refused; 5 and 6 taken without an answer.
    let script = [
        Answer::Refuse(422),
        Answer::Take,
        Answer::Refuse(422),
        Answer::TakeInSilence,
    ];
    let (receiver, address) = Receiver::start(script).await;
    let http = http(address);
    let outcomes = http.send(batch(1..=8)).await.unwrap();
    assert_eq!(outcomes[..4], acknowledged(4).unwrap());
    assert!(matches!(outcomes[4], Outcome::Unknown(_)), "{outcomes:?}");
    assert_eq!(http.send(batch(4..=9)).await, acknowledged(6));
    let sequences = |n: usize| receiver.requests.lock().unwrap()[n].sequences.clone();
    assert_eq!(sequences(5), [5, 6]);
    let taken: BTreeMap<u64, usize> =
        receiver
            .taken()
            .iter()
            .fold(BTreeMap::new(), |mut times, sequence| {
                *times.entry(*sequence).or_default() += 1;
                times
            });
    assert_eq!(taken[&5], 1);
    assert_eq!(taken[&6], 1);
    // Answered: nothing is cut any more.
    assert_eq!(http.send(batch(4..=9)).await, acknowledged(6));
    assert_eq!(sequences(7), [4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Half an answer, then nothing.
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            .await
            .unwrap();
    });
    let outcomes = http(address).send(batch(1..=2)).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_the_end_and_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    });
    let outcomes = http(address).send(batch(1..=2)).await;
    let Err(Error::Unavailable { reason, .. }) = outcomes else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("cannot be read"), "{reason}");
}

#[tokio::test]
async fn a_receiver_that_dedupes_by_key_gets_everything_once_and_in_order() {
    let script = [
        Answer::Take,
        Answer::TakeInSilence,
        Answer::Refuse(500),
        Answer::Later(429, "0"),
        Answer::Take,
        Answer::TakeInSilence,
        Answer::TakeInSilence,
    ];
    let (receiver, address) = Receiver::start(script).await;
    let model = Model::new();
    for position in 1..=3_000 {
        model.append(record(position, u8::try_from(position % 5).unwrap()));
    }
    let (engine, status) = engine(&model, Arc::new(http(address)), 20);
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    let everything = async {
        while model.backlog() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), everything)
        .await
        .unwrap();
    assert_eq!(status.status().error, None);
    stop.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(receiver.taken(), (1..=3_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_person_is_told_why_nothing_arrives() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let reason = |outcomes: Outcomes| match outcomes {
        Err(Error::Unavailable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let away = reason(http(address).send(batch(1..=2)).await);
    assert!(
        away.starts_with("cannot connect: Connection refused"),
        "{away}"
    );
    let (_, address) = Receiver::start([Answer::TakeInSilence]).await;
    let silent = reason(http(address).send(batch(1..=2)).await);
    assert!(silent.starts_with("no answer in time"), "{silent}");
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    let check = |config: Config, expect: &str| {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(Config::new("ftp://x/"), "http://");
    check(Config::new("no address"), "url");
    let header = |name: &str, value: &str| Config {
        headers: vec![(name.to_owned(), Secret::from(value))],
        ..Config::new("http://127.0.0.1/")
    };
    check(header("a b", "x"), "`a b`");
    check(header("x", "a\nb"), "`x`");
    assert!(!format!("{:?}", header("x", "hush")).contains("hush"));
}

mod access;
mod forms;
