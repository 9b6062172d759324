//! Rows of the tables beside the journal's own (`fleet/rows.rs`, `store/gap.rs`), found page by page: which
//! table they are of, whether they are whole, and which of two copies is the newer one. Of
//! what the tables mean no more is known here.
//!
//! A page may be an old copy. So a command that is queued on it may have been sent, and
//! acknowledged, since: it is brought back in the phase [`IN_DOUBT`], and whoever delivers
//! commands decides what becomes of it.

use rusqlite::{
    Connection, OptionalExtension as _, params_from_iter,
    types::Value::{self, Blob, Integer, Null, Text},
};

use crate::store::{carve::Cell, scan::is_about_the_row};

/// The phase of a command that is queued as far as a damaged file tells.
const IN_DOUBT: i64 = 3;

/// A table beside the journal's own.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct Other {
    pub(in crate::store) table: &'static str,
    /// All of them; the last two are a checksum and what it is of.
    pub(in crate::store) columns: &'static str,
    /// What no two rows have in common: so many columns after the first.
    identity: usize,
    /// The same in SQL, as it is bound to what is sealed.
    pub(in crate::store) row: &'static str,
}

pub(in crate::store) const OTHERS: [Other; 6] = [
    Other {
        table: "devices",
        columns: "number, id, user, client, online, checksum, body",
        identity: 1,
        row: "id",
    },
    Other {
        table: "commands",
        columns: "number, id, device, key, phase, due, checksum, body",
        identity: 1,
        row: "id",
    },
    Other {
        table: "shadows",
        columns: "number, device, told, checksum, body",
        identity: 1,
        row: "device",
    },
    Other {
        table: "requests",
        columns: "number, device, key, at, checksum, body",
        identity: 2,
        row: "length(device) || ':' || device || key",
    },
    Other {
        table: "replays",
        columns: "number, name, checksum, body",
        identity: 1,
        row: "name",
    },
    Other {
        table: "gaps",
        columns: "number, device, class, routes, checksum, body",
        identity: 3,
        row: "device",
    },
];

/// Where the phase of a command is among its columns.
const PHASE: usize = 4;

impl Other {
    /// Whether its bodies may be sealed; gaps are counts, like tallies.
    pub(in crate::store) fn is_sealed(&self) -> bool {
        self.table != "gaps"
    }

    /// Whether every page of the table can be read.
    pub(in crate::store) fn is_whole(&self, database: &Connection) -> bool {
        let walk = format!("SELECT sum(length(body)) FROM {} NOT INDEXED", self.table);
        database
            .query_row(&walk, [], |row| row.get::<_, Option<i64>>(0))
            .is_ok()
    }

    /// The largest number in the table.
    pub(in crate::store) fn last(&self, database: &Connection) -> rusqlite::Result<i64> {
        let sql = format!("SELECT coalesce(max(number), 0) FROM {}", self.table);
        database.query_row(&sql, [], |row| row.get(0))
    }

    /// How new a copy of a row is, among those of the same row.
    fn rank(&self, database: &Connection, columns: &[Value]) -> rusqlite::Result<[i64; 3]> {
        let number = |at: usize| match columns.get(at) {
            Some(Integer(number)) => *number,
            _ => 0,
        };
        let body: Vec<u8> = match (columns.get(1), columns.last()) {
            // Only what is asked for below is opened.
            (Some(row @ Text(_)), Some(body @ Blob(_))) if *self.table != *"requests" => {
                let opened: Option<Vec<u8>> = database
                    .prepare_cached("SELECT opened(?1, ?2, NULL, ?3)")?
                    .query_row((self.table, row, body), |row| row.get(0))?;
                opened.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let said = |name: &str| {
            let body = serde_json::from_slice::<serde_json::Value>(&body);
            let said = body.ok().and_then(|body| body.get(name)?.as_i64());
            said.unwrap_or_default()
        };
        Ok(match self.table {
            // More and more is said of one.
            "commands" => {
                let length = i64::try_from(body.len()).unwrap_or(i64::MAX);
                [number(PHASE) % IN_DOUBT, length, 0]
            }
            "devices" => [said("version"), 0, 0],
            // To tell once more does no harm.
            "shadows" => [said("version"), said("reported_version"), -number(2)],
            "replays" => [said("after"), said("done"), 0],
            // One that is brought back after it was told is told again under the same key.
            "gaps" => [said("began"), said("count"), 0],
            _ => [number(3), 0, 0],
        })
    }
}

/// The table of which this is a whole row.
pub(in crate::store) fn of(cell: &Cell) -> Option<&'static Other> {
    let at = match &cell.columns[..] {
        [
            Null,
            Text(_),
            Text(_) | Null,
            Text(_) | Null,
            Integer(_),
            Integer(_),
            Blob(_),
        ] => 0,
        [
            Null,
            Text(_),
            Text(_),
            Text(_),
            Integer(_),
            Integer(_),
            Integer(_),
            Blob(_),
        ] => 1,
        [Null, Text(_), Integer(_), Integer(_), Blob(_)] => 2,
        [Null, Text(_), Text(_), Integer(_), Integer(_), Blob(_)] => 3,
        [Null, Text(_), Integer(_), Blob(_)] => 4,
        [Null, Text(_), Integer(_), Integer(_), Integer(_), Blob(_)] => 5,
        _ => return None,
    };
    let [.., Integer(checksum), Blob(body)] = &cell.columns[..] else {
        return None;
    };
    (i64::from(crc32fast::hash(body)) == *checksum).then_some(&OTHERS[at])
}

/// Puts a row there that is not there, or only as an older copy; whether it did. One that
/// is not there at all only where `is_new` says so of its number.
pub(in crate::store) fn put(
    database: &Connection,
    other: &Other,
    cell: Cell,
    is_new: impl Fn(i64) -> bool,
) -> rusqlite::Result<bool> {
    let Other {
        table,
        columns: names,
        identity,
        ..
    } = other;
    let mut columns = cell.columns;
    columns[0] = Integer(cell.row);
    let rank = other.rank(database, &columns)?;
    if *table == "commands" && columns[PHASE] == Integer(0) {
        columns[PHASE] = Integer(IN_DOUBT);
    }
    let same: Vec<String> = names
        .split(", ")
        .skip(1)
        .take(*identity)
        .zip(1..)
        .map(|(name, n)| format!("{name} = ?{n}"))
        .collect();
    let same = same.join(" AND ");
    let count = columns.len();
    let known: Option<Vec<Value>> = database
        .prepare_cached(&format!("SELECT {names} FROM {table} WHERE {same}"))?
        .query_row(params_from_iter(&columns[1..=*identity]), |row| {
            (0..count).map(|at| row.get(at)).collect()
        })
        .optional()?;
    let known_rank = known.as_ref().map(|known| other.rank(database, known));
    match known_rank.transpose()? {
        Some(known) if known >= rank => return Ok(false),
        None if !is_new(cell.row) => return Ok(false),
        _ => {}
    }
    if let Some(known) = known {
        columns[0].clone_from(&known[0]);
        database
            .prepare_cached(&format!("DELETE FROM {table} WHERE number = ?1"))?
            .execute([&columns[0]])?;
    }
    let places: Vec<String> = (1..=count).map(|n| format!("?{n}")).collect();
    let insert = format!(
        "INSERT INTO {table} ({names}) VALUES ({})",
        places.join(", ")
    );
    let mut insert = database.prepare_cached(&insert)?;
    match insert.execute(params_from_iter(&columns)) {
        // Its number was given again after it had been removed, or before.
        Err(error) if is_about_the_row(&error) => {
            columns[0] = Null;
            Ok(insert.execute(params_from_iter(&columns))? > 0)
        }
        inserted => Ok(inserted? > 0),
    }
}

/// Commits are missing: no command that is queued is known to be so still.
pub(in crate::store) fn doubt(database: &Connection) -> rusqlite::Result<()> {
    database.execute("UPDATE commands SET phase = ?1 WHERE phase = 0", [IN_DOUBT])?;
    Ok(())
}
