//! The store's own account of itself.

use std::{path::PathBuf, sync::Arc};

use super::{mode::Mode, progress::Spent, state::SHED};
use crate::{
    event::Timestamp,
    record::{DestinationId, Position},
};

/// Where one destination stands.
#[derive(Debug, Clone)]
pub struct DestinationStatus {
    /// Its number in the journal.
    pub id: DestinationId,
    /// Its name.
    pub name: Arc<str>,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Everything up to here is settled.
    pub cursor: Position,
    /// How it is run.
    pub mode: Mode,
    /// Whether it is still being given what was kept before it was known: until that is
    /// done, nothing is to be sent.
    pub filling: bool,
    /// What it has spent of its budget.
    pub spent: Spent,
    /// Events routed to it, ever.
    pub routed: u64,
    /// Of those: delivered.
    pub delivered: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Of those: dead letters, discarded ones among them.
    pub dead: u64,
    /// Of those: not settled yet (after the cursor, or waiting for another attempt).
    pub backlog: u64,
    /// Waiting for another attempt; part of `backlog`.
    pub retrying: u64,
    /// When the oldest unsettled event was received.
    pub oldest: Option<Timestamp>,
}

/// Events that the rules sent to no destination: total = held + expired + evicted + damaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nowhere {
    /// Those that were stored, ever; part of the events stored.
    pub total: u64,
    /// Of those: in the journal now.
    pub held: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// When the oldest of those that are held was received.
    pub oldest: Option<Timestamp>,
}

impl From<DestinationStatus> for Nowhere {
    fn from(d: DestinationStatus) -> Self {
        Self {
            total: d.routed,
            held: d.backlog,
            expired: d.expired,
            evicted: d.evicted,
            damaged: d.damaged,
            oldest: d.oldest,
        }
    }
}

/// The store's own account of itself, as of the last commit or a moment before.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The last committed position.
    pub committed: Position,
    /// Events and messages taken from devices: stored + duplicate + quarantined + shed.
    pub accepted: u64,
    /// Of those: events stored.
    pub stored: u64,
    /// Of those: refused a second copy.
    pub duplicate: u64,
    /// Of those: quarantined, also those retried or discarded since.
    pub quarantined: u64,
    /// Of those: given up while room was short, by class, the lowest first.
    pub shed: [u64; SHED],
    /// Whether events are being given up.
    pub shedding: bool,
    /// Gaps, by device, class and destinations, that are not told upstream yet.
    pub gaps: u64,
    /// Turned away for want of room; not part of `accepted`.
    pub refused_full: u64,
    /// Events in the journal now.
    pub buffered: u64,
    /// Of those, about: what no destination waits for. Every one has them, or they are held
    /// for nobody; they give way as soon as room is needed.
    pub buffered_settled: u64,
    /// Database (pages in use) and write-ahead log.
    pub file_bytes: u64,
    /// The most they may take.
    pub max_bytes: u64,
    /// Whether appends are being turned away.
    pub full: bool,
    /// Bytes written to disk by the writer since the start, for flash wear; 0
    /// where the system does not tell.
    pub written_bytes: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Keys remembered, and the memory they take.
    pub dedup_keys: u64,
    /// Memory for them.
    pub dedup_bytes: u64,
    /// Keys forgotten before their age or count was reached, because the memory
    /// budget does not hold that many.
    pub dedup_shortened: u64,
    /// Messages in quarantine now.
    pub in_quarantine: u64,
    /// Bytes they take, about. Quarantine has an eighth of `max_bytes`.
    pub quarantine_bytes: u64,
    /// Of `quarantined`: the oldest, evicted because that eighth was used up, or,
    /// with `drop-oldest`, because nothing else could make room.
    pub quarantine_evicted: u64,
    /// Dead letters kept now, damaged records among them.
    pub dead_letters: u64,
    /// Damaged files that were set aside and are still there.
    pub set_aside: Vec<PathBuf>,
    /// Events that the rules sent nowhere.
    pub nowhere: Nowhere,
    /// Each destination the journal knows.
    pub destinations: Vec<DestinationStatus>,
}

impl Status {
    /// Of `file_bytes`, about: what does not give way when room is needed.
    pub fn needed_bytes(&self) -> u64 {
        let events = self.file_bytes.saturating_sub(self.quarantine_bytes);
        let settled = match self.buffered {
            0 => 0,
            all => u128::from(events) * u128::from(self.buffered_settled) / u128::from(all),
        };
        // No more than `events`, because `buffered_settled` is a part of `buffered`.
        (self.file_bytes).saturating_sub(u64::try_from(settled).unwrap_or(events))
    }
}
