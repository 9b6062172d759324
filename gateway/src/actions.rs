//! What rules do beside sending to destinations: messages to local subscribers, alarms,
//! commands to devices, windows.
//!
//! ```text
//! journal ─ after commit, destination `$rules` ─▶ Follower ─▶ rules.db ─▶ http, cli
//!    ▲                                               ├──▶ broker ─▶ local subscribers
//!    │                                               ├──▶ fleet ─▶ devices
//!    └────────── events that rules made ◀── outbox ──┘
//! ```
//!
//! # Promises
//! - The journal keeps what a rule has something to do for until that was done: whoever
//!   does it is a destination of the journal like any other, with a cursor of its own.
//! - What is kept of it changes in one transaction with the position that it reflects, so
//!   that a crash neither loses nor doubles any of it. A message to local subscribers goes
//!   before that: after a crash it may come again, with the same `idempotency-key`.
//! - A command is in the journal before what a page of records came to is kept, under a key
//!   made of rule and event: acted on again after a crash, it is the same command.
//! - Events are acted on in the order of the journal, by the rules that are in force then.
//! - What rules make is an event of the journal like any other. It waits in an outbox,
//!   kept in the transaction that made it, and the journal knows it by its key should it
//!   come twice: an alarm is raised once, whatever crashes.
//! - No rule makes an event of one that it made itself, nor of one at the end of a long
//!   chain of them.
//! - What a rule cannot do for an event is kept with that event, listed, and can be tried
//!   again; other rules are not held up by it.
//! - Neither ingest nor a destination ever waits for it, but for room in the journal: what
//!   it cannot do fills that, as with any destination. What rules made waits for room with
//!   a bound, and they go on acting meanwhile, because that makes room.
//!
//! A correction is not acted on: the event that it corrects was.
//!
//! # Inside
//! `schema` has the tables, `salvage` what is read of damaged ones, `follower` the thread, `work` what a page of records does,
//! `throttle` how often, `topic` the messages, `alarm` the alarms, `command` the commands, `window` what
//! many events come to and `windows` how that is kept, `made` the events that rules make, `outbox`
//! their way into the journal, `sealed` what may be sealed of all this, `failed` what could not be done, `handle` what others see and
//! ask. Decision 110 says why.

pub mod alarm;
mod command;
mod failed;
mod follower;
mod handle;
mod made;
mod outbox;
mod salvage;
mod schema;
mod sealed;
#[cfg(test)]
mod tests;
mod throttle;
mod topic;
mod window;
mod windows;
mod work;

pub use failed::Failed;
pub use follower::{Follower, Parts};
pub use handle::{Handle, Status, alarm_of, alarms_of};
pub use schema::FILE;
pub use sealed::{reseal, tally};
pub use throttle::HeldBack;
pub use work::Said;

use penstock_broker::seal::KeyError;

use crate::aside;

/// Why nothing can be done for now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite said no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The journal could not be read.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The journal takes nothing more.
    #[error(transparent)]
    Stopped(#[from] crate::store::Stopped),
    /// A stored event cannot be read.
    #[error("a stored event: {0}")]
    Event(#[from] crate::event::CborError),
    /// A later version wrote the file.
    #[error("rules.db was written by a later version")]
    Later,
    /// The file is sealed with a key that is not given.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The journal has no number for this.
    #[error("the journal does not know the destination {}", crate::rules::ACTIONS)]
    Unknown,
    /// It could not be done in time.
    #[error("rules did not come to it in ten seconds{0}")]
    Busy(String),
    /// The gateway ends; what was begun is done after the next start.
    #[error("the gateway ends")]
    Ending,
}

impl Error {
    /// Whether the disk could not read the file, which may pass.
    fn is_unreadable(&self) -> bool {
        matches!(self, Self::Sqlite(error) if aside::is_unreadable(error))
    }

    /// Whether the file is not what was written, or cannot be read any more.
    fn means_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => aside::means_damage(error) || aside::is_unreadable(error),
            _ => false,
        }
    }
}
