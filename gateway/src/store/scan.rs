//! Reads a table of a damaged database by ranges of its row numbers; where a page
//! is damaged, the next readable row is searched for.

use rusqlite::{Connection, Row};

/// Rows read with one query.
const PAGE_ROWS: i64 = 2_000;
/// Queries in a row that bring nothing, before numbers are leapt over.
const BARREN_MAX: u32 = 16;

/// Reads the rows of one table by number, past damaged pages and rows. `each` says
/// whether its row is whole. A damaged tree may run in circles: a row may come more
/// than once and out of order, and the end is reached all the same.
///
/// # Errors
/// Only those of `each` that are not about the row it was given: whatever reading
/// runs into is damage.
pub(crate) fn scan(
    old: &Connection,
    select: &str,
    mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let first_column = select
        .trim_start_matches("SELECT ")
        .split(',')
        .next()
        .unwrap_or("rowid");
    let page = format!("{select} ORDER BY {first_column} LIMIT {PAGE_ROWS}");
    let probe = format!("{select} ORDER BY {first_column} LIMIT 1");
    let mut from = i64::MIN;
    let mut barren = 0;
    loop {
        let mut stretch = Stretch::default();
        let read = stretch.read(old, &page, from, &mut each);
        if let Some(error) = stretch.failed {
            return Err(error);
        }
        let next = match read {
            Ok(()) if stretch.rows < PAGE_ROWS => return Ok(()),
            Ok(()) => stretch.end(),
            Err(_) => {
                let from = stretch.end().map_or(from, |end| end.max(from));
                let readable = |from: i64| {
                    old.prepare_cached(&probe)
                        .and_then(|mut s| s.exists([from]))
                        .ok()
                };
                next_readable(from, readable)
            }
        };
        let Some(next) = next else { return Ok(()) };
        let progress = stretch.last_whole.is_some() || (read.is_ok() && next > from);
        barren = if progress && next > from {
            0
        } else {
            barren + 1
        };
        // In circles, or among rows that only look readable: longer and longer leaps.
        let leap = 2_i64.checked_pow(u32::saturating_sub(barren, BARREN_MAX));
        let Some(beyond) = leap.and_then(|leap| from.max(0).checked_add(leap)) else {
            return Ok(());
        };
        from = if barren == 0 { next } else { next.max(beyond) };
    }
}

/// What one query came to.
#[derive(Debug, Default)]
struct Stretch {
    rows: i64,
    last: Option<i64>,
    last_whole: Option<i64>,
    failed: Option<rusqlite::Error>,
}

impl Stretch {
    fn read(
        &mut self,
        old: &Connection,
        page: &str,
        from: i64,
        mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut statement = old.prepare_cached(page)?;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(0)?;
            self.rows += 1;
            self.last = Some(number);
            match each(row) {
                Ok(true) => self.last_whole = self.last_whole.max(self.last),
                Ok(false) => {}
                Err(error) if is_about_the_row(&error) => {
                    tracing::warn!(row = number, %error, "passed a row that is damaged");
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Where the next one begins. The number of a damaged row proves nothing.
    fn end(&self) -> Option<i64> {
        self.last_whole
            .or(self.last)
            .map(|last| last.saturating_add(1))
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

/// Whether a value is not what the column holds: the row is damaged, and its
/// neighbours may be whole.
pub(crate) fn is_about_the_row(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    matches!(
        error,
        FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..)
    ) || error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}
