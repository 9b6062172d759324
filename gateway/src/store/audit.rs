//! Counts again what the ledger says, while the journal is in use.
//!
//! What waits for a destination is counted when it is stored, and counted off when it is
//! settled. Whether that still is what lies in the journal is looked at here: rows are
//! counted again, in pieces, each in a short read transaction, because a long one makes
//! the write-ahead log grow. Pieces of the middle of a backlog do not change and are
//! remembered; the ends are counted together with the state that they are compared to.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{
    Error,
    column::number,
    frame::{column, integer},
    handle::Handle,
    open, reader,
    state::{Standing, State},
};
use crate::record::{DestinationId, Routes};

/// Positions in a piece.
const PIECE: u64 = 1 << 14;

/// Counts again; see the module. Blocking.
#[derive(Debug)]
pub struct Audit {
    connection: Connection,
    /// Records of each destination in whole pieces, by number of the piece.
    pieces: BTreeMap<u64, Counts>,
}

/// Records of each destination, by its number.
type Counts = Box<[u32; 64]>;

impl Audit {
    /// Opens a connection of its own.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn open(handle: &Handle) -> Result<Self, Error> {
        Ok(Self {
            connection: reader::open_read_only(&handle.database)?,
            pieces: BTreeMap::new(),
        })
    }

    /// What does not balance, a sentence each. Looks twice before it says anything: what
    /// was remembered may have left since.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn look(&mut self) -> Result<Vec<String>, Error> {
        let found = self.compare()?;
        if found.is_empty() {
            return Ok(found);
        }
        self.pieces.clear();
        self.compare()
    }

    fn compare(&mut self) -> Result<Vec<String>, Error> {
        self.count_pieces()?;
        let transaction = self.connection.unchecked_transaction()?;
        let Some(state) = open::read_state(&transaction)? else {
            return Ok(vec![
                "the row that says where the journal stands cannot be read".into(),
            ]);
        };
        let mut found = Vec::new();
        for d in state.named().filter(|d| d.fill.is_none()) {
            let waiting = self.waiting(d, &state)?;
            let retrying: i64 = transaction
                .prepare_cached("SELECT count(*) FROM retry WHERE destination = ?1")?
                .query_row([d.id.0], |row| row.get(0))?;
            let (said, counted) = (d.backlog(), waiting + integer(retrying));
            if said != counted {
                found.push(format!(
                    "{said} events wait for destination {} by the ledger, and {counted} are there",
                    d.id.0
                ));
            }
            if d.settled() > d.routed {
                found.push(format!(
                    "destination {} settled more than was routed to it",
                    d.id.0
                ));
            }
        }
        Ok(found)
    }

    /// Counts whole pieces after the first cursor, each by itself, and forgets those before.
    fn count_pieces(&mut self) -> Result<(), Error> {
        let Some(state) = open::read_state(&self.connection)? else {
            return Ok(());
        };
        let all = state.named().map(|d| from(d, &state).div_ceil(PIECE));
        let first = all.min().unwrap_or(state.position.0 / PIECE);
        self.pieces = self.pieces.split_off(&first);
        for piece in first..state.position.0 / PIECE {
            if !self.pieces.contains_key(&piece) {
                let counts = self.count(piece * PIECE, (piece + 1) * PIECE)?;
                self.pieces.insert(piece, counts);
            }
        }
        Ok(())
    }

    /// Records that lie after a destination's cursor and are its own.
    fn waiting(&self, d: &Standing, state: &State) -> Result<u64, Error> {
        let (from, to) = (from(d, state), state.position.0);
        let (first, last) = (from.div_ceil(PIECE), to / PIECE);
        let of = |counts: &Counts| u64::from(counts[usize::from(d.id.0)]);
        if first >= last {
            return Ok(of(&self.count(from, to)?));
        }
        let mut sum = of(&self.count(from, first * PIECE)?);
        for piece in first..last {
            sum += match self.pieces.get(&piece) {
                Some(counts) => of(counts),
                None => of(&self.count(piece * PIECE, (piece + 1) * PIECE)?),
            };
        }
        Ok(sum + of(&self.count(last * PIECE, to)?))
    }

    /// Records after `from` and up to `to`.
    fn count(&self, from: u64, to: u64) -> Result<Counts, Error> {
        let mut counts: Counts = Box::new([0; 64]);
        let mut statement = self
            .connection
            .prepare_cached("SELECT routes FROM events WHERE position > ?1 AND position <= ?2")?;
        let mut rows = statement.query((column(from), column(to)))?;
        while let Some(row) = rows.next()? {
            // One that does not tell is waited for by all.
            let routes = Routes(number(row, 0)?.map_or(u64::MAX, integer));
            for (id, count) in (0..).zip(counts.iter_mut()) {
                *count += u32::from(routes.contains(DestinationId(id)));
            }
        }
        Ok(counts)
    }
}

/// After which position a destination's records may lie. One that waits for nothing may
/// have a cursor far behind, before all that is there.
fn from(d: &Standing, state: &State) -> u64 {
    match d.backlog() > d.retrying {
        true => d.cursor.0,
        false => d.cursor.max(state.trimmed).0,
    }
}
