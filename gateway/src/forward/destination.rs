//! What a destination is to the forwarding engine: a batch in, an outcome per record out.

use std::{future::Future, pin::Pin, time::Duration};

use super::batch::Batch;

/// What a destination takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records in a batch, at most.
    pub batch_records: usize,
    /// Bytes of stored records in a batch, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill. Zero sends what there is.
    pub linger: Duration,
    /// Batches in flight, at most. Above one only where the destination keeps
    /// the order in which batches were started.
    pub in_flight: usize,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Kept there. A duplicate that the destination refused counts too.
    Acknowledged,
    /// Too much at the moment: slow down, try again, never an attempt.
    Throttled {
        /// How long the destination asked us to wait.
        retry_after: Option<Duration>,
    },
    /// Not known, because the destination went away in the middle of the batch:
    /// try again before anything else, never an attempt.
    Unknown(String),
    /// Not tried, because one before it failed by itself: again before anything else,
    /// and behind that one where they are of the same partition key. Never an attempt,
    /// and the destination is well. Never for all of a batch that is in flight alone.
    Behind,
    /// This record failed for now, while others may go: try it again with back-off.
    Transient(String),
    /// There is no room for records of this partition key at the moment, while others may
    /// go: this one and those behind it wait so long. Never an attempt.
    Paced {
        /// When there may be room again.
        retry_after: Duration,
        /// What the destination said.
        reason: String,
    },
    /// This record will never be taken: dead letter.
    Permanent(String),
}

impl Outcome {
    /// Whether the record goes again before anything else, because nothing was said of
    /// it or there was no room.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Throttled { .. })
    }
}

/// Why a whole batch got no outcomes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The destination is away or did not answer; nothing is known of any
    /// record. The same batch goes again, and the cursor stands still.
    #[error("{reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// How long the destination asked us to wait.
        retry_after: Option<Duration>,
    },
    /// Nothing will work until a person changes something: this destination
    /// stops, loudly, and looks now and then whether it was put right; others go on.
    #[error("{0}")]
    Misconfigured(String),
    /// It refuses whatever it is given, and a person should look. As above, but the
    /// destination says when it wants to be tried again.
    #[error("{reason}")]
    Refusing {
        /// What it said.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
}

impl Error {
    /// The destination is away, and does not say for how long.
    pub const fn unavailable(reason: String) -> Self {
        Self::Unavailable {
            reason,
            retry_after: None,
        }
    }
}

/// One outcome per record of the batch, in order.
pub type Outcomes = Result<Vec<Outcome>, Error>;

/// A place that events go to.
///
/// Order is kept per partition key as long as the destination takes no record
/// of a key after one of the same key that it was handed before and that it
/// answers with `Throttled`, `Unknown`, `Transient` or `Paced`. The engine holds back
/// only what it has not handed over yet. After anything but per-record failures
/// it lets every batch in flight end before it hands over another; until then a
/// destination that takes several at a time should take nothing more.
pub trait Destination: Send + Sync + 'static {
    /// What it takes at once.
    fn limits(&self) -> Limits;

    /// Sends a batch. Called and first polled in journal order; with `in_flight` above one a
    /// later batch may be started before an earlier one has ended. Dropping
    /// the future abandons the batch, which will be sent again.
    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>>;

    /// Whether it makes something of a batch before its turn.
    fn prepares(&self) -> bool {
        false
    }

    /// Probably the next batch, while another one is on its way. Nothing of it may be sent:
    /// it may never come, or later, or others before it.
    fn prepare(&self, _batch: Batch) {}

    /// Flushes and closes; called once, at an orderly shutdown, when nothing is in flight.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}
