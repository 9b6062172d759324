//! A batch on its way, and when a failed record goes again.

use std::{pin::Pin, time::Duration};

use rand::RngExt as _;
use tokio::time::Instant;

use super::{
    batch::{Batch, Item},
    destination::Outcomes,
};

/// A batch that was handed to the destination, or will be again.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its place in the order in which batches are handed over.
    pub(super) sequence: u64,
    pub(super) origin: Origin,
    pub(super) batch: Batch,
    /// Nothing else was in flight when it was handed over.
    pub(super) alone: bool,
    /// It was paid for.
    pub(super) paid: bool,
    /// When that was.
    pub(super) began: Instant,
}

impl Flight {
    /// The same with only these of its records, if any are left.
    pub(super) fn with(self, items: Vec<Item>) -> Option<Self> {
        (!items.is_empty()).then(|| Self {
            batch: Batch {
                items: items.into(),
            },
            ..self
        })
    }
}

/// Where its records came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// From after the cursor.
    Journal,
    /// From the records that wait for another attempt.
    Waiting,
}

/// A flight, and with what it lands.
pub(super) type Landing = Pin<Box<dyn Future<Output = (Flight, Outcomes)> + Send>>;

/// Delay after a record's `attempts`th failure: drawn between half of a bound
/// and the bound, which doubles from `first` to `max`.
pub(super) fn retry_delay(first: Duration, max: Duration, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(20);
    let bound = first.saturating_mul(1 << doublings).min(max);
    bound.mul_f64(rand::rng().random_range(0.5..=1.0))
}
