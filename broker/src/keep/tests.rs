//! The keeper against what it promises, with a real file.

mod bounds;
mod desk;
mod errands;
mod fair;
mod file;
mod full;
mod model;
mod owed;
mod sealed;
mod shares;
mod slices;
mod wills;

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::{Add, Config, Enter, Entered, Item, Keeper, Kept, Leave, Op, SessionId, Sub, Turn};
use crate::{
    Publish, QoS,
    budget::Budget,
    fanout::{Message, Outbox},
    metrics::Counters,
    packet::SendRetained,
};

/// A keeper and what its sessions share.
struct Running {
    keeper: Keeper,
    counters: Arc<Counters>,
    budget: Arc<Budget>,
}

fn config(dir: &Path) -> Config {
    Config {
        dir: Some(dir.to_owned()),
        ..Config::default()
    }
}

fn open(config: Config) -> Running {
    let counters = Arc::<Counters>::default();
    let budget = Arc::new(Budget::of(64 << 20));
    let keeper = Keeper::open(config, Arc::clone(&counters), Arc::clone(&budget)).unwrap();
    Running {
        keeper,
        counters,
        budget,
    }
}

/// Copies the files as a crash leaves them.
fn crash(from: &Path, to: &Path) {
    for name in ["broker.db", "broker.db-wal"] {
        let path = from.join(name);
        if path.try_exists().unwrap() {
            std::fs::copy(path, to.join(name)).unwrap();
        }
    }
}

impl Running {
    fn message(&self, topic: &str, payload: &str, qos: QoS, retain: bool) -> Message {
        let publish = Publish {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos,
            retain,
            dup: false,
            properties: None,
            delivery: None,
        };
        let now_ms = self.keeper.shared().clock.now_ms();
        Message::new(&publish, 0, now_ms, 0, &self.budget)
    }

    /// Waits until so many messages are queued: what sessions leave behind goes bit by
    /// bit.
    async fn until_queued(&self, count: u64) {
        for _ in 0..10_000 {
            if self.counters.queued_messages.get() == count {
                return;
            }
            // With each answer it is a commit further.
            self.keeper.sessions().await;
        }
        let found = self.counters.queued_messages.get();
        panic!("{found} messages are queued, not {count}");
    }

    async fn enter(&self, client: &str, clean: bool) -> Entered {
        let enter = Enter {
            client: Arc::from(client),
            user: None,
            clean,
            expiry_secs: 1000,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &self.budget)),
            will: None,
        };
        self.keeper.enter(enter).await.unwrap()
    }

    async fn leave(&self, session: SessionId, sent: i64) {
        let leave = Leave {
            session,
            sent,
            expiry_secs: None,
            forget_will: true,
        };
        self.keeper.leave(leave).await.unwrap();
    }

    async fn subscribe(&self, session: SessionId, filter: &str, qos: QoS) {
        let turn = Turn {
            subscribe: vec![add(filter, qos)],
            ..Turn::default()
        };
        self.keeper.turn(session, turn).await.unwrap();
    }

    /// Whether there was room.
    async fn publish(&self, message: Message) -> bool {
        let op = Op {
            message: Some(message),
            from: None,
            exchange: None,
            by: None,
        };
        let kept = self.keeper.publish(vec![op]).await.unwrap();
        matches!(kept[..], [Kept::Done(_)])
    }

    async fn done(&self, session: SessionId, positions: Vec<i64>) {
        let turn = Turn {
            done: positions,
            ..Turn::default()
        };
        self.keeper.turn(session, turn).await.unwrap();
    }
}

/// A keeper whose file has no room for anything more. A session that is away has the
/// subscription `filter`.
pub(crate) async fn full(filter: &str, counters: &Arc<Counters>) -> Keeper {
    let budget = Arc::new(Budget::of(1 << 30));
    let config = Config {
        queue_total_bytes_max: 1 << 20,
        retained_bytes_max: 1 << 20,
        ..Config::default()
    };
    let running = Running {
        keeper: Keeper::open(config, Arc::clone(counters), Arc::clone(&budget)).unwrap(),
        counters: Arc::clone(counters),
        budget,
    };
    let away = running.enter("away", false).await.session;
    running.subscribe(away, filter, QoS::ExactlyOnce).await;
    running.leave(away, 0).await;
    let session = running.enter("large", false).await.session;
    let mut number = 0;
    for (count, len) in [(100, 60_000), (1, 60_000), (1, 3_000), (1, 10)] {
        // What a full disk refused is believed for a moment.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        loop {
            number += 1;
            let filters = (0..count).map(|n| format!("{number}/{n}/{}", "x".repeat(len)));
            let turn = Turn {
                subscribe: filters.map(|one| add(&one, QoS::AtMostOnce)).collect(),
                ..Turn::default()
            };
            if running.keeper.turn(session, turn).await.is_err() {
                break;
            }
        }
    }
    running.keeper
}

fn add(filter: &str, qos: QoS) -> Add {
    Add {
        filter: Arc::from(filter),
        subscription: Sub {
            qos,
            no_local: false,
            retain_as_published: false,
            id: None,
        },
        retained: SendRetained::Always,
    }
}

fn drain(entered: &Entered) -> Vec<Item> {
    std::iter::from_fn(|| entered.feed.pop()).collect()
}

fn text(item: &Item) -> String {
    item.message.as_ref().map_or_else(String::new, |message| {
        String::from_utf8_lossy(message.payload()).into_owned()
    })
}

fn texts(entered: &Entered) -> Vec<String> {
    drain(entered).iter().map(text).collect()
}
