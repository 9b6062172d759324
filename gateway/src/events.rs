//! The normalised stream for local programs: committed events on
//! `$penstock/events/{device}/{type}`.
//!
//! ```text
//! store ─ after commit ─▶ newest records in memory ─▶ Events ─▶ broker ─▶ subscribers
//! ```
//!
//! Promises: only what is committed is shown, each event once, and in the order of
//! the journal. Neither ingest nor a destination ever waits for it, and while nobody
//! subscribes it does nothing but look at a clock.
//!
//! It does not promise every event: it begins a moment before somebody subscribes,
//! reads from memory only, and what has left that memory before it was shown is
//! counted and skipped. A subscriber whose queue is full loses events alone; on a
//! full disk those who are connected see them, and nobody else does (the broker's
//! `dropped_kept_queue_full` and `dropped_kept_disk_full`). Nothing is shown twice after a restart, and nothing is made
//! up for: whoever must have every event has a destination. A subscriber with a
//! session that outlives its connection gets what was shown while it was away, as
//! far as its queue goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use penstock_broker::{Local, Properties, Publish, QoS};
use serde::Serialize;
use tokio::{pin, task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    event::{
        View,
        message::{self, Payload, VIA_PROPERTY, escape},
    },
    gateway_id::GatewayId,
    record::Record,
    store::{self, Newest},
};

/// Where events are shown.
pub const ROOT: &str = "$penstock/events";
/// How far the beginning may lie before the first subscription.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Records shown in one go.
const RECORDS_MAX: usize = 256;
/// Bytes of records shown in one go, about.
const BYTES_MAX: usize = 256 * 1024;

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// What an event looks like.
    pub format: Payload,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Payload::Json,
        }
    }
}

/// What was shown, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
#[schema(as = EventCounts)]
pub struct Counts {
    /// Events handed to subscribers.
    pub shown: u64,
    /// Events that had left memory before they could be shown while somebody subscribed,
    /// or are too long for a packet.
    pub skipped: u64,
}

/// Looks at the stream while it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    shown: AtomicU64,
    skipped: AtomicU64,
}

impl Handle {
    /// The counts as they are now.
    pub fn counts(&self) -> Counts {
        Counts {
            shown: self.0.shown.load(Relaxed),
            skipped: self.0.skipped.load(Relaxed),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    config: Config,
    gateway: GatewayId,
    store: store::Handle,
    local: Local,
    handle: Handle,
}

impl Events {
    /// Prepares; shows nothing yet.
    pub fn new(config: Config, gateway: GatewayId, store: store::Handle, local: Local) -> Self {
        Self {
            config,
            gateway,
            store,
            local,
            handle: Handle::default(),
        }
    }

    /// Tells what was shown.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Shows events until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.show_all()).await;
    }

    async fn show_all(&self) {
        let mut committed = self.store.committed();
        let mut shown_to = *committed.borrow();
        loop {
            let changed = self.local.subscriptions_changed();
            pin!(changed);
            changed.as_mut().enable();
            if !self.local.is_wanted_below(ROOT) {
                // Who has just subscribed expects what is committed from then on, and
                // we hear of it later: so the beginning is known beforehand.
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep(LOOK_EVERY) => shown_to = *committed.borrow_and_update(),
                }
                continue;
            }
            if *committed.borrow_and_update() <= shown_to {
                tokio::select! {
                    () = changed => continue,
                    more = committed.changed() => if more.is_err() {
                        // The store has ended, and so does everything.
                        std::future::pending::<()>().await;
                    },
                }
            }
            let Newest { records, floor } = self.store.newest(shown_to, RECORDS_MAX, BYTES_MAX);
            if floor > shown_to {
                self.handle
                    .0
                    .skipped
                    .fetch_add(floor.0 - shown_to.0, Relaxed);
                shown_to = floor;
            }
            shown_to = records.last().map_or(shown_to, |record| record.position);
            self.show(&records).await;
            // Others first: nobody waits for this.
            yield_now().await;
        }
    }

    async fn show(&self, records: &[Record]) {
        let publishes: Vec<Publish> = records.iter().filter_map(|one| self.publish(one)).collect();
        let counts = &self.handle.0;
        let shown = self.local.show(&publishes).await as u64;
        counts.shown.fetch_add(shown, Relaxed);
        let skipped = publishes.len() as u64 - shown;
        counts.skipped.fetch_add(skipped, Relaxed);
    }

    /// The message of a record, if somebody wants it.
    fn publish(&self, record: &Record) -> Option<Publish> {
        // What does not read back is a destination's to report. Most events interest
        // nobody: only what the topic is made of is read of those.
        let (kind, device) = View::kind_and_device(&record.body).ok()?;
        let mut topic = String::with_capacity(64);
        topic.push_str(ROOT);
        for level in [device, kind] {
            topic.push('/');
            escape(level, &mut topic);
        }
        if topic.len() > 65_535 || !self.local.is_wanted(&topic) {
            return None;
        }
        let view = View::parse(&record.body).ok()?;
        if view.attributes.replayed.is_some() {
            // It was shown when it came.
            return None;
        }
        let user = message::properties(&view.attributes);
        let via = message::via(&view, &self.gateway).into_iter();
        let properties = Properties {
            payload_is_utf8: Some(self.config.format == Payload::Json),
            content_type: Some(self.config.format.media_type().into()),
            user: user
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .chain(via.map(|id| (VIA_PROPERTY.into(), id)))
                .collect(),
            ..Properties::default()
        };
        Some(Publish {
            topic: topic.into(),
            payload: Bytes::from(self.config.format.encode(&view)),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: Some(Arc::new(properties)),
            delivery: None,
        })
    }
}

#[cfg(feature = "mqtt")]
#[cfg(test)]
mod tests;
