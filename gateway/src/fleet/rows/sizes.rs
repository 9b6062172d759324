//! What the tables take, and what can leave them.

use rusqlite::{Connection, params};

/// What a row takes beside its body, with its indexes, about.
const ROW_BYTES: u64 = 512;

/// What all tables take, about.
pub(in crate::fleet) fn bytes(tables: &Connection) -> rusqlite::Result<u64> {
    let mut bytes = 0_u64;
    for table in ["devices", "commands", "shadows", "requests"] {
        let sql = format!("SELECT count(*), coalesce(sum(length(body)), 0) FROM {table}");
        let (rows, bodies): (i64, i64) =
            tables.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        bytes = bytes.saturating_add(number(bodies) + ROW_BYTES * number(rows));
    }
    Ok(bytes)
}

/// Forgets some of the oldest commands that were over before an instant: how many, and
/// what they took.
pub(in crate::fleet) fn press_commands(
    tables: &Connection,
    before_ms: i64,
    limit: usize,
) -> rusqlite::Result<(u64, u64)> {
    let sql = "DELETE FROM commands WHERE number IN
                   (SELECT number FROM commands WHERE phase = 2 AND due < ?1
                    ORDER BY due LIMIT ?2)
               RETURNING length(body)";
    press(tables, sql, before_ms, limit)
}

/// Forgets some of the oldest answers of before an instant, in the same way.
pub(in crate::fleet) fn press_requests(
    tables: &Connection,
    before_ms: i64,
    limit: usize,
) -> rusqlite::Result<(u64, u64)> {
    let sql = "DELETE FROM requests WHERE number IN
                   (SELECT number FROM requests WHERE at < ?1 ORDER BY at LIMIT ?2)
               RETURNING length(body)";
    press(tables, sql, before_ms, limit)
}

fn press(
    tables: &Connection,
    sql: &str,
    before_ms: i64,
    limit: usize,
) -> rusqlite::Result<(u64, u64)> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = tables.prepare_cached(sql)?;
    let mut rows = statement.query(params![before_ms, limit])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let body: Option<i64> = row.get(0)?;
        count += 1;
        bytes += number(body.unwrap_or_default()) + ROW_BYTES;
    }
    Ok((count, bytes))
}

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}
