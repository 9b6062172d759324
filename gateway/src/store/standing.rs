//! Where each destination stands as of one commit, and what waits of one record: for
//! telling where an event is. Reads only.

use super::{
    Error, column,
    frame::{column, integer},
    listing::Listing,
    open,
};
use crate::record::{DestinationId, Position};

/// Where a destination stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its number.
    pub id: DestinationId,
    /// Its name.
    pub name: String,
    /// Everything up to here is settled, but for what waits for another attempt.
    pub cursor: Position,
    /// Events that it never got: expired, evicted or damaged.
    pub lost: u64,
}

/// Where they all stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standings {
    /// The last committed position.
    pub committed: Position,
    /// By number.
    pub destinations: Vec<Standing>,
}

/// What became of one record, as of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Where the destinations stand.
    pub standings: Standings,
    /// Who will try it again: with attempts made, and why.
    pub waiting: Vec<(DestinationId, u32, String)>,
    /// Its dead letters that are kept.
    pub dead: Vec<DeadOf>,
}

/// A dead letter of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadOf {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub destination: DestinationId,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
}

impl Listing {
    /// What became of a record.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn fate(&self, position: Position) -> Result<Fate, Error> {
        // One transaction: a record is never between two places.
        let _as_of_now = self.connection.unchecked_transaction()?;
        let mut statement = self.connection.prepare_cached(
            "SELECT id, destination, attempts, reason FROM dead_letters
             WHERE position = ?1 ORDER BY id",
        )?;
        let dead = statement.query_map([column(position.0)], |row| {
            Ok(DeadOf {
                id: integer(row.get(0)?),
                destination: DestinationId(row.get(1)?),
                attempts: column::small(row, 2)?,
                reason: column::text(row, 3)?,
            })
        })?;
        Ok(Fate {
            dead: dead.collect::<Result<_, _>>()?,
            standings: self.standings()?,
            waiting: self.waiting(position)?,
        })
    }

    /// Where the journal's destinations stand.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn standings(&self) -> Result<Standings, Error> {
        let state = open::read_state(&self.connection)?.unwrap_or_default();
        let names = self.destinations()?;
        let destinations = state.destinations.iter().filter_map(|d| {
            let (_, name) = names.iter().find(|(id, _)| *id == d.id)?;
            Some(Standing {
                id: d.id,
                name: name.clone(),
                cursor: d.cursor,
                lost: d.expired + d.evicted + d.damaged,
            })
        });
        Ok(Standings {
            committed: state.position,
            destinations: destinations.collect(),
        })
    }

    /// Who will try a record again: with attempts made, and why.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn waiting(&self, position: Position) -> Result<Vec<(DestinationId, u32, String)>, Error> {
        let mut waiting = Vec::new();
        for (id, _) in self.destinations()? {
            let mut statement = self.connection.prepare_cached(
                "SELECT attempts, reason FROM retry WHERE destination = ?1 AND position = ?2",
            )?;
            let mut rows = statement.query((id.0, column(position.0)))?;
            if let Some(row) = rows.next()? {
                waiting.push((id, column::small(row, 0)?, column::text(row, 1)?));
            }
        }
        Ok(waiting)
    }

    /// Numbers in quarantine after `after`, at most `count`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn quarantine_ids(&self, after: u64, count: usize) -> Result<Vec<u64>, Error> {
        self.ids("quarantine", after, count)
    }

    /// Numbers of dead letters after `after`, at most `count`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead_letter_ids(&self, after: u64, count: usize) -> Result<Vec<u64>, Error> {
        self.ids("dead_letters", after, count)
    }

    fn ids(&self, table: &str, after: u64, count: usize) -> Result<Vec<u64>, Error> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT id FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2"
        ))?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let ids = statement.query_map((column(after), count), |row| row.get(0).map(integer))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }
}
