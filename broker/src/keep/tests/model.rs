//! Random work, checked by a simple twin in memory, with crashes in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::{keep::Token, topic};

#[derive(Debug, Clone)]
enum Action {
    Enter {
        client: usize,
        clean: bool,
    },
    Leave {
        client: usize,
    },
    Subscribe {
        client: usize,
        filter: usize,
        qos: QoS,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        topic: usize,
        qos: QoS,
        retain: bool,
        empty: bool,
    },
    /// The client acknowledges one of what it has, for good.
    Acknowledge {
        client: usize,
        place: prop::sample::Index,
    },
    /// It sends PUBREC for one of what it has.
    Receive {
        client: usize,
        place: prop::sample::Index,
    },
    Begin {
        client: usize,
        packet: u16,
    },
    BeginAndReceive {
        client: usize,
        packet: u16,
    },
    /// There was no room to note that it began.
    ReceiveUnbegun {
        client: usize,
        packet: u16,
    },
    Release {
        client: usize,
        packet: u16,
    },
    Reopen {
        crash: bool,
    },
}

const CLIENTS: [&str; 3] = ["a", "b", "c"];
const TOPICS: [&str; 4] = ["x", "x/y", "x/z", "w/y"];
const FILTERS: [&str; 5] = ["#", "x/#", "+/y", "x/z", "w/+"];

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS.len();
    let filter = 0..FILTERS.len();
    let index = any::<prop::sample::Index>;
    let packet = 1..4_u16;
    prop_oneof![
        4 => (client.clone(), prop::bool::weighted(0.2))
            .prop_map(|(client, clean)| Action::Enter { client, clean }),
        2 => client.clone().prop_map(|client| Action::Leave { client }),
        4 => (client.clone(), filter.clone(), qos())
            .prop_map(|(client, filter, qos)| Action::Subscribe { client, filter, qos }),
        1 => (client.clone(), filter)
            .prop_map(|(client, filter)| Action::Unsubscribe { client, filter }),
        10 => (0..TOPICS.len(), qos(), prop::bool::weighted(0.3), prop::bool::weighted(0.1))
            .prop_map(|(topic, qos, retain, empty)| Action::Publish { topic, qos, retain, empty }),
        5 => (client.clone(), index())
            .prop_map(|(client, place)| Action::Acknowledge { client, place }),
        3 => (client.clone(), index())
            .prop_map(|(client, place)| Action::Receive { client, place }),
        1 => (client.clone(), packet.clone())
            .prop_map(|(client, packet)| Action::Begin { client, packet }),
        2 => (client.clone(), packet.clone())
            .prop_map(|(client, packet)| Action::BeginAndReceive { client, packet }),
        1 => (client.clone(), packet.clone())
            .prop_map(|(client, packet)| Action::ReceiveUnbegun { client, packet }),
        2 => (client, packet).prop_map(|(client, packet)| Action::Release { client, packet }),
        2 => any::<bool>().prop_map(|crash| Action::Reopen { crash }),
    ]
}

/// A message that a client is owed.
#[derive(Debug, Clone, PartialEq)]
struct Owed {
    payload: String,
    qos: QoS,
    retain: bool,
    received: bool,
    /// Where it came first.
    position: Option<i64>,
}

#[derive(Debug, Default)]
struct Twin {
    sessions: HashMap<usize, TwinSession>,
    retained: BTreeMap<usize, (String, QoS)>,
}

#[derive(Debug, Default)]
struct TwinSession {
    subscriptions: BTreeMap<usize, QoS>,
    queue: Vec<Owed>,
    exchanges: BTreeMap<u16, (Token, bool)>,
}

impl Twin {
    fn publish(&mut self, topic: usize, payload: &str, qos: QoS, retain: bool) {
        if retain && payload.is_empty() {
            self.retained.remove(&topic);
        } else if retain {
            self.retained.insert(topic, (payload.to_owned(), qos));
        }
        for session in self.sessions.values_mut() {
            let granted = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| topic::matches(TOPICS[topic], FILTERS[**filter]))
                .map(|(_, qos)| *qos)
                .max();
            session.owe(payload, granted.map(|granted| granted.min(qos)), false);
        }
    }
}

impl TwinSession {
    fn owe(&mut self, payload: &str, qos: Option<QoS>, retain: bool) {
        if let Some(qos) = qos.filter(|qos| *qos > QoS::AtMostOnce) {
            self.queue.push(Owed {
                payload: payload.to_owned(),
                qos,
                retain,
                received: false,
                position: None,
            });
        }
    }
}

/// A connection, and what it was sent and has not acknowledged.
struct Connected {
    entered: Entered,
    got: Vec<Item>,
}

struct Test {
    dir: tempfile::TempDir,
    running: Running,
    twin: Twin,
    connected: HashMap<usize, Connected>,
    count: usize,
}

impl Test {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            running: open(config(dir.path())),
            dir,
            twin: Twin::default(),
            connected: HashMap::new(),
            count: 0,
        }
    }

    async fn apply(&mut self, action: &Action) {
        let keeper = self.running.keeper.clone();
        let session = |test: &Self, client: usize| {
            let connected = test.connected.get(&client)?;
            Some(connected.entered.session)
        };
        match *action {
            Action::Enter { client, clean } => self.enter(client, clean).await,
            Action::Leave { client } => {
                if let Some(connected) = self.connected.remove(&client) {
                    let sent = connected.got.last().map_or(0, |item| item.position);
                    self.running.leave(connected.entered.session, sent).await;
                }
            }
            Action::Subscribe {
                client,
                filter,
                qos,
            } => {
                let Some(id) = session(self, client) else {
                    return;
                };
                self.running.subscribe(id, FILTERS[filter], qos).await;
                let twin = self.twin.sessions.get_mut(&client).unwrap();
                twin.subscriptions.insert(filter, qos);
                let mut retained: Vec<_> = self.twin.retained.iter().collect();
                retained.sort_by_key(|(topic, _)| TOPICS[**topic]);
                for (topic, (payload, published)) in retained {
                    if topic::matches(TOPICS[*topic], FILTERS[filter]) {
                        twin.owe(payload, Some(qos.min(*published)), true);
                    }
                }
            }
            Action::Unsubscribe { client, filter } => {
                let Some(id) = session(self, client) else {
                    return;
                };
                let turn = Turn {
                    unsubscribe: vec![Arc::from(FILTERS[filter])],
                    ..Turn::default()
                };
                keeper.turn(id, turn).await.unwrap();
                let twin = self.twin.sessions.get_mut(&client).unwrap();
                twin.subscriptions.remove(&filter);
            }
            Action::Publish {
                topic,
                qos,
                retain,
                empty,
            } => {
                self.count += 1;
                let payload = match empty {
                    true => String::new(),
                    false => format!("message {}", self.count),
                };
                let message = self.running.message(TOPICS[topic], &payload, qos, retain);
                assert!(self.running.publish(message).await);
                self.twin.publish(topic, &payload, qos, retain);
            }
            Action::Acknowledge { client, place } => {
                let Some(connected) = self.connected.get_mut(&client) else {
                    return;
                };
                if connected.got.is_empty() {
                    return;
                }
                let item = connected.got.remove(place.index(connected.got.len()));
                let id = connected.entered.session;
                self.running.done(id, vec![item.position]).await;
                let twin = self.twin.sessions.get_mut(&client).unwrap();
                twin.queue
                    .retain(|owed| owed.position != Some(item.position));
            }
            Action::Receive { client, place } => {
                let Some(connected) = self.connected.get_mut(&client) else {
                    return;
                };
                if connected.got.is_empty() {
                    return;
                }
                let at = place.index(connected.got.len());
                let item = &mut connected.got[at];
                if item.qos != QoS::ExactlyOnce {
                    return;
                }
                item.message = None;
                let turn = Turn {
                    received: vec![item.position],
                    ..Turn::default()
                };
                keeper.turn(connected.entered.session, turn).await.unwrap();
                let twin = self.twin.sessions.get_mut(&client).unwrap();
                let owed = twin
                    .queue
                    .iter_mut()
                    .find(|owed| owed.position == Some(item.position));
                owed.unwrap().received = true;
            }
            Action::Begin { client, packet } => self.begin(client, packet, true, false).await,
            Action::BeginAndReceive { client, packet } => {
                self.begin(client, packet, true, true).await;
            }
            Action::ReceiveUnbegun { client, packet } => {
                self.begin(client, packet, false, true).await;
            }
            Action::Release { client, packet } => {
                let Some(id) = session(self, client) else {
                    return;
                };
                let twin = self.twin.sessions.get_mut(&client).unwrap();
                let Some((token, _)) = twin.exchanges.remove(&packet) else {
                    return;
                };
                let turn = Turn {
                    released: vec![(packet, token)],
                    ..Turn::default()
                };
                keeper.turn(id, turn).await.unwrap();
            }
            Action::Reopen { crash } => self.reopen(crash).await,
        }
    }

    async fn begin(&mut self, client: usize, packet: u16, begin: bool, receive: bool) {
        let Some(connected) = self.connected.get(&client) else {
            return;
        };
        let id = connected.entered.session;
        self.count += 1;
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.count.to_be_bytes());
        let keeper = &self.running.keeper;
        if begin {
            keeper.begin(id, vec![(packet, token)]).await.unwrap();
        }
        if receive {
            let op = Op {
                message: None,
                from: Some(id),
                exchange: Some((packet, token)),
                by: None,
            };
            keeper.publish(vec![op]).await.unwrap();
        }
        let twin = self.twin.sessions.get_mut(&client).unwrap();
        twin.exchanges.insert(packet, (token, receive));
    }

    async fn enter(&mut self, client: usize, clean: bool) {
        if let Some(before) = self.connected.remove(&client) {
            let sent = before.got.last().map_or(0, |item| item.position);
            self.running.leave(before.entered.session, sent).await;
        }
        let entered = self.running.enter(CLIENTS[client], clean).await;
        if clean {
            self.twin.sessions.remove(&client);
        }
        assert_eq!(entered.present, self.twin.sessions.contains_key(&client));
        let twin = self.twin.sessions.entry(client).or_default();
        let found: BTreeMap<usize, QoS> = entered
            .subscriptions
            .iter()
            .map(|add| {
                let at = FILTERS.iter().position(|filter| **filter == *add.filter);
                (at.unwrap(), add.subscription.qos)
            })
            .collect();
        assert_eq!(found, twin.subscriptions);
        let found: BTreeMap<u16, (Token, bool)> = entered
            .exchanges
            .iter()
            .map(|(packet, token, received)| (*packet, (*token, *received)))
            .collect();
        assert_eq!(found, twin.exchanges);
        let connected = Connected {
            entered,
            got: Vec::new(),
        };
        self.connected.insert(client, connected);
    }

    async fn reopen(&mut self, is_crash: bool) {
        let dir = tempfile::tempdir().unwrap();
        if is_crash {
            crash(self.dir.path(), dir.path());
            self.connected.clear();
        } else {
            for (_, connected) in self.connected.drain() {
                let sent = connected.got.last().map_or(0, |item| item.position);
                self.running.leave(connected.entered.session, sent).await;
            }
            self.running.keeper.close().await;
            crash(self.dir.path(), dir.path());
        }
        self.running = open(config(dir.path()));
        self.dir = dir;
    }

    /// What is connected has got what it is owed, and nothing else.
    async fn check(&mut self) {
        for (client, connected) in &mut self.connected {
            let items = drain(&connected.entered);
            connected.got.extend(items);
            let queue = &mut self.twin.sessions.get_mut(client).unwrap().queue;
            let mut positions = BTreeSet::new();
            assert_eq!(
                connected.got.len(),
                queue.len(),
                "{:?} {queue:?}",
                connected.got
            );
            for (item, owed) in connected.got.iter().zip(queue) {
                assert!(positions.last().is_none_or(|last| *last < item.position));
                positions.insert(item.position);
                let position = *owed.position.get_or_insert(item.position);
                assert_eq!(item.position, position, "a message keeps its identifier");
                assert_eq!(item.message.is_none(), owed.received);
                assert_eq!((item.qos, item.retain), (owed.qos, owed.retain));
                if !owed.received {
                    assert_eq!(text(item), owed.payload);
                }
            }
        }
        let mut retained: Vec<_> = self
            .twin
            .retained
            .iter()
            .map(|(topic, (payload, _))| (TOPICS[*topic].to_owned(), payload.clone()))
            .collect();
        retained.sort();
        let found: Vec<_> = self
            .running
            .keeper
            .shared()
            .retained
            .all()
            .iter()
            .map(|message| {
                let payload = String::from_utf8_lossy(message.payload()).into_owned();
                (message.topic_str().to_owned(), payload)
            })
            .collect();
        assert_eq!(found, retained);
        let owed: usize = self.twin.sessions.values().map(|one| one.queue.len()).sum();
        self.running.until_queued(owed as u64).await;
        if owed == 0 {
            assert_eq!(self.running.counters.queued_bytes.get(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_what_was_promised(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut test = Test::new();
            for action in &actions {
                test.apply(action).await;
                test.check().await;
            }
            test.reopen(true).await;
            for client in 0..CLIENTS.len() {
                test.enter(client, false).await;
            }
            test.check().await;
        });
    }
}
