//! A stream in this process that speaks enough of the service's protocol.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode},
    routing::post,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How the next request is treated.
#[derive(Debug, Clone)]
pub(super) enum Mood {
    Fine,
    /// The shards of these partition keys have no room.
    Throttles(Vec<&'static str>),
    /// These records of the request fail.
    Fails(Vec<usize>),
    FailsAll,
    /// The whole request gets this status and code.
    Answers(u16, &'static str),
    /// Takes everything, and never says so.
    LosesTheAnswer,
    /// Takes everything, and breaks off in the middle of the answer.
    DropsTheConnection,
}

/// A record of the stream, one for each event.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) key: String,
    pub(super) position: u64,
    pub(super) event: Value,
}

#[derive(Debug, Default)]
struct State {
    moods: Vec<Mood>,
    taken: Vec<Taken>,
    requests: Vec<Vec<u64>>,
    bytes_most: usize,
    never: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Place {
    /// The last mood is for the first request.
    pub(super) async fn start(moods: Vec<Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            moods,
            ..State::default()
        }));
        let of_server = state.clone();
        let answer = move |headers: HeaderMap, body: Bytes| {
            let state = of_server.clone();
            async move { answer(&state, &headers, &body).await }
        };
        let router = Router::new().route("/", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn never_takes(&self, position: u64) {
        self.state.lock().unwrap().never.insert(position);
    }

    pub(super) fn takes_all_but(&self, positions: &[u64]) {
        self.state.lock().unwrap().never = positions.iter().copied().collect();
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.state.lock().unwrap().taken.clone()
    }

    pub(super) fn positions(&self) -> Vec<u64> {
        self.taken().iter().map(|taken| taken.position).collect()
    }

    /// Positions of the events in each request.
    pub(super) fn requests(&self) -> Vec<Vec<u64>> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(super) fn bytes_most(&self) -> usize {
        self.state.lock().unwrap().bytes_most
    }
}

async fn answer(state: &Mutex<State>, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
    assert_eq!(headers["x-amz-target"], "Kinesis_20131202.PutRecords");
    assert!(headers.contains_key("authorization"), "it is signed");
    let request: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(request["StreamName"], "telemetry");
    let records = request["Records"].as_array().unwrap().clone();
    let (mood, reply) = {
        let mut state = state.lock().unwrap();
        let mood = state.moods.pop().unwrap_or(Mood::Fine);
        let reply = state.put(&mood, &records);
        (mood, reply)
    };
    match mood {
        Mood::LosesTheAnswer => std::future::pending().await,
        Mood::DropsTheConnection => {
            let broken = futures_util::stream::iter([
                Ok(Bytes::from_static(b"{\"Records\":[")),
                Err(std::io::Error::other("dropped")),
            ]);
            Response::new(Body::from_stream(broken))
        }
        _ => reply,
    }
}

impl State {
    fn put(&mut self, mood: &Mood, records: &[Value]) -> Response<Body> {
        let texts = |record: &Value| {
            let data = record["Data"].as_str().unwrap();
            let data = BASE64_STANDARD.decode(data).unwrap();
            (record["PartitionKey"].as_str().unwrap().to_owned(), data)
        };
        let records: Vec<_> = records.iter().map(texts).collect();
        let bytes = records.iter().map(|(key, data)| key.len() + data.len());
        self.bytes_most = self.bytes_most.max(bytes.sum());
        let events: Vec<Vec<Taken>> = records.iter().map(|(key, data)| taken(key, data)).collect();
        let positions = events.iter().flatten().map(|one| one.position);
        self.requests.push(positions.clone().collect());
        if let Mood::Answers(status, code) = mood {
            return refusal(*status, code);
        }
        if positions.into_iter().any(|one| self.never.contains(&one)) {
            return refusal(400, "ValidationException");
        }
        let mut results = Vec::new();
        for (n, one) in events.into_iter().enumerate() {
            let key = &one[0].key;
            let fails = |code, message: String| json!({"ErrorCode": code, "ErrorMessage": message});
            results.push(match mood {
                Mood::Throttles(keys) if keys.contains(&key.as_str()) => fails(
                    "ProvisionedThroughputExceededException",
                    format!("Rate exceeded for shard shardId-{key} in stream s under account 1."),
                ),
                Mood::Fails(which) if which.contains(&n) => {
                    fails("InternalFailure", "an internal failure".to_owned())
                }
                Mood::FailsAll => fails("InternalFailure", "an internal failure".to_owned()),
                _ => {
                    let number = self.taken.len().to_string();
                    let shard = format!("shardId-{key}");
                    self.taken.extend(one);
                    json!({"SequenceNumber": number, "ShardId": shard})
                }
            });
        }
        let failed = results.iter().filter(|one| one.get("ErrorCode").is_some());
        let answer = json!({"FailedRecordCount": failed.count(), "Records": results});
        reply(StatusCode::OK, &answer)
    }
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap();
    reply(
        status,
        &json!({"__type": code, "message": "so it was scripted"}),
    )
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .body(Body::from(body.to_string()))
        .unwrap()
}

/// The events of a record, which may be several.
fn taken(key: &str, data: &[u8]) -> Vec<Taken> {
    let mut events = Vec::new();
    match data.strip_prefix(&[0xf3, 0x89, 0x9a, 0xc2]) {
        None => events.push(data),
        Some(rest) => {
            let mut message = &rest[..rest.len() - 16];
            while !message.is_empty() {
                let (field, value) = field(&mut message);
                match field {
                    0x0a => assert_eq!(value, key.as_bytes()),
                    0x1a => {
                        let mut entry = value.strip_prefix(&[8, 0]).unwrap();
                        let (data_field, data) = self::field(&mut entry);
                        assert_eq!((data_field, entry.len()), (0x1a, 0));
                        events.push(data);
                    }
                    other => panic!("field {other}"),
                }
            }
        }
    }
    let of_event = |event: &[u8]| {
        let event: Value = serde_json::from_slice(event).unwrap();
        Taken {
            key: key.to_owned(),
            position: event["sequence"].as_str().unwrap().parse().unwrap(),
            event,
        }
    };
    events.into_iter().map(of_event).collect()
}

/// A field of a Protocol Buffers message that has bytes.
fn field<'a>(message: &mut &'a [u8]) -> (u8, &'a [u8]) {
    let tag = message[0];
    let (mut length, mut at, mut shift) = (0, 1, 0);
    loop {
        length |= usize::from(message[at] & 0x7f) << shift;
        at += 1;
        shift += 7;
        if message[at - 1] < 0x80 {
            break;
        }
    }
    let value = &message[at..at + length];
    *message = &message[at + length..];
    (tag, value)
}
