//! Counts again what the ledger says, while the journal is in use.
//!
//! What waits for a destination is counted when it is stored, and counted off when it is
//! settled. Whether that still is what lies in the journal is looked at here: rows are
//! counted again, in pieces, each in a short read transaction, because a long one makes
//! the write-ahead log grow. Pieces of the middle of a backlog do not change and are
//! remembered; the ends are counted together with the state that they are compared to.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::Connection;

use super::{
    Error,
    column::number,
    frame::{column, integer},
    handle::Handle,
    open,
    reader::{self, Noticed},
    state::{Standing, State},
};
use crate::record::{DestinationId, Routes};

/// Positions in a piece.
const PIECE: u64 = 1 << 14;
/// Between two pieces.
const PAUSE: Duration = Duration::from_millis(2);

/// Counts again; see the module. Blocking.
#[derive(Debug)]
pub struct Audit {
    connection: Connection,
    database: Arc<PathBuf>,
    noticed: Arc<Noticed>,
    /// Which file the connection is of.
    file: u64,
    /// Records of each destination in whole pieces that have any, by number of the piece.
    pieces: BTreeMap<u64, Counts>,
    /// Pieces before this one were counted.
    counted_to: u64,
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
            file: handle.noticed.replaced(),
            connection: reader::open_read_only(&handle.database)?,
            database: handle.database.clone(),
            noticed: handle.noticed.clone(),
            pieces: BTreeMap::new(),
            counted_to: 0,
        })
    }

    /// What does not balance, a sentence each. Looks twice before it says anything: what
    /// was remembered may have left since. Ends early, with nothing found, once `stop` is set.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn look(&mut self, stop: &AtomicBool) -> Result<Vec<String>, Error> {
        let replaced = self.noticed.replaced();
        if replaced != self.file {
            self.connection = reader::open_read_only(&self.database)?;
            self.file = replaced;
            self.pieces.clear();
        }
        let found = self.compare(stop)?;
        if found.is_empty() {
            return Ok(found);
        }
        self.pieces.clear();
        self.compare(stop)
    }

    fn compare(&mut self, stop: &AtomicBool) -> Result<Vec<String>, Error> {
        self.count_pieces(stop)?;
        if stop.load(Relaxed) {
            return Ok(Vec::new());
        }
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

    /// Counts whole pieces after the first cursor that have any records, each by itself,
    /// and forgets those before.
    fn count_pieces(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        let Some(state) = open::read_state(&self.connection)? else {
            return Ok(());
        };
        let all = state.named().filter(|d| d.fill.is_none());
        let first = all.map(|d| from(d, &state).div_ceil(PIECE)).min();
        let end = state.position.0 / PIECE;
        let mut at = first.unwrap_or(end);
        self.pieces = self.pieces.split_off(&at);
        self.counted_to = end;
        while at < end
            && !stop.load(Relaxed)
            && let Some(next) = self.next(at * PIECE)?
        {
            // Positions of long ago are not looked through for nothing.
            let piece = (next - 1) / PIECE;
            if piece < end && !self.pieces.contains_key(&piece) {
                let counts = self.count(piece * PIECE, (piece + 1) * PIECE)?;
                self.pieces.insert(piece, counts);
                // Others want the disk, too.
                std::thread::sleep(PAUSE);
            }
            at = piece + 1;
        }
        Ok(())
    }

    /// The first position after one, that there is.
    fn next(&self, after: u64) -> Result<Option<u64>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT min(position) FROM events WHERE position > ?1")?;
        let next: Option<i64> = statement.query_row([column(after)], |row| row.get(0))?;
        Ok(next.map(integer))
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
        // What was stored since the pieces were counted is counted with the end.
        let counted = last.min(self.counted_to).max(first);
        sum += self
            .pieces
            .range(first..counted)
            .map(|(_, counts)| of(counts))
            .sum::<u64>();
        Ok(sum + of(&self.count(counted * PIECE, to)?))
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
