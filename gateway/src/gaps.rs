//! Tells upstream of what was given up while room was short: an event for each device, class
//! and set of destinations, in the transaction that removes what was counted for it.
//!
//! It is told when it is over, and while it lasts after a minute, then after ever longer
//! pauses up to an hour: what tells of it takes room, too. When there is none it waits, and
//! is counted on.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    dedup::key::Parts,
    event::{Event, IdSource, Marks, Measurement, Quality, TimeSource, Timestamp, Value, json},
    gateway_id::GatewayId,
    ingest::Ingest,
    record::Routes,
    store::{self, Edit, Edited, Gap, NotEdited, take_gaps},
};

/// The type of the events.
const KIND: &str = "penstock.gap.v1";
/// Where such an event is said to have come in.
const TOPIC: &str = "$penstock/gaps";
/// Whose the events are that tell of devices which are not told apart.
const OTHERS: &str = "$others";

/// After the start, and between two changes: nothing is told in a hurry.
const QUIET: Duration = Duration::from_secs(2);
/// While it lasts, at first and at most.
const PAUSE: Duration = Duration::from_mins(1);
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// Gaps that are told with one commit.
const CHUNK: usize = 100;
/// What an event that tells of one takes, about.
const EVENT_BYTES: usize = 768;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gaps {
    store: store::Handle,
    ingest: Arc<Ingest>,
}

impl Gaps {
    /// Prepares; tells nothing yet.
    pub(crate) const fn new(store: store::Handle, ingest: Arc<Ingest>) -> Self {
        Self { store, ingest }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> crate::tasks::Result {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.tell_all() => ended,
        }
    }

    async fn tell_all(&self) -> crate::tasks::Result {
        let mut pause = PAUSE;
        loop {
            sleep(QUIET).await;
            tokio::select! {
                () = self.store.gaps_ended() => {}
                () = sleep(pause) => {}
            }
            let status = self.store.status();
            pause = match status.shedding {
                true => (pause * 2).min(PAUSE_MAX),
                false => PAUSE,
            };
            if status.gaps > 0 {
                self.tell().await?;
            }
        }
    }

    /// Tells what there is, as far as there is room for it.
    async fn tell(&self) -> Result<(), store::Stopped> {
        loop {
            let ingest = self.ingest.clone();
            match self.store.edit(Tell { ingest }).await {
                Ok(CHUNK) => {}
                Ok(_) => return Ok(()),
                Err(NotEdited::Stopped) => return Err(store::Stopped),
                Err(error @ NotEdited::Full) => {
                    tracing::debug!(%error, "what was given up is told later");
                    return Ok(());
                }
                Err(error @ NotEdited::Failed) => {
                    tracing::warn!(%error, "what was given up cannot be told yet");
                    return Ok(());
                }
            }
        }
    }
}

/// Tells a chunk.
#[derive(Debug)]
pub(crate) struct Tell {
    pub(crate) ingest: Arc<Ingest>,
}

impl Edit for Tell {
    /// How many were told.
    type Answer = usize;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<usize>> {
        let gaps = take_gaps(tables, CHUNK)?;
        let told = gaps.iter().map(|gap| {
            let event = event(gap, self.ingest.site(), self.ingest.gateway(), now);
            self.ingest.made_for(&event, Routes(gap.routes)).event
        });
        let told = told.collect();
        let counts = gaps.iter().map(|gap| (gap.device.clone(), gap.count));
        Ok(Edited::tells(gaps.len(), told, counts.collect()))
    }

    fn cost_bytes(&self) -> usize {
        CHUNK * EVENT_BYTES
    }
}

/// The event that tells of a gap, of this gateway. Its key is that of the gap, so that one
/// which comes back out of a damaged file is the same one; and no other's, for what dedupes
/// would drop the other.
fn event(gap: &Gap, site: Option<&Arc<str>>, gateway: Option<&GatewayId>, now: Timestamp) -> Event {
    let device = match &*gap.device {
        "" => OTHERS,
        device => device,
    };
    let (class, began) = (gap.class.as_str(), gap.began);
    // A row of an earlier version may have been told under what that made of it.
    let (site, id) = match gap.token {
        0 => (None, format!("gap:{class}:{:x}:{began}", gap.routes)),
        token => {
            let gateway = gateway.map_or("", |gateway| &**gateway.as_str());
            (site, format!("gap:{class}:{gateway}:{began}:{token:016x}"))
        }
    };
    let mut parts = Parts::default();
    parts
        .start(IdSource::Explicit, site.map(|site| &**site), device)
        .bytes(b"penstock.gap")
        .bytes(id.as_bytes());
    let (first, last) = (gap.first, gap.last);
    let value = |(name, value): (&str, Value)| Measurement {
        name: name.into(),
        value,
        unit: None,
        quality: Quality::Good,
        time: None,
    };
    let count = i64::try_from(gap.count).unwrap_or(i64::MAX);
    Event {
        key: parts.key(),
        id: Some(id.into()),
        id_source: IdSource::Explicit,
        kind: KIND.into(),
        device: device.into(),
        site: site.cloned(),
        time: Timestamp::from_nanos(first),
        time_source: TimeSource::Received,
        received: now,
        sequence: None,
        partition_key: None,
        topic: TOPIC.into(),
        traceparent: None,
        measurements: [
            ("count", Value::Int(count)),
            ("class", Value::Text(gap.class.as_str().to_owned())),
            ("first", Value::Text(instant(first))),
            ("last", Value::Text(instant(last))),
            ("kept", Value::Text(gap.kept.clone())),
        ]
        .map(value)
        .into(),
        tags: Vec::new(),
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    }
}

fn instant(nanos: i64) -> String {
    let mut text = Vec::new();
    json::time(Timestamp::from_nanos(nanos), &mut text);
    String::from_utf8_lossy(&text).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        class::Class,
        clock::{Clock, SystemClock},
        config::Config,
        ingest,
        record::Position,
        store::{Appended, Entry, Keep, NewEvent, Shed, Sheddable, Store},
    };

    /// A row that a damaged file brings back.
    #[derive(Debug)]
    struct BringBack(Vec<u8>);

    impl Edit for BringBack {
        type Answer = usize;

        fn apply(&self, tables: &Connection, _: Timestamp) -> rusqlite::Result<Edited<usize>> {
            let rows = tables.execute(
                "INSERT INTO gaps (device, class, routes, checksum, body)
                 VALUES ('b7', 0, 1, ?1, ?2)",
                (crc32fast::hash(&self.0), &self.0),
            )?;
            Ok(Edited::change(rows, Vec::new()))
        }

        fn cost_bytes(&self) -> usize {
            1
        }
    }

    #[test]
    fn a_gap_is_no_other_ones_and_has_the_site_and_source_of_the_devices_events() {
        let gap = |token| Gap {
            device: "b7".to_owned(),
            class: Class::Low,
            routes: 1,
            began: 3,
            token,
            count: 2,
            first: 1,
            last: 2,
            kept: "none".to_owned(),
        };
        let (site, now) = (Arc::from("pune"), Timestamp::from_millis(1));
        let (here, there) = (GatewayId::random(), GatewayId::random());
        let of = |token, gateway| event(&gap(token), Some(&site), Some(gateway), now);
        let one = of(7, &here);
        assert_eq!(one.source(), "/pune/b7");
        let known = |event: &Event| (event.key, event.id.clone());
        // It comes back out of a damaged file.
        assert_eq!(known(&of(7, &here)), known(&one));
        // Another one, of the same device and class, began with a commit of the same number:
        // here after the journal was begun anew, and at another gateway.
        for other in [of(8, &here), of(7, &there)] {
            assert_ne!(other.key, one.key);
            assert_ne!(other.id, one.id);
        }
    }

    #[test]
    fn a_row_of_an_earlier_version_is_told_under_the_key_that_it_had() {
        let of = |routes: u64| {
            let row = format!(
                "{{\"device\":\"b7\",\"class\":\"low\",\"routes\":{routes},\"began\":3,\
                 \"count\":2,\"first\":1,\"last\":2,\"kept\":\"none\"}}"
            );
            let gap: Gap = serde_json::from_str(&row).unwrap();
            let (site, gateway) = (Arc::from("pune"), GatewayId::random());
            event(&gap, Some(&site), Some(&gateway), Timestamp::from_millis(1))
        };
        let one = of(0b01);
        let mut parts = Parts::default();
        parts
            .start(IdSource::Explicit, None, "b7")
            .bytes(b"penstock.gap")
            .bytes(b"gap:low:1:3");
        assert_eq!(one.key, parts.key());
        assert_eq!(
            (one.id.as_deref(), &*one.source()),
            (Some("gap:low:1:3"), "/b7")
        );
        // Both of one commit.
        assert_ne!(of(0b11).key, one.key);
    }

    fn given_up(n: u8, at: Timestamp) -> Entry {
        Entry::Event(NewEvent {
            key: crate::event::Key([n; 16]),
            dedup: true,
            device: "b7".into(),
            received: at,
            routes: Routes(1),
            body: bytes::Bytes::from_static(b"never looked at"),
            original: None,
            shed: Some(Sheddable {
                class: Class::Low,
                series: 1,
            }),
        })
    }

    #[tokio::test]
    async fn a_gap_is_told_once_and_a_row_that_comes_back_is_the_same_event() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(dir.path());
        config.store.reserve_bytes = 1 << 16;
        config.store.shed = vec![Shed {
            class: Class::Low,
            above: 0,
            keep: Keep::None,
        }];
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, _) = Store::open(config.store, clock.clone()).unwrap();
        let running = store.run().unwrap();
        let store = running.handle();
        let ingest = ingest::Config::default();
        let ingest = Ingest::new(ingest, Routes(1), store.clone(), clock.clone());
        let ingest = Arc::new(ingest);
        let tell = || {
            let ingest = ingest.clone();
            store.edit(Tell { ingest })
        };
        let now = clock.now();
        let later = Timestamp::from_nanos(now.as_nanos() + 1_000_000_000);
        for (n, at) in [(1, now), (2, later)] {
            let appended = store.append(vec![given_up(n, at)]).await.unwrap().await;
            assert_eq!(appended.unwrap(), [Appended::Shed]);
        }
        let listing = store.listing().unwrap();
        let body = "SELECT body FROM gaps";
        let body: Vec<u8> = listing
            .tables()
            .query_row(body, [], |row| row.get(0))
            .unwrap();
        assert_eq!(tell().await, Ok(1));
        assert_eq!(tell().await, Ok(0));
        let record = listing.record(Position(1)).unwrap().expect("it is stored");
        let event = record.event().unwrap();
        assert_eq!((&*event.kind, &*event.device), (KIND, "b7"));
        assert_eq!((record.routes, event.time), (Routes(1), now));
        let value = |name: &str| {
            let mut all = event.measurements.iter();
            all.find(|one| *one.name == *name)
                .map(|one| one.value.clone())
        };
        assert_eq!(value("count"), Some(Value::Int(2)));
        assert_eq!(value("class"), Some(Value::Text("low".to_owned())));
        assert_eq!(value("kept"), Some(Value::Text("none".to_owned())));
        assert_eq!(value("last"), Some(Value::Text(instant(later.as_nanos()))));

        assert_eq!(store.edit(BringBack(body)).await, Ok(1));
        assert_eq!(tell().await, Ok(1));
        let status = store.status();
        assert_eq!(
            (status.stored, status.duplicate, status.shed),
            (1, 1, [2, 0, 0])
        );
        // What is given up after it was told is another gap.
        let appended = store.append(vec![given_up(3, later)]).await.unwrap().await;
        assert_eq!(appended.unwrap(), [Appended::Shed]);
        assert_eq!(tell().await, Ok(1));
        assert_eq!(store.status().stored, 2);
        running.shutdown().await.unwrap();
    }
}
