//! The way out: one task per destination reads after its cursor, sends, and
//! records what was settled.
//!
//! A cursor passes only records that are settled: acknowledged by the
//! destination, waiting in the journal's retry list, or a dead letter. Whatever
//! dies in between is sent again, under the same idempotency keys. Records with
//! the same partition key leave in the order in which they were committed.
//! Nothing here knows how events come in.

pub mod batch;
pub mod destination;
pub mod file;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "nats")]
pub mod nats;
mod secret;

use std::{sync::Arc, time::Duration};

pub use secret::Secret;

/// One destination as configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name; the journal keeps its cursor under it.
    pub name: Arc<str>,
    /// Where events go.
    pub kind: Kind,
    /// Delay after the first failure; doubles from there.
    pub retry_first: Duration,
    /// Longest delay between attempts.
    pub retry_max: Duration,
    /// Attempts at a record that fails by itself before it becomes a dead letter.
    pub attempts_max: u32,
}

impl Config {
    /// `retry_first` where not configured.
    pub const RETRY_FIRST: Duration = Duration::from_millis(200);
    /// `retry_max` where not configured.
    pub const RETRY_MAX: Duration = Duration::from_secs(30);
    /// `attempts_max` where not configured.
    pub const ATTEMPTS_MAX: u32 = 20;
}

/// Where events go.
#[derive(Debug, Clone)]
pub enum Kind {
    /// NDJSON files in a directory.
    File(file::Config),
    /// An HTTP endpoint that takes `CloudEvents` batches.
    #[cfg(feature = "http")]
    Http(http::Config),
    /// A NATS JetStream stream.
    #[cfg(feature = "nats")]
    Nats(nats::Config),
}
