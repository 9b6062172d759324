//! Reads a table of a damaged database by ranges of its row numbers; where a page
//! is damaged, the next readable row is searched for.

use rusqlite::{Connection, Row};

/// Rows read with one query.
const PAGE_ROWS: i64 = 2_000;

/// Reads the rows of one table by number, past damaged pages.
pub(super) fn scan(
    old: &Connection,
    select: &str,
    mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let first_column = select
        .trim_start_matches("SELECT ")
        .split(',')
        .next()
        .unwrap_or("rowid");
    let page = format!("{select} ORDER BY {first_column} LIMIT {PAGE_ROWS}");
    let probe = format!("{select} ORDER BY {first_column} LIMIT 1");
    let mut from = i64::MIN;
    loop {
        let mut seen = 0;
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = old.prepare_cached(&page)?;
            let mut rows = statement.query([from])?;
            while let Some(row) = rows.next()? {
                let number: i64 = row.get(0)?;
                match each(row) {
                    Err(error) if is_unusable(&error) => {
                        tracing::warn!(row = number, %error, "passed a row that is damaged");
                    }
                    result => result?,
                }
                from = number.saturating_add(1);
                seen += 1;
            }
            Ok(())
        };
        match read() {
            Ok(()) if seen < PAGE_ROWS => return Ok(()),
            Ok(()) => {}
            Err(error) if is_damage(&error) => {
                let readable = |from: i64| {
                    old.prepare_cached(&probe)
                        .and_then(|mut s| s.exists([from]))
                        .ok()
                };
                match next_readable(from, readable) {
                    Some(next) => from = next,
                    None => return Ok(()),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The smallest number after `from` at which reading works again, if there is any row.
fn next_readable(from: i64, readable: impl Fn(i64) -> Option<bool>) -> Option<i64> {
    let base = from.max(0);
    let mut step = 1_i64;
    let mut good = loop {
        let at = base.checked_add(step)?;
        match readable(at) {
            Some(true) => break at,
            Some(false) => return None,
            None => step = step.checked_mul(2)?,
        }
    };
    let mut bad = base + step / 2;
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if readable(middle) == Some(true) {
            good = middle
        } else {
            bad = middle
        }
    }
    Some(good)
}

/// Whether it is the row that is damaged, not the page: it holds what does not
/// belong into its columns.
fn is_unusable(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
    ) || error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SystemIoFailure};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase | SystemIoFailure)
    )
}
