//! The read side: projections of the journal that questions are answered from.
//!
//! ```text
//! journal ─ after commit ─▶ feed (own thread, own cursor) ─▶ read.db ─▶ Reader ─▶ http, cli
//! ```
//!
//! # Promises
//! - Neither ingest nor a destination ever waits for it: it has a thread of its own, at
//!   low priority, and connections of its own.
//! - Every answer is of one moment, and says which: all events up to its position, and
//!   nothing after it. Positions that the read side never saw are named in it.
//! - A projection changes in one transaction with the cursor that it reflects, so that
//!   after a crash it goes on as if there had been none. Fed in whatever batches, it
//!   answers as one that was built from scratch.
//! - `read.db` holds nothing that a promise of the gateway hangs on. A damaged or
//!   deleted one is built anew from what the journal has; a full disk stops the read
//!   side before it stops the journal.
//! - Its size is bounded, and the journal waits for it with a bound.
//!
//! It does not promise what the journal no longer has: what leaves the journal before
//! the read side came to it is missing, and named.
//!
//! # Inside
//! `schema` has the tables, `feed` the thread, `log` what is on the disk
//! for good, `apply` what a page of records changes, `series` last values and history,
//! `corrections` what those take back, `text` what is searched, `kept` quarantine and dead
//! letters, `ledger` what became of events by device, `names` what numbers of destinations meant, `retention` what leaves, `unset` what
//! came before the clock was set; `read` has the answers, `patience` how long they may take. Decision 62 says why.

mod apply;
mod corrections;
mod feed;
mod handle;
mod kept;
mod ledger;
mod log;
mod names;
mod patience;
pub mod read;
mod retention;
mod schema;
mod series;
#[cfg(test)]
mod tests;
mod text;
mod unset;
mod words;

use std::time::Duration;

pub use feed::Feed;
pub(crate) use feed::hold;
pub use handle::{Handle, State, Status};
pub use read::Reader;
pub use schema::FILE;

/// What the read side keeps, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether there is one.
    pub enabled: bool,
    /// Size of `read.db`, at most, about; the oldest leave first.
    pub size_max: u64,
    /// How long events can be searched and asked for.
    pub events_keep: Duration,
    /// How long every value of a series is kept.
    pub raw_keep: Duration,
    /// How long values are kept by the minute.
    pub minute_keep: Duration,
    /// How long values are kept by the hour.
    pub hour_keep: Duration,
    /// Series (measurements of devices) that are followed, at most.
    pub series_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            enabled: false,
            size_max: 256 << 20,
            events_keep: 7 * DAY,
            raw_keep: 2 * DAY,
            minute_keep: 30 * DAY,
            hour_keep: 365 * DAY,
            series_max: 100_000,
        }
    }
}

/// What each projection may take, so that none pushes out another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Series that are followed.
    series: u64,
    /// Of those, by one device.
    device_series: u64,
    /// Bytes of last values and of the names of series.
    last_bytes: u64,
    /// Bytes of quarantine and dead letters.
    kept_bytes: u64,
    /// Bytes of history.
    history_bytes: u64,
    /// Devices that have a line of their own in the ledger.
    ledger_devices: u64,
}

/// Devices that have a line of their own in the ledger, whatever room there is.
const LEDGER_DEVICES_MAX: u64 = 50_000;
/// What such a line takes, about, with all its destinations.
const LEDGER_DEVICE_BYTES: u64 = 512;

impl Config {
    const fn limits(&self) -> Limits {
        let quarter = self.series_max / 4;
        Limits {
            series: self.series_max,
            device_series: if quarter > 16 { quarter } else { 16 },
            last_bytes: self.size_max / 8,
            kept_bytes: self.size_max / 8,
            history_bytes: self.size_max / 2,
            ledger_devices: {
                let fit = self.size_max / 8 / LEDGER_DEVICE_BYTES;
                if fit < LEDGER_DEVICES_MAX {
                    fit
                } else {
                    LEDGER_DEVICES_MAX
                }
            },
        }
    }
}

/// Why the read side cannot answer.
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
    /// The file is not a read side of this version: it is to be built anew.
    #[error("read.db cannot be read: {0}")]
    Stale(&'static str),
    /// Whoever asked has to ask otherwise.
    #[error("{0}")]
    Asked(String),
    /// Answers do not reflect the position that was asked for yet.
    #[error("the read side is at position {at}, and not at {position} yet")]
    Behind {
        /// Up to where they go.
        at: crate::record::Position,
        /// What was waited for.
        position: crate::record::Position,
    },
    /// The configuration wants none.
    #[error("the read side is off: [read] enabled = false")]
    Off,
    /// The disk has no room for it beside the journal.
    #[error("{0}")]
    NoRoom(String),
    /// It waits for something, or has no time.
    #[error("{0}")]
    Waits(String),
    /// It took too long.
    #[error("the question took too long to answer; ask for less")]
    TooLong,
}

impl Error {
    /// Whether the file is not what was written.
    fn means_corruption(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Self::Sqlite(error) = self else {
            return false;
        };
        matches!(
            error.sqlite_error_code(),
            Some(DatabaseCorrupt | NotADatabase)
        )
    }

    /// Whether a question was ended before it was answered.
    fn means_interruption(&self) -> bool {
        let Self::Sqlite(error) = self else {
            return false;
        };
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
    }

    /// Whether there is no room: waiting for the read side would only take more.
    fn means_no_room(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Sqlite(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Whether the file has to be built anew.
    fn means_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TooBig};
        match self {
            Self::Stale(_) => true,
            Self::Sqlite(error) => {
                let code = error.sqlite_error_code();
                matches!(code, Some(DatabaseCorrupt | NotADatabase | TooBig))
                    // No such table: somebody emptied it.
                    || matches!(
                        error,
                        rusqlite::Error::SqlInputError { .. }
                            | rusqlite::Error::InvalidColumnType(..)
                            | rusqlite::Error::FromSqlConversionFailure(..)
                            | rusqlite::Error::QueryReturnedNoRows
                    )
            }
            _ => false,
        }
    }
}
