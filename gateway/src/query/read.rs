//! Answers: each from one moment of `read.db`, with the position that it reflects.
//!
//! ```text
//! {"items": [...], "next": "..." or null, "position": 1234, "lag": 0, "missing": []}
//! ```
//! `next` is what to give as `after` for the next page. `missing` has the ranges of
//! positions that the read side never saw, the latest ten.

mod history;
mod last;
mod search;
mod whereabouts;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::{Connection, InterruptHandle};
use serde_json::{Value, json};

use super::{Error, schema};
use crate::{event::Timestamp, record::Position, store::Listing};

pub use history::History;
pub use last::Last;
pub use search::{In, Search};
pub use whereabouts::Which;

/// Items of one answer, at most.
pub const PAGE_MAX: usize = 1_000;
/// A page ends with the item that brings it to so many bytes of the database.
const PAGE_BYTES: usize = 2 << 20;
/// Ranges of missing positions that an answer names.
const MISSING_SHOWN: i64 = 10;

/// Answers questions on connections of its own; blocking.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    listing: Listing,
}

impl Reader {
    /// Opens the read side of a data directory.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub fn open(dir: &Path, listing: Listing) -> Result<Self, Error> {
        Ok(Self {
            connection: schema::open_read_only(dir)?,
            listing,
        })
    }

    /// Ends what this is asked, from another thread.
    pub(super) fn interrupt(&self) -> InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    /// Up to where answers go.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn position(&self) -> Result<Position, Error> {
        schema::position(&self.connection)
    }

    /// Waits until answers go to a position, where another process makes them.
    ///
    /// # Errors
    /// When they do not, in the time there is.
    pub fn wait_for(&self, position: Position) -> Result<(), Error> {
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
        ask: impl FnOnce(&Connection, &Listing) -> Result<(Vec<Value>, Option<String>), Error>,
    ) -> Result<Value, Error> {
        let transaction = self.connection.transaction()?;
        let position = schema::position(&transaction)?;
        let (items, next) = ask(&transaction, &self.listing)?;
        let mut missing: Vec<Value> = transaction
            .prepare_cached("SELECT first, last FROM missing ORDER BY first DESC LIMIT ?1")?
            .query_map([MISSING_SHOWN], |row| {
                Ok(json!({ "first": row.get::<_, i64>(0)?, "last": row.get::<_, i64>(1)? }))
            })?
            .collect::<Result<_, _>>()?;
        missing.reverse();
        let committed = self.listing.standings()?.committed;
        Ok(json!({
            "items": items,
            "next": next,
            "position": position.0,
            "lag": committed.0.saturating_sub(position.0),
            "missing": missing,
        }))
    }
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

/// An instant in an answer.
fn instant(nanos: i64) -> Value {
    crate::admin::instant(Timestamp::from_nanos(nanos))
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
