//! What a destination has settled.

use crate::{
    event::Timestamp,
    record::{DestinationId, Position, Record},
};

/// A destination's progress, applied in one transaction.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Whose.
    pub destination: DestinationId,
    /// Everything up to here is settled: delivered, not for this destination, or in one of the lists.
    pub cursor: Position,
    /// How many records were delivered since the last progress, retried ones among them.
    pub delivered: u64,
    /// Records at or before the cursor that failed by themselves and will be tried again.
    pub retry: Vec<Retry>,
    /// Records tried again with success.
    pub retried: Vec<Position>,
    /// Records that will not be tried again.
    pub dead: Vec<Dead>,
    /// What was spent of its budget, where that changed.
    pub spent: Option<Spent>,
}

/// What a destination has spent of a budget of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// In the period that began then.
    pub since: Timestamp,
    /// Bytes of records that were handed over.
    pub bytes: u64,
}

impl Default for Spent {
    /// Nothing, of no period.
    fn default() -> Self {
        Self {
            since: Timestamp::from_nanos(0),
            bytes: 0,
        }
    }
}

/// A record that waits for another attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The record.
    pub record: Record,
    /// Attempts so far.
    pub attempts: u32,
    /// When it failed first, where that is known.
    pub first: Option<Timestamp>,
    /// Not before this instant.
    pub not_before: Timestamp,
    /// What the destination said.
    pub reason: String,
}

/// A record that was given up.
#[derive(Debug, Clone)]
pub struct Dead {
    /// The record.
    pub record: Record,
    /// Attempts made.
    pub attempts: u32,
    /// When it failed first, where that is known.
    pub first: Option<Timestamp>,
    /// What the destination said.
    pub reason: String,
}
