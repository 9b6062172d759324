//! What was given up and is not told upstream yet, by device, class and destinations.
//!
//! A row changes in the transaction that acknowledges the events which it counts, and is
//! removed in the one that keeps the event which tells of it. No more than [`ROWS_MAX`] are
//! told apart; what has no place any more is one row for each class, of no device.

use std::{collections::BTreeMap, sync::Arc};

use rand::RngExt as _;
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::{
    column,
    frame::{column as of_u64, integer},
    stage,
};
use crate::{
    class::Class,
    event::Timestamp,
    record::{DestinationId, Routes},
};

/// Rows beside those of no device.
const ROWS_MAX: u64 = 1_000;

/// Events that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose; empty where they are not told apart.
    pub device: String,
    /// Of which class.
    pub class: Class,
    /// Where they would have gone, one bit each.
    pub routes: u64,
    /// The commit with the first of them.
    pub began: u64,
    /// Random, made with the row and kept with it: what tells this gap from every other, of
    /// other gateways and of a journal that was begun anew too. 0 of a row of an earlier
    /// version, which has none.
    #[serde(default)]
    pub token: u64,
    /// How many.
    pub count: u64,
    /// When the first was received, in nanoseconds since 1970.
    pub first: i64,
    /// When the last was.
    pub last: i64,
    /// What was kept, in words.
    pub kept: String,
}

/// What one commit gives up.
#[derive(Debug, Default)]
pub(super) struct Gaps(BTreeMap<(Arc<str>, Class, u64), Gap>);

impl Gaps {
    /// One more event is given up.
    pub(super) fn add(
        &mut self,
        device: &Arc<str>,
        class: Class,
        routes: Routes,
        received: Timestamp,
        kept: &dyn std::fmt::Display,
    ) {
        let at = received.as_nanos();
        let of = (device.clone(), class, routes.0);
        let gap = self.0.entry(of).or_insert_with(|| Gap {
            device: device.to_string(),
            class,
            routes: routes.0,
            began: 0,
            token: 0,
            count: 0,
            first: at,
            last: at,
            kept: kept.to_string(),
        });
        gap.count += 1;
        (gap.first, gap.last) = (gap.first.min(at), gap.last.max(at));
    }

    /// Writes it as part of commit `number`.
    pub(super) fn write(&self, connection: &Connection, number: u64) -> rusqlite::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut rows = count(connection)?;
        for gap in self.0.values() {
            let new = Gap {
                began: number,
                token: rand::rng().random_range(1..=u64::MAX),
                ..gap.clone()
            };
            let found = find(connection, &new)?;
            if found.is_none() && rows >= ROWS_MAX {
                let rest = Gap {
                    device: String::new(),
                    ..new
                };
                let found = of_no_device(connection, rest.class)?;
                put(connection, found, rest)?;
                continue;
            }
            rows += u64::from(found.is_none());
            put(connection, found, new)?;
        }
        Ok(())
    }
}

/// A row, by its number.
type Row = (i64, Gap);

/// How many rows there are.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    stage::cached(connection, "SELECT count(*) FROM gaps")?
        .query_row([], |row| row.get(0).map(integer))
}

/// What is not told yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// By device; of those that are not told apart under no name.
    pub(super) by_device: BTreeMap<String, u64>,
    /// There are rows of which nobody knows what they counted.
    pub(super) is_damaged: bool,
}

/// Reads what is not told yet. The rows have a bound.
pub(super) fn untold(connection: &Connection) -> rusqlite::Result<Untold> {
    let mut untold = Untold::default();
    for (_, gap) in all(connection, usize::MAX)? {
        match gap {
            Some(gap) => *untold.by_device.entry(gap.device).or_default() += gap.count,
            None => untold.is_damaged = true,
        }
    }
    Ok(untold)
}

/// Takes so many of the oldest away, to be told. One that is damaged is said in the log, and
/// gone: nobody knows what it counted.
///
/// # Errors
/// When SQLite says no.
pub(crate) fn take(connection: &Connection, count: usize) -> rusqlite::Result<Vec<Gap>> {
    let rows = all(connection, count)?;
    let mut taken = Vec::with_capacity(rows.len());
    for (number, gap) in rows {
        remove(connection, number)?;
        match gap {
            Some(gap) => taken.push(gap),
            None => tracing::error!(row = number, "a row of what was given up is damaged"),
        }
    }
    Ok(taken)
}

/// A destination is no longer known: its number may be another's soon.
pub(super) fn forget(connection: &Connection, id: DestinationId) -> rusqlite::Result<()> {
    for (number, gap) in all(connection, usize::MAX)? {
        let Some(gap) = gap.filter(|gap| Routes(gap.routes).contains(id)) else {
            continue;
        };
        remove(connection, number)?;
        let gap = Gap {
            routes: Routes(gap.routes).without(Routes::NONE.with(id)).0,
            ..gap
        };
        let found = match gap.device.is_empty() {
            true => of_no_device(connection, gap.class)?,
            false => find(connection, &gap)?,
        };
        put(connection, found, gap)?;
    }
    Ok(())
}

/// So many rows, the oldest first; `None` for one that is damaged.
fn all(connection: &Connection, count: usize) -> rusqlite::Result<Vec<(i64, Option<Gap>)>> {
    let mut statement = stage::cached(
        connection,
        "SELECT number, checksum, body FROM gaps ORDER BY number LIMIT ?1",
    )?;
    let limit = i64::try_from(count).unwrap_or(i64::MAX);
    let rows = statement.query_map([limit], |row| Ok((row.get(0)?, read(row)?)))?;
    rows.collect()
}

/// The gap of a row `number, checksum, body`.
fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Gap>> {
    let body = column::bytes(row, 2)?;
    let is_whole = column::number(row, 1)? == Some(crc32fast::hash(body).into());
    Ok(serde_json::from_slice(body).ok().filter(|_| is_whole))
}

/// The row of the same device, class and destinations.
fn find(connection: &Connection, gap: &Gap) -> rusqlite::Result<Option<Row>> {
    let mut statement = stage::cached(
        connection,
        "SELECT number, checksum, body FROM gaps WHERE device = ?1 AND class = ?2 AND routes = ?3",
    )?;
    let of = (&gap.device, gap.class as u8, of_u64(gap.routes));
    let found = statement.query_row(of, |row| Ok((row.get(0)?, read(row)?)));
    known(found.optional()?, connection)
}

/// The row of no device.
fn of_no_device(connection: &Connection, class: Class) -> rusqlite::Result<Option<Row>> {
    let mut statement = stage::cached(
        connection,
        "SELECT number, checksum, body FROM gaps WHERE device = '' AND class = ?1",
    )?;
    let found = statement.query_row([class as u8], |row| Ok((row.get(0)?, read(row)?)));
    known(found.optional()?, connection)
}

/// One that is damaged makes room for another.
fn known(
    found: Option<(i64, Option<Gap>)>,
    connection: &Connection,
) -> rusqlite::Result<Option<Row>> {
    match found {
        Some((number, Some(gap))) => Ok(Some((number, gap))),
        Some((number, None)) => {
            tracing::error!(row = number, "a row of what was given up is damaged");
            remove(connection, number)?;
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Adds a gap to a row that is there, or to a new one.
fn put(connection: &Connection, found: Option<Row>, gap: Gap) -> rusqlite::Result<()> {
    let (number, gap) = match found {
        None => (None, gap),
        Some((number, before)) => {
            let both = Gap {
                routes: before.routes | gap.routes,
                began: before.began,
                token: before.token,
                count: before.count + gap.count,
                first: before.first.min(gap.first),
                last: before.last.max(gap.last),
                ..gap
            };
            (Some(number), both)
        }
    };
    let body = serde_json::to_vec(&gap).unwrap_or_default();
    stage::cached(
        connection,
        "INSERT OR REPLACE INTO gaps (number, device, class, routes, checksum, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        number,
        &gap.device,
        gap.class as u8,
        of_u64(gap.routes),
        crc32fast::hash(&body),
        body,
    ))?;
    Ok(())
}

fn remove(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    stage::cached(connection, "DELETE FROM gaps WHERE number = ?1")?.execute([number])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn database() -> Connection {
        let mut database = Connection::open_in_memory().expect("a database");
        schema::migrate(&mut database).expect("made");
        database
    }

    fn give_up(
        database: &Connection,
        number: u64,
        devices: impl IntoIterator<Item = (usize, u64)>,
    ) {
        let mut gaps = Gaps::default();
        for (device, routes) in devices {
            let device = format!("d{device}").into();
            let at = Timestamp::from_millis(number.cast_signed());
            gaps.add(&device, Class::Low, Routes(routes), at, &"none");
        }
        gaps.write(database, number).expect("written");
    }

    #[test]
    fn what_many_devices_miss_is_counted_in_a_bounded_number_of_rows() {
        let database = database();
        for number in 1..=3 {
            give_up(&database, number, (0..1_500).map(|n| (n, 1 + n as u64 % 2)));
        }
        assert_eq!(count(&database).expect("counted"), ROWS_MAX + 1);
        let gaps = take(&database, usize::MAX).expect("taken");
        let (rest, own): (Vec<_>, Vec<_>) = gaps.iter().partition(|gap| gap.device.is_empty());
        assert_eq!((rest.len(), own.len()), (1, 1_000));
        // 500 devices, three times, to both destinations.
        assert_eq!((rest[0].count, rest[0].routes), (1_500, 3));
        assert!(own.iter().all(|gap| gap.count == 3 && gap.began == 1));
        assert_eq!((own[0].first, own[0].last), (1_000_000, 3_000_000));
        assert_eq!(count(&database).expect("counted"), 0);
    }

    #[test]
    fn each_destination_hears_of_what_it_would_have_got_and_one_that_is_forgotten_of_nothing() {
        let database = database();
        give_up(&database, 1, [(1, 0b01), (1, 0b11), (1, 0b11)]);
        forget(&database, DestinationId(1)).expect("forgotten");
        let gaps = take(&database, usize::MAX).expect("taken");
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].routes, gaps[0].count), (0b01, 3));
    }

    #[test]
    fn a_gap_has_a_token_of_its_own_and_keeps_it() {
        let token = |database: &Connection| {
            let found = all(database, 1).expect("read");
            found[0].1.as_ref().expect("whole").token
        };
        let (here, there) = (database(), database());
        give_up(&here, 1, [(1, 0b11)]);
        give_up(&there, 1, [(1, 0b11)]);
        let made = token(&here);
        assert_ne!(made, token(&there), "the same commit of another journal");
        give_up(&here, 2, [(1, 0b11)]);
        forget(&here, DestinationId(1)).expect("forgotten");
        assert_eq!(token(&here), made);
        take(&here, 1).expect("taken");
        give_up(&here, 1, [(1, 0b01)]);
        assert_ne!(token(&here), made, "another gap");
    }

    #[test]
    fn a_row_that_is_damaged_is_in_nobodys_way() {
        let database = database();
        give_up(&database, 1, [(1, 1), (2, 1)]);
        database
            .execute(
                "UPDATE gaps SET checksum = checksum + 1 WHERE device = 'd1'",
                [],
            )
            .expect("damaged");
        give_up(&database, 2, [(1, 1)]);
        let mut gaps = take(&database, usize::MAX).expect("taken");
        gaps.sort_by(|a, b| a.device.cmp(&b.device));
        assert_eq!(gaps.iter().map(|gap| gap.count).collect::<Vec<_>>(), [1, 1]);
        assert_eq!((gaps[0].began, gaps[1].began), (2, 1));
    }
}
