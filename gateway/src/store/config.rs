//! How the journal keeps what it is given.

use std::{path::PathBuf, sync::Arc, time::Duration};

use penstock_broker::seal::Seal;

use super::Shed;

/// What to do when the journal has reached its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Take nothing more until something was delivered; devices keep their data.
    PushBack,
    /// Make room by evicting the oldest events, each counted.
    DropOldest,
}

/// How the journal keeps what it is given.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; created if missing.
    pub dir: PathBuf,
    /// Size of database and write-ahead log together, at most.
    pub max_bytes: u64,
    /// Undelivered events older than this expire; `None` keeps them until delivered.
    pub max_age: Option<Duration>,
    /// How long events stay that everybody has, to be made again from the messages as
    /// they came: while no more than half of `max_bytes` is used. `None` lets them go.
    pub keep_delivered: Option<Duration>,
    /// What to do at `max_bytes`, or when the disk is full.
    pub on_full: OnFull,
    /// What is given up while room is short.
    pub shed: Vec<Shed>,
    /// Preallocated file that is given back to the disk to get out of disk-full.
    pub reserve_bytes: u64,
    /// How long an idempotency key is remembered.
    pub dedup_age: Duration,
    /// How many keys are remembered, at most.
    pub dedup_count: usize,
    /// Memory for remembered keys, at most.
    pub dedup_memory_bytes: usize,
    /// Names of the destinations in use; others that the journal knows keep their backlog.
    pub destinations: Vec<Arc<str>>,
    /// Those of them that, where they are new, begin with what is kept: see
    /// [`Handle::fill`](super::Handle::fill).
    pub from_kept: Vec<Arc<str>>,
    /// How values lie in it.
    pub seal: Seal,
}
