//! A queue, topic or bus in this process that speaks enough of its service's protocol, and
//! treats requests as a test says.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode},
    routing::post,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Account, Keys};
use crate::forward::{
    batch::{Batch, Item},
    destination::Destination,
    testing::{Model, engine, record},
};

/// Which service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forward) enum Service {
    Sqs,
    Sns,
    EventBridge,
}

/// How the next request is treated.
#[derive(Debug, Clone)]
pub(in crate::forward) enum Mood {
    Fine,
    /// These entries of the request fail with a code; whether the sender is at fault.
    Fails(Vec<usize>, &'static str, bool),
    /// There is no room for these partition keys.
    Throttles(Vec<&'static str>),
    /// It says nothing of this entry.
    Forgets(usize),
    /// The whole request gets this status, code and message.
    Answers(u16, &'static str, &'static str),
    /// Takes everything, and never says so.
    LosesTheAnswer,
    /// Takes everything, and breaks off in the middle of the answer.
    DropsTheConnection,
}

/// An entry of a request.
#[derive(Debug, Clone, Default)]
pub(in crate::forward) struct Entry {
    id: String,
    pub(in crate::forward) body: String,
    pub(in crate::forward) attributes: HashMap<String, String>,
    pub(in crate::forward) group: Option<String>,
    pub(in crate::forward) identity: Option<String>,
    /// As it came, where that is JSON.
    pub(in crate::forward) raw: Value,
}

impl Entry {
    pub(in crate::forward) fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(in crate::forward) fn position(&self) -> u64 {
        let event = self.event();
        event["sequence"].as_str().unwrap().parse().unwrap()
    }

    fn key(&self) -> String {
        self.event()["partitionkey"].as_str().unwrap().to_owned()
    }
}

#[derive(Debug, Default)]
struct State {
    moods: Vec<Mood>,
    taken: Vec<Entry>,
    identities: HashSet<String>,
    requests: Vec<Vec<u64>>,
    never: BTreeSet<u64>,
    failing: BTreeSet<u64>,
    asked: Vec<String>,
    about: Option<(u16, &'static str)>,
    made: Option<u32>,
    at_once: usize,
    most_at_once: usize,
}

/// See the module.
#[derive(Debug)]
pub(in crate::forward) struct Place {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Place {
    /// The last mood is for the first request.
    pub(in crate::forward) async fn start(service: Service, moods: Vec<Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            moods,
            ..State::default()
        }));
        let of_server = state.clone();
        let answer = move |headers: HeaderMap, body: Bytes| {
            let state = of_server.clone();
            async move { answer(service, &state, &headers, &body).await }
        };
        let router = Router::new().route("/", post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, state }
    }

    pub(in crate::forward) fn account(&self) -> Account {
        Account {
            region: Some("eu-central-1".to_owned()),
            endpoint: Some(format!("http://{}", self.address)),
            keys: Some(Keys {
                id: "AKIA".to_owned(),
                secret: "secret".into(),
                token: None,
            }),
            timeout: Duration::from_secs(10),
            ..Account::default()
        }
    }

    /// Questions about the queue or the bus are answered so.
    pub(in crate::forward) fn says_of_itself(&self, status: u16, code: &'static str) {
        self.state.lock().unwrap().about = Some((status, code));
    }

    /// The bus is there, and was made then.
    pub(in crate::forward) fn is_there(&self, made: u32) {
        let mut state = self.state.lock().unwrap();
        (state.about, state.made) = (None, Some(made));
    }

    /// All of a request of these alone fails, by nobody's fault.
    pub(in crate::forward) fn always_fails(&self, positions: impl IntoIterator<Item = u64>) {
        self.state.lock().unwrap().failing = positions.into_iter().collect();
    }

    pub(in crate::forward) fn never_takes(&self, positions: impl IntoIterator<Item = u64>) {
        self.state.lock().unwrap().never = positions.into_iter().collect();
    }

    /// How the next requests are treated; the last is for the first of them.
    pub(in crate::forward) fn will(&self, moods: Vec<Mood>) {
        self.state.lock().unwrap().moods = moods;
    }

    /// Requests that were under way at once, at most.
    pub(in crate::forward) fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most_at_once
    }

    pub(in crate::forward) fn taken(&self) -> Vec<Entry> {
        self.state.lock().unwrap().taken.clone()
    }

    pub(in crate::forward) fn positions(&self) -> Vec<u64> {
        self.taken().iter().map(Entry::position).collect()
    }

    /// Positions of the events in each request.
    pub(in crate::forward) fn requests(&self) -> Vec<Vec<u64>> {
        self.state.lock().unwrap().requests.clone()
    }

    /// What was asked about the queue or the bus.
    pub(in crate::forward) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

async fn answer(
    service: Service,
    state: &Mutex<State>,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Body> {
    assert!(headers.contains_key("authorization"), "it is signed");
    let target = headers.get("x-amz-target").map(|of| of.to_str().unwrap());
    if matches!(
        target,
        Some("AmazonSQS.GetQueueUrl" | "AWSEvents.DescribeEventBus")
    ) {
        let mut state = state.lock().unwrap();
        state.asked.push(String::from_utf8(body.to_vec()).unwrap());
        return match state.about {
            Some((status, code)) => service.refusal(status, code, "so it was scripted"),
            None => {
                let about = json!({"QueueUrl": "http://q/1/telemetry", "CreationTime": state.made});
                reply(200, about.to_string())
            }
        };
    }
    {
        let mut state = state.lock().unwrap();
        state.at_once += 1;
        state.most_at_once = state.most_at_once.max(state.at_once);
    }
    // Whoever sends several at a time has sent them now.
    tokio::time::sleep(Duration::from_millis(2)).await;
    state.lock().unwrap().at_once -= 1;
    let entries = service.entries(target, body);
    assert!(
        (1..=10).contains(&entries.len()),
        "{} entries",
        entries.len()
    );
    let (mood, reply) = {
        let mut state = state.lock().unwrap();
        let mood = state.moods.pop().unwrap_or(Mood::Fine);
        let reply = state.put(service, &mood, entries);
        (mood, reply)
    };
    match mood {
        Mood::LosesTheAnswer => std::future::pending().await,
        Mood::DropsTheConnection => {
            let broken = futures_util::stream::iter([
                Ok(Bytes::from_static(b"{\"Successful\":[")),
                Err(std::io::Error::other("dropped")),
            ]);
            Response::new(Body::from_stream(broken))
        }
        _ => reply,
    }
}

/// An entry that was not taken: code, and whether the sender is at fault.
type Failure = (&'static str, bool);

impl State {
    fn put(&mut self, service: Service, mood: &Mood, entries: Vec<Entry>) -> Response<Body> {
        let positions: Vec<u64> = entries.iter().map(Entry::position).collect();
        self.requests.push(positions.clone());
        if let Mood::Answers(status, code, message) = mood {
            return service.refusal(*status, code, message);
        }
        let mut results = Vec::new();
        for (n, entry) in entries.into_iter().enumerate() {
            let key = entry.key();
            let id = entry.id.clone();
            let failure: Option<Failure> = match mood {
                _ if self.never.contains(&positions[n]) => Some(("InvalidParameterValue", true)),
                _ if self.failing.contains(&positions[n]) => Some(("InternalError", false)),
                Mood::Fails(which, code, sender) if which.contains(&n) => Some((*code, *sender)),
                Mood::Throttles(keys) if keys.contains(&&*key) => Some(("RequestThrottled", true)),
                _ => None,
            };
            if failure.is_none() {
                let identity = entry.identity.clone();
                if identity.is_none_or(|identity| self.identities.insert(identity)) {
                    self.taken.push(entry);
                }
            }
            if !matches!(mood, Mood::Forgets(which) if *which == n) {
                results.push((id, failure));
            }
        }
        service.results(&results)
    }
}

impl Service {
    fn entries(self, target: Option<&str>, body: &[u8]) -> Vec<Entry> {
        if self == Self::Sns {
            return form_entries(body);
        }
        let request: Value = serde_json::from_slice(body).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let entries = request["Entries"].as_array().unwrap().iter();
        match self {
            Self::EventBridge => {
                assert_eq!(target, Some("AWSEvents.PutEvents"));
                let of = |entry: &Value| Entry {
                    body: text(&entry["Detail"]).unwrap(),
                    raw: entry.clone(),
                    ..Entry::default()
                };
                entries.map(of).collect()
            }
            _ => {
                assert_eq!(target, Some("AmazonSQS.SendMessageBatch"));
                let of = |entry: &Value| Entry {
                    id: text(&entry["Id"]).unwrap(),
                    body: text(&entry["MessageBody"]).unwrap(),
                    group: text(&entry["MessageGroupId"]),
                    identity: text(&entry["MessageDeduplicationId"]),
                    attributes: (entry["MessageAttributes"].as_object().unwrap().iter())
                        .map(|(name, value)| (name.clone(), text(&value["StringValue"]).unwrap()))
                        .collect(),
                    raw: entry.clone(),
                };
                entries.map(of).collect()
            }
        }
    }

    fn results(self, results: &[(String, Option<Failure>)]) -> Response<Body> {
        match self {
            Self::EventBridge => {
                let of = |(n, (_, failure)): (usize, &(String, Option<Failure>))| match failure {
                    None => json!({"EventId": n.to_string()}),
                    Some((code, _)) => json!({"ErrorCode": code, "ErrorMessage": "scripted"}),
                };
                let entries: Vec<_> = results.iter().enumerate().map(of).collect();
                reply(200, json!({"Entries": entries}).to_string())
            }
            Self::Sqs => {
                let (mut successful, mut failed) = (Vec::new(), Vec::new());
                for (id, failure) in results {
                    match failure {
                        None => successful
                            .push(json!({"Id": id, "MessageId": "m", "MD5OfMessageBody": "0"})),
                        Some((code, sender)) => failed.push(json!({
                            "Id": id, "Code": code, "SenderFault": sender, "Message": "scripted"
                        })),
                    }
                }
                reply(
                    200,
                    json!({"Successful": successful, "Failed": failed}).to_string(),
                )
            }
            Self::Sns => {
                let (mut successful, mut failed) = (String::new(), String::new());
                for (id, failure) in results {
                    match failure {
                        None => {
                            successful +=
                                &format!("<member><Id>{id}</Id><MessageId>m</MessageId></member>")
                        }
                        Some((code, sender)) => {
                            failed += &format!(
                                "<member><Id>{id}</Id><Code>{code}</Code><Message>scripted</Message>\
                             <SenderFault>{sender}</SenderFault></member>"
                            )
                        }
                    }
                }
                reply(
                    200,
                    format!(
                        "<PublishBatchResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\">\
                         <PublishBatchResult><Successful>{successful}</Successful>\
                         <Failed>{failed}</Failed></PublishBatchResult></PublishBatchResponse>"
                    ),
                )
            }
        }
    }

    fn refusal(self, status: u16, code: &str, message: &str) -> Response<Body> {
        match self {
            Self::Sns => reply(
                status,
                format!(
                    "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error>\
                     <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                     <RequestId>r</RequestId></ErrorResponse>"
                ),
            ),
            Self::EventBridge => reply(
                status,
                json!({"__type": code, "message": message}).to_string(),
            ),
            // The code that everybody knows is in a header.
            Self::Sqs => {
                let body = json!({"__type": "com.amazonaws.sqs#Scripted", "message": message});
                let mut reply = reply(status, body.to_string());
                let known = format!("{code};Sender").parse().unwrap();
                reply.headers_mut().insert("x-amzn-query-error", known);
                reply
            }
        }
    }
}

fn reply(status: u16, body: String) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .body(Body::from(body))
        .unwrap()
}

/// Entries of the query protocol: `PublishBatchRequestEntries.member.1.Message=...`.
fn form_entries(body: &[u8]) -> Vec<Entry> {
    let body = std::str::from_utf8(body).unwrap();
    let pairs: HashMap<String, String> = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    assert_eq!(pairs["Action"], "PublishBatch");
    let mut entries = Vec::new();
    for n in 1.. {
        let prefix = format!("PublishBatchRequestEntries.member.{n}");
        let of = |name: &str| pairs.get(&format!("{prefix}.{name}")).cloned();
        let Some(id) = of("Id") else {
            break;
        };
        let attribute = |n: usize| {
            let name = of(&format!("MessageAttributes.entry.{n}.Name"))?;
            let value = of(&format!("MessageAttributes.entry.{n}.Value.StringValue"));
            Some((name, value.unwrap()))
        };
        entries.push(Entry {
            id,
            body: of("Message").unwrap(),
            group: of("MessageGroupId"),
            identity: of("MessageDeduplicationId"),
            attributes: (1..).map_while(attribute).collect(),
            raw: Value::Null,
        });
    }
    entries
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Records 1, 2, 3 and so on of these devices.
pub(in crate::forward) fn of_devices(devices: &[u8]) -> Batch {
    let numbered = (1..).zip(devices);
    let item = |(n, device): (u64, &u8)| Item::check(record(n, *device)).unwrap();
    Batch {
        items: numbered.map(item).collect(),
    }
}

/// Whatever can become of a request.
pub(in crate::forward) fn mood() -> impl Strategy<Value = Mood> {
    let keys = || {
        proptest::sample::subsequence(vec!["device-0", "device-1", "device-2", "device-3"], 0..=3)
    };
    let which = || proptest::collection::vec(0usize..4, 0..3);
    prop_oneof![
        5 => Just(Mood::Fine),
        3 => keys().prop_map(Mood::Throttles),
        3 => which().prop_map(|which| Mood::Fails(which, "InternalFailure", false)),
        1 => (0usize..3).prop_map(Mood::Forgets),
        1 => Just(Mood::Answers(400, "RequestThrottled", "scripted")),
        1 => Just(Mood::Answers(500, "InternalFailure", "scripted")),
        1 => Just(Mood::DropsTheConnection),
    ]
}

/// Delivers one record of each of these devices, in turn, whatever the place does.
pub(in crate::forward) fn deliver(
    service: Service,
    moods: Vec<Mood>,
    devices: &[u8],
    destination: impl FnOnce(&Place) -> Arc<dyn Destination>,
) -> (Vec<Entry>, usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let place = Place::start(service, moods).await;
        let model = Model::new();
        for (n, device) in (1..).zip(devices) {
            model.append(record(n, *device));
        }
        let (engine, _) = engine(&model, destination(&place), 1_000);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let drained = async {
            while model.backlog() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), drained)
            .await
            .unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
        let dead = model.disk.lock().unwrap().dead.len();
        (place.taken(), dead)
    })
}

/// Whether new ones of each device came in order, and all came; copies count as late.
pub(in crate::forward) fn are_all_in_order(taken: &[Entry], count: usize) -> bool {
    let mut seen = BTreeSet::new();
    let mut last = HashMap::new();
    taken.iter().all(|entry| {
        let position = entry.position();
        !seen.insert(position) || last.insert(entry.key(), position) < Some(position)
    }) && seen.len() == count
}
