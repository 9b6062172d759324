//! Answers: each from one moment of `read.db`, with the position that it reflects.
//!
//! ```text
//! {"items": [...], "next": "..." or null, "position": 1234, "lag": 0, "missing": []}
//! ```
//! `next` is what to give as `after` for the next page. `missing` has the ranges of
//! positions that the read side never saw, the latest ten.

mod beginnings;
mod history;
mod last;
mod ledger;
mod search;
pub mod shown;
mod whereabouts;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{
    Error,
    log::Cramped,
    patience::{ANSWER_TIME_MAX, Patience},
    schema,
};
use crate::{
    event::Timestamp,
    record::Position,
    store::{self, Listing},
};

use self::shown::{Answer, Missing};
pub use history::History;
pub use last::Last;
pub use ledger::Ledger;
pub use search::{In, Search};
pub use whereabouts::Which;

/// Items of one answer, at most.
pub const PAGE_MAX: usize = 1_000;
/// A page ends with the item that brings it to so many bytes of the database.
const PAGE_BYTES: usize = 2 << 20;
/// Ranges of missing positions that an answer names.
const MISSING_SHOWN: i64 = 10;

/// Answers questions on a connection of its own; blocking.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    journal: Journal,
    patience: Patience,
    /// Answers from before this are none.
    least: Position,
    /// How long an answer goes on looking for more.
    look: Duration,
}

/// Who tells about the journal.
#[derive(Debug)]
enum Journal {
    /// Its file.
    File(Box<Listing>),
    /// The process that writes it; the file is opened when it is needed.
    Running(store::Handle),
}

impl Journal {
    /// The last committed position.
    fn committed(&self) -> Result<Position, Error> {
        match self {
            Self::File(listing) => Ok(listing.standings()?.committed),
            Self::Running(store) => Ok(*store.committed().borrow()),
        }
    }

    fn listing<T>(&self, ask: impl FnOnce(&Listing) -> Result<T, Error>) -> Result<T, Error> {
        match self {
            Self::File(listing) => ask(listing),
            Self::Running(store) => ask(&store.listing()?),
        }
    }
}

impl Reader {
    /// Opens the read side of a data directory.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn open(dir: &Path, listing: Listing) -> Result<Self, Error> {
        let journal = Journal::File(Box::new(listing));
        Self::of(
            dir,
            journal,
            Patience::new(ANSWER_TIME_MAX, Cramped::default()),
        )
    }

    /// That of a running gateway, for one question.
    pub(super) fn of_running(
        dir: &Path,
        store: store::Handle,
        patience: &Patience,
    ) -> Result<Self, Error> {
        let mut reader = Self::of(dir, Journal::Running(store), patience.clone())?;
        reader.guard()?;
        Ok(reader)
    }

    fn of(dir: &Path, journal: Journal, patience: Patience) -> Result<Self, Error> {
        Ok(Self {
            connection: schema::open_read_only(dir)?,
            journal,
            patience,
            least: Position(0),
            look: search::LOOK_TIME,
        })
    }

    fn guard(&mut self) -> Result<(), Error> {
        self.patience.guard(&mut self.connection)
    }

    /// From here on answers reflect this position at least, or are none.
    pub(super) const fn least(&mut self, position: Position) {
        self.least = position;
    }

    /// Up to where answers go.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn position(&self) -> Result<Position, Error> {
        schema::position(&self.connection)
    }

    /// Waits until answers go to a position, where another process makes them. Answers
    /// from before it are none from here on.
    ///
    /// # Errors
    /// When they do not go so far, in the time there is.
    pub fn wait_for(&mut self, position: Position) -> Result<(), Error> {
        self.least = position;
        let began = std::time::Instant::now();
        loop {
            let at = self.position()?;
            if at >= position {
                return Ok(());
            }
            if began.elapsed() > super::handle::WAIT_MAX {
                return Err(Error::Behind { at, position });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks in one read transaction, and says what it reflects.
    fn answer(
        &mut self,
        ask: impl FnOnce(&Context<'_>) -> Result<(Vec<Value>, Option<String>), Error>,
    ) -> Result<Value, Error> {
        if let Journal::File(_) = self.journal {
            // Nobody leaves this one, and each question has its time.
            self.patience = Patience::new(ANSWER_TIME_MAX, Cramped::default());
            self.guard()?;
        }
        self.asked(ask).map_err(|error| match error {
            error if error.means_interruption() => Error::TooLong,
            error => error,
        })
    }

    fn asked(
        &mut self,
        ask: impl FnOnce(&Context<'_>) -> Result<(Vec<Value>, Option<String>), Error>,
    ) -> Result<Value, Error> {
        self.patience.check()?;
        let transaction = self.connection.transaction()?;
        let at = schema::position(&transaction)?;
        if at < self.least {
            let position = self.least;
            return Err(Error::Behind { at, position });
        }
        let (items, next) = ask(&Context {
            connection: &transaction,
            journal: &self.journal,
            patience: &self.patience,
            look: self.look,
        })?;
        let mut missing: Vec<Missing> = transaction
            .prepare_cached("SELECT first, last FROM missing ORDER BY first DESC LIMIT ?1")?
            .query_map([MISSING_SHOWN], |row| {
                Ok(Missing {
                    first: row.get(0)?,
                    last: row.get(1)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        missing.reverse();
        let committed = self.journal.committed()?;
        Ok(json!(Answer {
            items,
            next,
            position: at.0,
            lag: committed.0.saturating_sub(at.0),
            missing,
        }))
    }
}

/// What an answer is made from.
struct Context<'a> {
    connection: &'a Connection,
    journal: &'a Journal,
    patience: &'a Patience,
    look: Duration,
}

/// A page's size.
fn limit(asked: usize) -> (usize, i64) {
    let limit = asked.clamp(1, PAGE_MAX);
    // One more shows whether there is a next page.
    (limit, i64::try_from(limit).unwrap_or(i64::MAX) + 1)
}

/// Where a page ended, for the next question.
fn cursor(place: &Value) -> String {
    URL_SAFE_NO_PAD.encode(place.to_string())
}

fn place<T: serde::de::DeserializeOwned>(after: &str) -> Result<T, Error> {
    let wrong = || Error::Asked("after is the next of an earlier answer".to_owned());
    let text = URL_SAFE_NO_PAD.decode(after).map_err(|_| wrong())?;
    serde_json::from_slice(&text).map_err(|_| wrong())
}

/// An instant in an answer; null where nobody knows it.
fn instant(nanos: i64) -> Value {
    crate::admin::known(Timestamp::from_nanos(nanos))
}

/// An instant in a question: RFC 3339, or so long ago, as in `15m`.
///
/// # Errors
/// When it is neither.
pub fn parse_instant(text: &str, now: Timestamp) -> Result<Timestamp, Error> {
    if let Ok(ago) = crate::config::parse_duration(text) {
        let ago = i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_nanos(now.as_nanos().saturating_sub(ago)));
    }
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let nanos = parsed.map(|at| i64::try_from(at.as_nanosecond()));
    match nanos {
        Ok(Ok(nanos)) => Ok(Timestamp::from_nanos(nanos)),
        _ => Err(Error::Asked(format!(
            "{text:?} is no instant; write 2026-03-01T12:00:00Z, or 15m for a quarter of an hour ago"
        ))),
    }
}
