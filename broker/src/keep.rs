//! What outlives a connection, and the process: persistent sessions with their
//! subscriptions, queues and QoS 2 exchanges, retained messages, and wills.
//!
//! ```text
//! session task ─ job ─▶ bounded queue ─▶ one writer thread ─▶ broker.db
//!       ▲                                      │ after the commit
//!       └──────────── answer, Feed ◀───────────┘
//! ```
//!
//! Promises: an answer comes after the commit (WAL, `synchronous=FULL`) of what it
//! says, so a packet written after it promises what is on disk. Jobs are applied
//! in the order in which they were handed over, each one whole or not at all.
//! Matching happens in the writer, so a SUBSCRIBE is either before a message or
//! behind it, never beside it.
//!
//! Everything has a bound ([`Config`]); what a queue has no room for is dropped,
//! and counted, or refused, as the operator chose. A full disk refuses what grows
//! and lets the broker go on. A damaged file is set aside and a fresh one begun.
//!
//! No commit is large: what a SUBSCRIBE brings (`bring`), what sessions leave behind
//! that are over, and what has expired is done in slices, between which everybody else
//! has their turn.
//!
//! Packet identifiers of what is sent from a queue are not kept: they follow from
//! the place in the queue ([`packet_id`]), so that a message has the same one each
//! time it is sent, also after a crash.
//!
//! Not kept: messages of QoS 0 for clients that are away, and topics below `$SYS/`,
//! which the broker says again. Live fan-out is not here (`fanout`).
//!
//! The database (`keep/migrations`): a message is stored once, with the number of
//! queues that hold it; a row of `queue` is a message's place in one queue, without
//! a message once the subscriber has sent PUBREC. Frames are those of
//! `fanout::Message` and carry a checksum, because SQLite believes a flipped byte; they may
//! be sealed (`sealed`).
//! Why it is so: `docs/decisions/0013-the-brokers-own-file.md`.

mod account;
mod bring;
mod damage;
mod errand;
mod exchange;
mod expiry;
mod feed;
mod group;
mod handle;
mod job;
mod owed;
mod page;
mod queue;
mod quota;
mod retained;
mod room;
mod schema;
mod sealed;
mod session;
mod share;
mod shared;
mod stage;
mod subscription;
#[cfg(test)]
pub(crate) mod tests;
mod will;
mod writer;

use std::{path::PathBuf, time::Duration};

use crate::seal::{KeyError, Seal};

pub(crate) use errand::{Errand, Ran};
pub(crate) use exchange::EXCHANGES_MAX;
pub(crate) use feed::{Feed, Item};
pub(crate) use handle::Keeper;
pub(crate) use job::{
    Add, Decided, Enter, Entered, Kept, KeptWill, Leave, Op, Refused, Rest, SessionId, Sub, Token,
    Told, Turn,
};
pub use job::{RetainedInfo, SessionInfo, SubscriptionInfo};
pub(crate) use room::Wish;
pub use sealed::{reseal, tally};
pub(crate) use shared::{Shared, Wanted, weight};
pub(crate) use will::WillId;

/// What becomes of a message for a queue that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// The oldest message that was not sent yet makes room.
    DropOldest,
    /// The message is dropped.
    DropNewest,
    /// The publisher hears that there is no room (0x97), or is held.
    Refuse,
}

/// What becomes of a retained message of QoS 1 or 2 for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainedFull {
    /// The publisher hears that there is no room (0x97), or is held.
    Refuse,
    /// It is acknowledged and delivered, and its topic has no retained message.
    NotRetained,
}

/// Where the durable state is, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory of `broker.db`; `None` keeps everything in memory, for as long
    /// as the broker runs.
    pub dir: Option<PathBuf>,
    /// Persistent sessions, connected or not.
    pub sessions_max: usize,
    /// Those of one user; of all clients together that do not say who they are.
    pub sessions_per_user_max: usize,
    /// How long a session may outlive its connection, whatever its client asks for.
    pub session_expiry_max: Duration,
    /// Messages in one session's queue.
    pub queue_messages_max: u64,
    /// Bytes in one session's queue.
    pub queue_bytes_max: u64,
    /// Bytes in all queues. Where nothing may be dropped, queues below their fair share
    /// may exceed it by half.
    pub queue_total_bytes_max: u64,
    /// What becomes of a message for a queue that is full.
    pub queue_full: QueueFull,
    /// Topics with a retained message.
    pub retained_max: usize,
    /// Bytes of all retained messages; they are in memory too.
    pub retained_bytes_max: usize,
    /// What becomes of one more.
    pub retained_full: RetainedFull,
    /// How frames lie in the file.
    pub seal: Seal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            sessions_max: 10_000,
            sessions_per_user_max: 5_000,
            session_expiry_max: Duration::from_secs(7 * 86_400),
            queue_messages_max: 10_000,
            queue_bytes_max: 16 * 1024 * 1024,
            queue_total_bytes_max: 256 * 1024 * 1024,
            queue_full: QueueFull::DropOldest,
            retained_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            retained_full: RetainedFull::Refuse,
            seal: Seal::default(),
        }
    }
}

impl Config {
    /// The longest session expiry interval granted, in seconds.
    pub(crate) fn expiry_secs_max(&self) -> u32 {
        u32::try_from(self.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
    }

    /// What the database may take on disk: twice what it may hold, for pages that
    /// are half empty and for tables.
    fn database_bytes_max(&self) -> u64 {
        self.queue_total_bytes_max
            .saturating_add(self.retained_bytes_max as u64)
            .saturating_mul(2)
            .saturating_add(64 * 1024 * 1024)
    }
}

/// Why the broker's own file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was written by a later version.
    #[error("broker.db has version {found}, this program knows versions up to {known}")]
    LaterVersion {
        /// Its version.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// SQLite refused.
    #[error("broker.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It is sealed with a key that is not given.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another program has it open.
    #[error("broker.db is open in another program: close that first")]
    InUse,
    /// The writer has given up.
    #[error("broker.db can no longer be written")]
    Stopped,
    /// The system refused.
    #[error("broker.db: {0}")]
    Io(#[from] std::io::Error),
}

/// The packet identifiers of places in queues are up to this; those above it are for what
/// a connection sends beside its session's queue.
pub(crate) const PLACE_IDS: u16 = 32_767;

/// The packet identifier of a place in a queue. Places that share one are [`PLACE_IDS`]
/// apart; the session does not send the later while the earlier is in flight.
pub(crate) fn packet_id(position: i64) -> u16 {
    let places = i64::from(PLACE_IDS);
    u16::try_from(position.rem_euclid(places) + 1).expect("between 1 and 32,767")
}
