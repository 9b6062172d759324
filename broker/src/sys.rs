//! `$SYS`: the broker's counts as retained messages, under the names that Mosquitto
//! gave them, and the rates of the clients in lists.
//!
//! A topic is said again when its value has changed, and all are now and then, in
//! case one found no room among the retained messages. Loads are moving averages
//! per minute over 1, 5 and 15 minutes, as Mosquitto reckons them. Nothing of it is
//! data: it never goes to the gateway, and wildcards of the first level do not match
//! it. It goes to those who are connected, at QoS 0, and waits for nobody who is not. `heap` is what the system holds in memory for the whole process.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use crate::{Handle, Metrics, Publish, QoS};

/// How often the rates of clients are brought up to date.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Turns after which everything is said again.
const REPEAT_EVERY: u32 = 30;
/// The averages: their topics' last level, and their seconds.
const AVERAGES: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// A count that is shown as it is.
type Count = (&'static str, fn(&Metrics) -> u64);

const COUNTS: &[Count] = &[
    ("bytes/received", |now| now.bytes_in),
    ("bytes/sent", |now| now.bytes_out),
    ("clients/connected", |now| now.sessions_open),
    ("clients/active", |now| now.sessions_open),
    ("clients/maximum", |now| now.sessions_max),
    ("clients/expired", |now| now.sessions_expired),
    ("messages/received", |now| now.packets_in),
    ("messages/sent", messages_sent),
    ("messages/stored", stored),
    ("publish/bytes/received", |now| now.payload_bytes_in),
    ("publish/bytes/sent", |now| now.payload_bytes_out),
    ("publish/messages/received", publishes_received),
    ("publish/messages/sent", |now| now.delivered),
    ("publish/messages/dropped", dropped),
    ("retained messages/count", |now| now.retained),
    ("store/messages/bytes", |now| {
        now.retained_bytes + now.queued_bytes
    }),
    ("store/messages/count", stored),
    ("subscriptions/count", |now| now.subscriptions),
];

/// Counts whose growth is shown as a load.
const LOADS: &[Count] = &[
    ("bytes/received", |now| now.bytes_in),
    ("bytes/sent", |now| now.bytes_out),
    ("connections", |now| now.sessions_total),
    ("messages/received", |now| now.packets_in),
    ("messages/sent", messages_sent),
    ("publish/dropped", dropped),
    ("publish/received", publishes_received),
    ("publish/sent", |now| now.delivered),
    ("sockets", |now| now.connections_total),
];

fn publishes_received(now: &Metrics) -> u64 {
    now.publishes_in_qos0 + now.publishes_in_qos1 + now.publishes_in_qos2
}

/// Messages, acknowledgements, other answers, and a CONNACK for each session.
fn messages_sent(now: &Metrics) -> u64 {
    now.delivered + now.acknowledged + now.answers + now.sessions_total
}

fn stored(now: &Metrics) -> u64 {
    now.retained + now.queued_messages
}

fn dropped(now: &Metrics) -> u64 {
    now.dropped_queue_full
        + now.dropped_kept_queue_full
        + now.dropped_kept_disk_full
        + now.dropped_shared
        + now.dropped_too_large
        + now.dropped_expired
        + now.dropped_revoked
        + now.dropped_router
}

/// Keeps rates and topics up to date for as long as it is polled; `every` is zero
/// where there is to be no `$SYS`.
pub(crate) async fn run(handle: Handle, every: Duration) {
    let ticks = |every| {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let mut samples = ticks(SAMPLE_EVERY);
    let is_on = !every.is_zero();
    let mut turns = ticks(if is_on { every } else { SAMPLE_EVERY });
    let mut sampled = Instant::now();
    let mut tree = Tree::new(sampled);
    loop {
        tokio::select! {
            now = samples.tick() => {
                let since = now.duration_since(sampled);
                sampled = now;
                for client in handle.registry.clients() {
                    client.sample(since);
                }
            }
            now = turns.tick(), if is_on => {
                let messages = tree.turn(now, &handle.metrics(), away(&handle), memory());
                handle.local().show(&messages).await;
            }
        }
    }
}

/// What was said, and what the averages need.
#[derive(Debug)]
struct Tree {
    started: Instant,
    said: HashMap<String, String>,
    loads: Vec<Load>,
    last: Option<Instant>,
    turns: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    count: u64,
    averages: [f64; 3],
}

impl Tree {
    fn new(started: Instant) -> Self {
        Self {
            started,
            said: HashMap::new(),
            loads: vec![Load::default(); LOADS.len()],
            last: None,
            turns: 0,
        }
    }

    /// What has changed, as messages. `away`: persistent sessions whose clients are
    /// not connected; `memory`: bytes held now, and at most so far.
    fn turn(
        &mut self,
        now: Instant,
        metrics: &Metrics,
        away: u64,
        memory: Option<[u64; 2]>,
    ) -> Vec<Publish> {
        let mut values: Vec<(String, String)> = Vec::new();
        let version = concat!("penstock ", env!("CARGO_PKG_VERSION"));
        values.push(("version".into(), version.into()));
        let uptime = now.duration_since(self.started).as_secs();
        values.push(("uptime".into(), format!("{uptime} seconds")));
        for (name, count) in COUNTS {
            values.push(((*name).into(), count(metrics).to_string()));
        }
        values.push(("clients/disconnected".into(), away.to_string()));
        values.push(("clients/inactive".into(), away.to_string()));
        let total = metrics.sessions_open + away;
        values.push(("clients/total".into(), total.to_string()));
        if let Some([current, maximum]) = memory {
            values.push(("heap/current".into(), current.to_string()));
            values.push(("heap/maximum".into(), maximum.to_string()));
        }
        let since = self.last.map(|last| now.duration_since(last));
        self.last = Some(now);
        for ((name, count), load) in LOADS.iter().zip(&mut self.loads) {
            load.take(count(metrics), since);
            for ((span, _), average) in AVERAGES.iter().zip(load.averages) {
                values.push((format!("load/{name}/{span}"), format!("{average:.2}")));
            }
        }
        self.turns += 1;
        if self.turns == REPEAT_EVERY {
            self.turns = 0;
            self.said.clear();
        }
        values.retain(|(name, value)| self.said.get(name) != Some(value));
        let messages = values.iter().map(|(name, value)| Publish {
            topic: Arc::from(format!("$SYS/broker/{name}")),
            payload: Bytes::from(value.clone()),
            qos: QoS::AtMostOnce,
            retain: true,
            dup: false,
            properties: None,
            delivery: None,
        });
        let messages = messages.collect();
        self.said.extend(values);
        messages
    }
}

impl Load {
    /// Takes in a count, `since` the last one; the first only begins.
    fn take(&mut self, count: u64, since: Option<Duration>) {
        let more = count.saturating_sub(self.count);
        self.count = count;
        let Some(secs) = since
            .map(|since| since.as_secs_f64())
            .filter(|secs| *secs > 0.0)
        else {
            return;
        };
        let per_minute = more as f64 * 60.0 / secs;
        for ((_, span), average) in AVERAGES.iter().zip(&mut self.averages) {
            let kept = (-secs / span).exp();
            *average = per_minute + kept * (*average - per_minute);
        }
    }
}

/// Persistent sessions whose clients are not connected.
fn away(handle: &Handle) -> u64 {
    let clients = handle.registry.clients();
    let persistent = clients.iter().filter(|client| client.is_persistent());
    let kept = handle.counters.sessions_kept.get();
    kept.saturating_sub(persistent.count() as u64)
}

/// Bytes that the process holds in memory, now and at most so far, where the system
/// says so.
fn memory() -> Option<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Some([bytes("VmRSS:")?, bytes("VmHWM:")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(said: &[Publish], topic: &str) -> Option<String> {
        let found = said.iter().find(|one| &*one.topic == topic)?;
        Some(String::from_utf8(found.payload.to_vec()).unwrap())
    }

    #[test]
    fn only_what_has_changed_is_said_again() {
        let start = Instant::now();
        let mut tree = Tree::new(start);
        let mut metrics = Metrics::default();
        let first = tree.turn(start, &metrics, 0, Some([1, 2]));
        assert!(first.iter().all(|one| one.retain));
        assert_eq!(value(&first, "$SYS/broker/uptime").unwrap(), "0 seconds");
        assert_eq!(value(&first, "$SYS/broker/heap/maximum").unwrap(), "2");
        assert_eq!(
            value(&first, "$SYS/broker/load/sockets/15min").unwrap(),
            "0.00"
        );
        metrics.sessions_open = 3;
        let topics: Vec<_> = tree
            .turn(start, &metrics, 2, Some([1, 2]))
            .iter()
            .map(|one| one.topic.to_string())
            .collect();
        assert_eq!(
            topics,
            [
                "$SYS/broker/clients/connected",
                "$SYS/broker/clients/active",
                "$SYS/broker/clients/disconnected",
                "$SYS/broker/clients/inactive",
                "$SYS/broker/clients/total"
            ]
        );
    }

    #[test]
    fn a_steady_load_is_what_comes_in_a_minute() {
        let start = Instant::now();
        let mut tree = Tree::new(start);
        let mut metrics = Metrics::default();
        let at = |secs| start + Duration::from_secs(secs);
        tree.turn(start, &metrics, 0, None);
        metrics.connections_total = 10;
        let early = tree.turn(at(10), &metrics, 0, None);
        // 60 a minute, of which ten seconds are (1 - e^(-10/60)).
        assert_eq!(
            value(&early, "$SYS/broker/load/sockets/1min").unwrap(),
            "9.21"
        );
        for turn in 2..1000 {
            metrics.connections_total = turn * 10;
            tree.turn(at(turn * 10), &metrics, 0, None);
        }
        assert_eq!(tree.said["load/sockets/1min"], "60.00");
        assert_eq!(tree.said["load/sockets/15min"], "60.00");
    }
}
