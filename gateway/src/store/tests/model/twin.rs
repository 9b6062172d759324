//! The twin: what the journal should be, in maps, and what events and devices there are.

use super::*;
use crate::event::{Event, IdSource, Marks, TimeSource};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    Retrying(u32),
    Delivered,
    Dead,
    Expired,
    Evicted,
}

#[derive(Debug, Default)]
pub(super) struct Twin {
    pub(super) last: u64,
    pub(super) keys: HashMap<u64, ()>,
    pub(super) records: BTreeMap<u64, (Timestamp, Bytes)>,
    pub(super) devices: BTreeMap<u64, String>,
    pub(super) fates: [BTreeMap<u64, Fate>; 3],
    /// What the rules sent nowhere.
    pub(super) nowhere: BTreeMap<u64, Fate>,
    pub(super) stored: u64,
    pub(super) duplicate: u64,
    pub(super) quarantined: u64,
    /// Given up, by device, and what of it is not told, by device and routes.
    pub(super) shed: BTreeMap<String, u64>,
    pub(super) gaps: Vec<((String, u64), u64)>,
    pub(super) told: u64,
    pub(super) in_quarantine: Vec<u64>,
    pub(super) dead_letters: Vec<(u8, u64)>,
}

impl Twin {
    pub(super) fn count(&self, destination: u8, is: impl Fn(Fate) -> bool) -> u64 {
        self.fates[usize::from(destination)]
            .values()
            .filter(|fate| is(**fate))
            .count() as u64
    }

    pub(super) fn store(&mut self, n: u64, routes: u64, now: Timestamp) {
        self.stored += 1;
        self.last += 1;
        self.records.insert(self.last, (now, body(n, now)));
        self.devices.insert(self.last, device_of(n));
        for (id, fates) in (0..).zip(&mut self.fates) {
            if Routes(routes).contains(DestinationId(id)) {
                fates.insert(self.last, Fate::Waiting);
            }
        }
        if Routes(routes).contains(crate::record::NOWHERE) {
            self.nowhere.insert(self.last, Fate::Waiting);
        }
    }

    pub(super) fn waiting(&self, destination: u8, after: u64) -> Vec<u64> {
        let fates = self.fates[usize::from(destination)].range(after + 1..);
        fates
            .filter(|(_, fate)| **fate == Fate::Waiting)
            .map(|(position, _)| *position)
            .collect()
    }
}

/// An event of one of four devices.
pub(super) fn body(n: u64, at: Timestamp) -> Bytes {
    let event = Event {
        key: key(n),
        id: None,
        id_source: IdSource::None,
        kind: "telemetry".into(),
        device: device_of(n).into(),
        site: None,
        time: at,
        time_source: TimeSource::Received,
        received: at,
        sequence: Some(n),
        partition_key: None,
        topic: "t".into(),
        traceparent: None,
        measurements: Vec::new(),
        tags: Vec::new(),
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    body.into()
}

pub(super) fn device_of(n: u64) -> String {
    format!("d{}", n % 4)
}

/// What became of the events of a device at a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Became {
    pub(crate) routed: i64,
    pub(crate) delivered: i64,
    pub(crate) backlog: i64,
    pub(crate) dead: i64,
    /// Expired or evicted.
    pub(crate) lost: i64,
}

/// Whether an event may be given up.
pub(super) fn is_low(n: u64) -> bool {
    n.is_multiple_of(5)
}

/// Tells of everything that was given up: as many events of the twin's as there are gaps.
#[derive(Debug)]
pub(super) struct Tell {
    pub(super) first: u64,
    pub(super) at: Timestamp,
}

/// Events that tell have numbers from here.
pub(super) const TELLING: u64 = 1_000_000;

impl Tell {
    fn event(&self, nth: u64, routes: u64) -> NewEvent {
        let n = TELLING + self.first + nth;
        NewEvent {
            key: key(n),
            dedup: true,
            device: "d".into(),
            received: self.at,
            routes: Routes(routes),
            body: body(n, self.at),
            original: None,
            shed: None,
        }
    }
}

impl Edit for Tell {
    type Answer = Vec<((String, u64), u64)>;

    fn apply(
        &self,
        tables: &rusqlite::Connection,
        _: Timestamp,
    ) -> rusqlite::Result<Edited<Self::Answer>> {
        let gaps = take_gaps(tables, usize::MAX)?;
        let events = (0..).zip(&gaps).map(|(n, gap)| self.event(n, gap.routes));
        let events = events.collect();
        let counts = gaps.iter().map(|gap| (gap.device.clone(), gap.count));
        let counts = counts.collect();
        let told = gaps
            .into_iter()
            .map(|gap| ((gap.device, gap.routes), gap.count));
        Ok(Edited::tells(told.collect(), events, counts))
    }

    fn cost_bytes(&self) -> usize {
        1
    }
}
