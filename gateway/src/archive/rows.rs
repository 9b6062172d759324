//! Replays as rows of the journal's database (`store/migrations/5.sql`): a body is JSON,
//! which may be sealed, with the CRC-32 of what lies there. A row whose checksum is wrong, or
//! whose body does not open, is as good as none.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{REPLAYS_MAX, Replay};
use crate::{
    event::Timestamp,
    store::{Edit, Edited, seal_body},
};

fn whole(row: &Row<'_>) -> rusqlite::Result<Option<Replay>> {
    let body = row.get_ref(0)?.as_bytes_or_null().ok().flatten();
    Ok(body.and_then(|body| serde_json::from_slice(body).ok()))
}

/// The replay of this name.
///
/// # Errors
/// When the database cannot be read.
pub fn read(tables: &Connection, name: &str) -> rusqlite::Result<Option<Replay>> {
    let found = tables
        .prepare_cached(
            "SELECT opened('replays', name, checksum, body) FROM replays WHERE name = ?1",
        )?
        .query_row([name], whole)
        .optional()?;
    Ok(found.flatten())
}

/// All that are remembered, the latest first.
///
/// # Errors
/// When the database cannot be read.
pub fn list(tables: &Connection) -> rusqlite::Result<Vec<Replay>> {
    let mut statement = tables.prepare_cached(
        "SELECT opened('replays', name, checksum, body) FROM replays
             ORDER BY number DESC LIMIT ?1",
    )?;
    let rows = statement.query_map([i64::try_from(REPLAYS_MAX).unwrap_or(i64::MAX)], whole)?;
    rows.filter_map(Result::transpose).collect()
}

/// Writes where a replay is.
pub(super) fn put(tables: &Connection, replay: &Replay) -> rusqlite::Result<()> {
    let body = serde_json::to_vec(replay)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let (checksum, body) = seal_body(tables, "replays", &replay.name(), body)?;
    tables
        .prepare_cached(
            "INSERT INTO replays (name, checksum, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, body = excluded.body",
        )?
        .execute((replay.name(), checksum, body))?;
    Ok(())
}

/// Begins a replay. Answers with it as it is then; `None` where one of its name chose
/// otherwise.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) replay: Replay,
}

impl Edit for Begin {
    type Answer = Option<Replay>;

    fn apply(&self, tables: &Connection, _: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        if let Some(known) = read(tables, &self.replay.name())? {
            let same = known.choice == self.replay.choice;
            return Ok(Edited::nothing(same.then_some(known)));
        }
        put(tables, &self.replay)?;
        tables
            .prepare_cached(
                "DELETE FROM replays WHERE number NOT IN
                 (SELECT number FROM replays ORDER BY number DESC LIMIT ?1)",
            )?
            .execute([i64::try_from(REPLAYS_MAX).unwrap_or(i64::MAX)])?;
        Ok(Edited::change(Some(self.replay.clone()), Vec::new()))
    }

    fn cost_bytes(&self) -> usize {
        let of = &self.replay.choice;
        let texts = [of.device.as_ref(), of.rule.as_ref(), Some(&of.destination)];
        let texts = texts.into_iter().flatten().map(String::len);
        512 + 2 * texts.sum::<usize>()
    }

    fn is_spare(&self) -> bool {
        true
    }
}
