//! The newest committed records, in memory, so that a destination that keeps up
//! never reads from SQLite. Bounded by bytes; the oldest leave first.
//!
//! Holds every committed record after `floor`, without gaps, so that a place in
//! it is found by subtraction.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::reader::Page;
use crate::record::{DestinationId, Position, Record};

/// Memory for the newest records, about.
pub(super) const TAIL_BYTES: usize = 8 * 1024 * 1024;

/// Some of the newest records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// In order, without gaps.
    pub records: Vec<Record>,
    /// Nothing at or before this is in memory any more.
    pub floor: Position,
}

#[derive(Debug)]
pub(super) struct Tail {
    held: Mutex<Held>,
    limit_bytes: usize,
}

#[derive(Debug)]
struct Held {
    /// Everything committed after this is in `records`.
    floor: Position,
    records: VecDeque<Record>,
    bytes: usize,
}

impl Tail {
    /// Empty, for a journal whose last position is `end`.
    pub(super) fn new(end: Position, limit_bytes: usize) -> Self {
        let held = Held {
            floor: end,
            records: VecDeque::new(),
            bytes: 0,
        };
        Self {
            held: Mutex::new(held),
            limit_bytes,
        }
    }

    /// Takes what one commit stored, in order; leaves `records` empty.
    pub(super) fn push(&self, records: &mut Vec<Record>) {
        let mut held = self.held();
        for record in records.drain(..) {
            if record.position <= held.floor {
                // Evicted by the very commit that stored it.
                continue;
            }
            if record.position.0 != held.end() + 1 {
                // Positions were skipped on purpose (after damage): start over behind the gap.
                held.records.clear();
                held.bytes = 0;
                held.floor = Position(record.position.0 - 1);
            }
            held.bytes += cost_bytes(&record);
            held.records.push_back(record);
        }
        while held.bytes > self.limit_bytes && !held.records.is_empty() {
            held.pop();
        }
    }

    /// Forgets everything up to `position`: it is no longer in the journal.
    pub(super) fn forget(&self, position: Position) {
        let mut held = self.held();
        while held.floor < position && !held.records.is_empty() {
            held.pop();
        }
        held.floor = held.floor.max(position);
    }

    /// A page after `after`, of a destination or of all and none, or `None` when that is
    /// further back than this goes.
    pub(super) fn read(
        &self,
        destination: Option<DestinationId>,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Option<Page> {
        let held = self.held();
        let skip = after.0.checked_sub(held.floor.0)?;
        let mut page = Page {
            records: Vec::new(),
            scanned_to: after,
        };
        let mut taken = 0;
        for record in held.records.iter().skip(usize::try_from(skip).ok()?) {
            if destination.is_none_or(|id| record.routes.contains(id)) {
                if page.records.len() >= count || (taken > 0 && taken + record.body.len() > bytes) {
                    break;
                }
                taken += record.body.len();
                page.records.push(record.clone());
            }
            page.scanned_to = record.position;
        }
        Some(page)
    }

    /// The records after `after`, for whomever they are. Where that is further back
    /// than this goes, from its beginning, which is said.
    pub(super) fn newest(&self, after: Position, count: usize, bytes: usize) -> Newest {
        let held = self.held();
        let skip = after.0.saturating_sub(held.floor.0);
        let mut newest = Newest {
            records: Vec::new(),
            floor: held.floor,
        };
        let mut taken = 0;
        for record in held
            .records
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        {
            if newest.records.len() >= count || (taken > 0 && taken + record.body.len() > bytes) {
                break;
            }
            taken += record.body.len();
            newest.records.push(record.clone());
        }
        newest
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.records
            .back()
            .map_or(self.floor.0, |record| record.position.0)
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= cost_bytes(&record);
            self.floor = record.position;
        }
    }
}

const fn cost_bytes(record: &Record) -> usize {
    record.body.len() + 128
}
