//! Takes the ledger by device over into a file that is built anew: the journal does not
//! have what it was counted from any more.

use std::path::Path;

use rusqlite::{Connection, types::Value};

use crate::query::{Error, schema};

/// Tables, and how many columns each has.
const TABLES: [(&str, usize); 3] = [
    ("ledger_state", 5),
    ("ledger_destinations", 9),
    ("ledger", 8),
];

/// Rows of each table: no more than [`Limits`](crate::query::Limits) let the old file have.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::query) struct Rescued(Vec<Vec<Vec<Value>>>);

impl Rescued {
    pub(in crate::query) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts everything into a file that has nothing yet.
    pub(in crate::query) fn put(&self, connection: &mut Connection) -> Result<(), Error> {
        let transaction = connection.transaction()?;
        for ((table, columns), rows) in TABLES.iter().zip(&self.0) {
            transaction.execute(&format!("DELETE FROM {table}"), [])?;
            let places = vec!["?"; *columns].join(", ");
            let mut insert =
                transaction.prepare(&format!("INSERT INTO {table} VALUES ({places})"))?;
            for row in rows {
                insert.execute(rusqlite::params_from_iter(row))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// What a file that is given up has; nothing where not all of it can be read.
pub(in crate::query) fn rescue(dir: &Path) -> Rescued {
    let read = || -> Result<Rescued, Error> {
        let connection = schema::open_read_only(dir)?;
        let transaction = connection.unchecked_transaction()?;
        let mut tables = Vec::new();
        for (table, columns) in TABLES {
            let mut rows = transaction.prepare(&format!("SELECT * FROM {table}"))?;
            let rows = rows.query_map([], |row| {
                (0..columns).map(|column| row.get(column)).collect()
            })?;
            tables.push(rows.collect::<Result<Vec<Vec<Value>>, _>>()?);
        }
        Ok(Rescued(tables))
    };
    match read() {
        Ok(rescued) => rescued,
        Err(error) => {
            tracing::debug!(%error, "the ledger by device begins anew");
            Rescued::default()
        }
    }
}
