//! A damaged journal is set aside, and what can be read of it goes into a fresh
//! one: destinations, cursors and counters, events, keys, retries, dead letters,
//! quarantine. First by way of SQLite, which can pass over damaged pages; then
//! page by page, which finds what hangs on them, or all there is where the first
//! page is gone. What is missing afterwards is counted as damaged, for each
//! destination that had not settled it. The damaged file stays for a person to
//! look at; of many the first and the latest stay.

pub(super) mod others;
pub(super) mod pages;

use std::path::Path;

use penstock_broker::seal::{NotOpened, Seal};
use rusqlite::{
    Connection, Row,
    config::DbConfig,
    types::{Value, ValueRef},
};

use self::{
    others::{OTHERS, Other},
    pages::Missing,
};
use super::{
    Error, column,
    frame::{self, integer},
    listing, open,
    scan::scan,
    stage,
    state::{Standing, State},
};
use crate::record::{DESTINATIONS_MAX, DestinationId, NOWHERE, Position, Record};

/// Rows, and bytes, copied in one transaction.
const CHUNK_ROWS: i64 = 2_000;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Copying ends when the disk has less room than this: the gateway needs some to
/// start. What was not copied is counted as lost, and still is in the old file.
const FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;

pub(super) const INSERT_EVENT: &str =
    "INSERT OR IGNORE INTO events (position, routes, received, frame)
     VALUES (?1, ?2, ?3, ?4)";
pub(super) const INSERT_KEYS: &str =
    "INSERT OR IGNORE INTO commits (sequence, at, first, count, checksum, keys)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const INSERT_RETRY: &str = "INSERT OR IGNORE INTO retry
     (destination, position, attempts, not_before, reason, routes, received, frame, first)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
const INSERT_DEAD_LETTER: &str = "INSERT OR IGNORE INTO dead_letters
     (id, destination, position, damaged, attempts, at, reason, routes, received, frame, first)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
pub(super) const INSERT_QUARANTINE: &str = "INSERT OR IGNORE INTO quarantine
     (id, received, client_id, topic, class, reason, payload, properties, checksum)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// What could be read of a damaged journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Events.
    pub events: u64,
    /// Commits' keys.
    pub key_lists: u64,
    /// Records that wait for another attempt.
    pub retries: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Messages in quarantine.
    pub quarantined: u64,
    /// Devices, commands, and what else is known of devices.
    pub others: u64,
    /// Undelivered records that are lost: the most that any destination misses.
    pub lost: u64,
}

/// Copies what can be read of `aside` into `fresh`. Without a file there is
/// still what was promised: counters, cursors, and the last position.
pub(super) fn salvage(
    aside: Option<&Path>,
    fresh: &mut Connection,
    promised: Option<&State>,
    promised_names: &[(DestinationId, String)],
    seal: &Seal,
) -> Result<Salvaged, Error> {
    let mut salvaged = Salvaged::default();
    // A file that is no database at all leaves nothing but what was promised.
    let old = aside.and_then(|aside| open_as_evidence(aside).ok());
    let read = old
        .as_ref()
        .and_then(|old| open::read_state(old).ok().flatten());
    // A state that is found on a page of its own says nothing of what SQLite reads of the
    // tables.
    let mut in_doubt = read.is_none();
    let mut names = promised_names.to_vec();
    let read = match (read, aside) {
        (None, Some(aside)) => pages::find_state(aside, &mut names),
        (read, _) => read,
    };
    // What the tables of devices say may be older than what was answered then.
    let is_behind = match (&read, promised) {
        (Some(read), Some(promised)) => read.commit < promised.commit,
        (read, _) => read.is_none(),
    };
    in_doubt |= is_behind;
    let mut state = match (read, promised) {
        (Some(read), Some(promised)) if read.commit < promised.commit => promised.clone(),
        (Some(read), _) => read,
        (None, promised) => promised.cloned().unwrap_or_default(),
    };
    // Names first: without them nobody knows whose bits the masks hold. The promised
    // ones have a checksum.
    if let Some(old) = old.as_ref().filter(|_| names.is_empty()) {
        let sql = "SELECT id, id, name FROM destinations WHERE id >= ?1";
        let read = scan(old, sql, |row| {
            let id = DestinationId(row.get(1)?);
            let known = usize::from(id.0) < DESTINATIONS_MAX;
            if known {
                names.push((id, row.get(2)?));
            }
            Ok(known)
        });
        if let Err(error) = read {
            tracing::warn!(%error, "could not read the names of the destinations");
        }
    }
    let mut all_known = true;
    for (id, name) in &names {
        fresh.execute(
            "INSERT OR IGNORE INTO destinations (id, name) VALUES (?1, ?2)",
            (id.0, name),
        )?;
        if !state.destinations.iter().any(|d| d.id == *id) {
            state.destinations.push(Standing::new(*id, Position(0)));
            all_known = false;
        }
    }
    let expected = Missing {
        retries: state.destinations.iter().any(|d| d.retrying > 0),
        dead_letters: state.dead_letters > 0,
        quarantine: state.in_quarantine > 0,
    };
    // Up to here nobody waits for anything, as far as is known. That is copied last, and
    // only if there is room: it must not take the place of what was never sent.
    let delivered_to = match all_known {
        true => state.settled_to().max(state.trimmed),
        false => state.trimmed,
    };
    // Counted anew, row by row.
    state.destinations.iter_mut().for_each(|d| d.retrying = 0);
    let mut copy = Copy {
        seal,
        fresh,
        salvaged: &mut salvaged,
        state: &mut state,
        remaining: Vec::new(),
        from: delivered_to,
        with_spare: false,
        expected,
        broken: match in_doubt || old.is_none() {
            true => OTHERS.iter().collect(),
            false => Vec::new(),
        },
        chunk: (0, 0),
        out_of_room: false,
    };
    copy.state.quarantine_bytes = 0;
    copy.remaining = copy.state.destinations.iter().map(|d| (d.id, 0)).collect();
    if let Some(old) = &old {
        copy.everything(old)?;
    }
    if let Some(aside) = aside
        && copy.has_room_for_all(aside)
    {
        copy.with_spare = true;
        let is_some = copy.from > copy.state.trimmed || copy.state.held() > 0;
        if let Some(old) = old.as_ref().filter(|_| is_some) {
            copy.events(old)?;
        }
    }
    // Not beside another connection: closing a file takes SQLite's locks away.
    drop(old);
    if let Some(aside) = aside {
        copy.pages(aside)?;
    }
    if in_doubt {
        others::doubt(copy.fresh)?;
    }
    if !copy.with_spare && copy.from > copy.state.trimmed {
        tracing::warn!(
            to = copy.from.0,
            "the disk has no room for events that nobody waits for; they are in the old file"
        );
        copy.state.trimmed = copy.from;
    }
    let remaining = copy.remaining;
    settle_counters(&mut state, &remaining, &mut salvaged);
    state.commit += 1;
    stage::write_state(fresh, &state, &mut Vec::new())?;
    Ok(salvaged)
}

/// Opens a damaged file so that closing it changes nothing: SQLite would copy the
/// log into the database and remove it, and with it what a person could look at.
pub(crate) fn open_as_evidence(aside: &Path) -> rusqlite::Result<Connection> {
    let old = Connection::open(aside)?;
    old.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    old.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA query_only = 1")?;
    // Nothing is written; it is what makes SQLite read a file that is shorter than it says.
    old.execute_batch("PRAGMA writable_schema = 1")?;
    Ok(old)
}

/// The column that says when a record failed first; earlier formats have none.
fn first_of(old: &Connection, table: &str) -> &'static str {
    let has_it = old.prepare(&format!("SELECT first FROM {table}")).is_ok();
    if has_it { "first" } else { "NULL" }
}

/// What is neither settled nor here is lost.
fn settle_counters(state: &mut State, remaining: &[(DestinationId, u64)], salvaged: &mut Salvaged) {
    for d in &mut state.destinations {
        let here = remaining
            .iter()
            .find(|(id, _)| *id == d.id)
            .map_or(0, |(_, n)| *n);
        let accounted = d.settled() + d.retrying + here;
        if accounted > d.routed {
            // The counters are older than the rows.
            d.routed = accounted;
        }
        let lost = d.routed - accounted;
        d.damaged += lost;
        salvaged.lost = salvaged.lost.max(lost);
    }
    state.stored = state.stored.max(salvaged.events);
    state.quarantined = state.quarantined.max(salvaged.quarantined);
    state.in_quarantine = salvaged.quarantined;
    state.dead_letters = salvaged.dead_letters;
    state.buffered = salvaged.events;
}

struct Copy<'a> {
    /// Nothing is opened with it; without the right key nothing is copied.
    seal: &'a Seal,
    fresh: &'a mut Connection,
    salvaged: &'a mut Salvaged,
    state: &'a mut State,
    /// Undelivered events that are here, by destination.
    remaining: Vec<(DestinationId, u64)>,
    /// Somebody may wait for events after this one.
    from: Position,
    /// Earlier ones are copied too.
    with_spare: bool,
    /// Which of the other lists should have something.
    expected: Missing,
    /// Tables beside the journal's own that SQLite cannot read to their end.
    broken: Vec<&'static Other>,
    /// Rows and bytes of the transaction under way.
    chunk: (i64, usize),
    out_of_room: bool,
}

impl Copy<'_> {
    fn everything(&mut self, old: &Connection) -> Result<(), Error> {
        self.table(
            old,
            "SELECT sequence, sequence, at, first, count, checksum, keys FROM commits
             WHERE sequence >= ?1",
            INSERT_KEYS,
            |_, row| {
                let keys = row.get_ref(6)?.as_bytes()?;
                let whole = crc32fast::hash(keys) == row.get::<_, u32>(5)?;
                let sequence = integer(row.get(1)?);
                Ok(whole.then_some(sequence))
            },
            Self::count_keys,
        )?;
        self.table(
            old,
            &format!(
                "SELECT rowid, destination, position, attempts, not_before, reason, routes,
                        received, frame, {}, position, routes, received, frame
                 FROM retry WHERE rowid >= ?1",
                first_of(old, "retry")
            ),
            INSERT_RETRY,
            |copy, row| {
                let id = DestinationId(row.get(1)?);
                let record = copy.stored(row, 10)?;
                Ok(record
                    .filter(|record| copy.may_wait(id, record))
                    .map(|_| id))
            },
            Self::count_retry,
        )?;
        self.table(
            old,
            &format!(
                "SELECT id, id, destination, position, damaged, attempts, at, reason, routes,
                        received, frame, {} FROM dead_letters WHERE id >= ?1",
                first_of(old, "dead_letters")
            ),
            INSERT_DEAD_LETTER,
            |copy, row| {
                let frame = column::bytes(row, 10)?;
                let of = |at| Ok::<_, rusqlite::Error>(column::number(row, at)?.unwrap_or(0));
                // Of one that is kept as it was found a key may be a flipped bit.
                copy.require_record(pages::record(of(3)?, of(8)?, of(9)?, frame).as_ref())?;
                Ok(Some(integer(row.get(1)?)))
            },
            Self::count_dead_letter,
        )?;
        self.table(
            old,
            "SELECT id, id, received, client_id, topic, class, reason, payload, properties, checksum
             FROM quarantine WHERE id >= ?1",
            INSERT_QUARANTINE,
            |copy, row| {
                let mut bytes = 64;
                for at in [3, 4, 6, 7, 8] {
                    bytes += column::bytes(row, at)?.len() as u64;
                }
                copy.require_message(row)?;
                Ok(Some((integer(row.get(1)?), bytes)))
            },
            |copy, (id, bytes)| copy.count_quarantined(id, bytes),
        )?;
        self.others(old)?;
        self.events(old)
    }

    /// What is known of devices.
    fn others(&mut self, old: &Connection) -> Result<(), Error> {
        for other in &OTHERS {
            let Other { table, columns, .. } = other;
            let select = format!("SELECT number, {columns} FROM {table} WHERE number >= ?1");
            if old.prepare(&select).is_err() {
                // An earlier version had no such table, or the first page is gone.
                self.broken.push(other);
                continue;
            }
            if !other.is_whole(old) && !self.broken.contains(&other) {
                self.broken.push(other);
            }
            let count = columns.split(", ").count();
            let places = (1..=count).map(|n| format!("?{n}"));
            let places = places.collect::<Vec<_>>().join(", ");
            self.table(
                old,
                &select,
                &format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})"),
                |copy, row| {
                    let body = column::bytes(row, count)?;
                    let checksum = crc32fast::hash(body);
                    let whole = column::number(row, count - 1)? == Some(checksum.into());
                    if whole && other.is_sealed() {
                        copy.seal.require(body)?;
                    }
                    Ok(whole.then_some(()))
                },
                |copy, ()| copy.salvaged.others += 1,
            )?;
        }
        Ok(())
    }

    /// Events that are not here yet.
    fn events(&mut self, old: &Connection) -> Result<(), Error> {
        self.table(
            old,
            "SELECT position, position, routes, received, frame FROM events WHERE position >= ?1",
            INSERT_EVENT,
            |copy, row| {
                Ok(copy
                    .stored(row, 1)?
                    .filter(|record| copy.may_be_here(record)))
            },
            |copy, record| copy.count_event(&record),
        )
    }

    /// Whether there is room for whatever of the old file is not here yet.
    fn has_room_for_all(&self, aside: &Path) -> bool {
        let copied = self
            .fresh
            .path()
            .map_or(0, |path| file_bytes(Path::new(path)));
        let left = file_bytes(aside).saturating_sub(copied);
        !self.out_of_room && free_bytes(self.fresh).is_none_or(|free| free >= left + FREE_BYTES_MIN)
    }

    /// Copies a row; false where it is there already.
    fn insert(&mut self, insert: &str, columns: &[Value]) -> rusqlite::Result<bool> {
        let bytes = columns.iter().map(|column| match column {
            Value::Blob(blob) => blob.len(),
            _ => 8,
        });
        let bytes = bytes.sum();
        let mut statement = self.fresh.prepare_cached(insert)?;
        let inserted = statement.execute(rusqlite::params_from_iter(columns))? > 0;
        drop(statement);
        if inserted {
            self.inserted(bytes)?;
        }
        Ok(inserted)
    }

    /// Ends the transaction when it is large enough, and looks for room.
    fn inserted(&mut self, bytes: usize) -> rusqlite::Result<()> {
        self.chunk.0 += 1;
        self.chunk.1 += bytes;
        if self.chunk.0 >= CHUNK_ROWS || self.chunk.1 >= CHUNK_BYTES {
            self.chunk = (0, 0);
            self.fresh.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
            self.out_of_room = is_out_of_room(self.fresh);
        }
        Ok(())
    }

    /// A whole record, with its body as it lies there.
    ///
    /// # Errors
    /// When its key is not there: the file is damaged, and the key is another.
    fn stored(&self, row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Record>> {
        let record = frame::stored_in(row, first)?;
        self.require_record(record.as_ref())?;
        Ok(record)
    }

    /// The key of a whole record is there, for it is no damage where it is not.
    fn require_record(&self, record: Option<&Record>) -> Result<(), NotOpened> {
        record.map_or(Ok(()), |record| self.seal.require(&record.body))
    }

    /// The same of a message in quarantine, `reason`, `payload` and `properties` of a row
    /// that begins with its number.
    fn require_message(&self, row: &Row<'_>) -> rusqlite::Result<()> {
        let message = listing::quarantined_as_it_lies(row, 1)?;
        if message.intact {
            self.seal.require_text(&message.reason)?;
            self.seal.require(&message.payload)?;
            self.seal
                .require(message.properties.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Whether a record had not left the journal yet, and is to be copied.
    fn may_be_here(&self, record: &Record) -> bool {
        if !self.with_spare && record.position <= self.from {
            return false;
        }
        let held_after = self.state.nowhere().map(|nowhere| nowhere.cursor);
        record.position > self.state.trimmed
            || record.routes.contains(NOWHERE)
                && held_after.is_some_and(|after| record.position > after)
    }

    fn count_keys(&mut self, sequence: u64) {
        self.salvaged.key_lists += 1;
        self.state.commit = self.state.commit.max(sequence);
    }

    /// Whether a record of the retry list is one of the destination's.
    fn may_wait(&self, id: DestinationId, record: &Record) -> bool {
        let known = self.state.destinations.iter().any(|d| d.id == id);
        known && record.routes.contains(id)
    }

    fn count_retry(&mut self, id: DestinationId) {
        if let Some(d) = self.state.destination_mut(id) {
            d.retrying += 1;
        }
        self.salvaged.retries += 1;
    }

    fn count_dead_letter(&mut self, id: u64) {
        self.state.dead_letter_last = self.state.dead_letter_last.max(id);
        self.salvaged.dead_letters += 1;
    }

    fn count_quarantined(&mut self, id: u64, bytes: u64) {
        self.state.quarantine_last = self.state.quarantine_last.max(id);
        self.state.quarantine_bytes += bytes;
        self.salvaged.quarantined += 1;
    }

    fn count_event(&mut self, record: &Record) {
        self.salvaged.events += 1;
        self.state.position = self.state.position.max(record.position);
        for d in &self.state.destinations {
            if d.waits_for(record.position, record.routes) {
                let counted = self.remaining.iter_mut().find(|(id, _)| *id == d.id);
                if let Some((_, count)) = counted {
                    *count += 1;
                }
            }
        }
    }

    /// Copies the rows of one table that `keep` says are worth it, and counts
    /// those that are there then. The first column of `select` is the row's number
    /// and is not copied.
    fn table<T>(
        &mut self,
        old: &Connection,
        select: &str,
        insert: &str,
        keep: impl Fn(&Self, &Row<'_>) -> rusqlite::Result<Option<T>>,
        count: impl Fn(&mut Self, T),
    ) -> Result<(), Error> {
        self.fresh.execute_batch("BEGIN IMMEDIATE")?;
        let result = scan(old, select, |row| {
            if self.out_of_room {
                return Ok(false);
            }
            let Some(kept) = keep(self, row)? else {
                return Ok(false);
            };
            let columns = row.as_ref().column_count();
            let mut statement = self.fresh.prepare_cached(insert)?;
            let columns = columns.min(statement.parameter_count() + 1);
            let mut bytes = 0;
            for at in 1..columns {
                match row.get_ref(at)? {
                    ValueRef::Null => statement.raw_bind_parameter(at, rusqlite::types::Null)?,
                    ValueRef::Integer(n) => statement.raw_bind_parameter(at, n)?,
                    ValueRef::Real(x) => statement.raw_bind_parameter(at, x)?,
                    ValueRef::Text(text) => {
                        statement.raw_bind_parameter(at, String::from_utf8_lossy(text))?;
                    }
                    ValueRef::Blob(blob) => {
                        bytes += blob.len();
                        statement.raw_bind_parameter(at, blob)?;
                    }
                }
            }
            if statement.raw_execute()? == 0 {
                // It is there already, or damage took away what it must have.
                return Ok(false);
            }
            drop(statement);
            count(self, kept);
            self.inserted(bytes)?;
            Ok(true)
        });
        if !self.fresh.is_autocommit() {
            self.fresh.execute_batch("COMMIT")?;
        }
        result.map_err(Error::from)
    }
}

/// Bytes that are free where the database is, if the file system tells.
fn free_bytes(connection: &Connection) -> Option<u64> {
    let dir = Path::new(connection.path()?).parent()?;
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What a database takes, with its log.
fn file_bytes(database: &Path) -> u64 {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    bytes(database) + bytes(Path::new(&log))
}

fn is_out_of_room(connection: &Connection) -> bool {
    let out = free_bytes(connection).is_some_and(|free| free < FREE_BYTES_MIN);
    if out {
        tracing::error!("the disk has no room to salvage more of the damaged journal");
    }
    out
}
