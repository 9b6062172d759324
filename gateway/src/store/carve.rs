//! Reads a damaged database file page by page, without SQLite: it needs neither the
//! first page nor any tree, only the pages on which rows lie, and those of long rows.
//!
//! Promises: every row on a readable leaf page is shown, of the file and of its
//! write-ahead log; a page costs the same whatever is on it; memory is bounded by twice
//! the longest row that can be, whatever damage says. A row may be an old copy, or one that was removed: what it is, and
//! whether it is whole, its checksum must say. What is left in the log of the time before it
//! was begun anew, all of which the file had by then, is told from the rest ([`Cell::is_old`]).

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rusqlite::types::Value;

/// Ours has no other (see `schema`).
const PAGE: usize = 4_096;
/// The file header that the first page begins with.
const FILE_HEADER: usize = 100;
/// A page of the log has this before it, and all of them have this before them.
const FRAME_HEADER: u64 = 24;
const LOG_HEADER: u64 = 32;
/// What a leaf page of a table begins with.
const LEAF: u8 = 0x0d;
/// Of a row, more than this lies on other pages.
const LOCAL_MAX: usize = PAGE - 35;
const LOCAL_MIN: usize = (PAGE - 12) * 32 / 255 - 23;
/// No row of ours is longer: an event is not larger than the largest packet that a
/// broker can be configured to take and 2 MiB, nor are a message in quarantine or a
/// commit's keys.
const ROW_MAX: usize = 24 * 1024 * 1024;
/// No table of ours has more columns.
const COLUMNS_MAX: usize = 11;

/// A row, as it lies there.
#[derive(Debug)]
pub(crate) struct Cell {
    /// It is of the time before the log was begun anew: the file had it, or something newer.
    pub(crate) is_old: bool,
    pub(crate) row: i64,
    pub(crate) columns: Vec<Value>,
}

/// Shows every row that can be made out in `database` and its log. What `each` says
/// is an error ends it; what cannot be read is passed.
pub(crate) fn read<E>(
    database: &Path,
    mut each: impl FnMut(Cell) -> Result<(), E>,
) -> Result<(), E> {
    let mut pages = Pages::open(database);
    let mut page = vec![0; PAGE];
    for at in pages.places() {
        if pages.read(at, &mut page).is_err() {
            continue;
        }
        let begin = if at == (Place::Database, 0) {
            FILE_HEADER
        } else {
            0
        };
        if page[begin] != LEAF {
            continue;
        }
        let cells = usize::from(number(&page, begin + 3));
        // Each has a pointer of two bytes, and four bytes at least.
        for cell in 0..cells.min(PAGE / 6) {
            let start = usize::from(number(&page, begin + 8 + 2 * cell));
            if let Some(mut cell) = pages.cell(&page, start) {
                cell.is_old = at.0 == Place::Rest;
                each(cell)?;
            }
        }
    }
    Ok(())
}

/// Which file, and where in it.
type At = (Place, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Database,
    Log,
    /// What is left in the log of the time before it was begun anew.
    Rest,
}

/// What pages of the log begin with since it was begun anew, as its header has it; none where
/// that cannot be said for certain. Then nothing in it counts as old.
fn salt(log: &File) -> Option<[u8; 8]> {
    const MAGIC: u32 = 0x377f_0682;
    let mut header = [0; 24];
    log.read_exact_at(&mut header, 0).ok()?;
    let magic = u32::from_be_bytes(header[..4].try_into().ok()?);
    let salt: [u8; 8] = header[16..24].try_into().ok()?;
    let mut first = [0; 8];
    log.read_exact_at(&mut first, LOG_HEADER + 8).ok()?;
    // The first page is of this time, or the header is damaged.
    (magic & !1 == MAGIC && first == salt).then_some(salt)
}

#[derive(Debug)]
struct Pages {
    database: Option<File>,
    log: Option<File>,
    database_pages: u64,
    /// Which pages of the log are of the time since it was begun anew.
    log_pages: Vec<bool>,
    /// Where the newest copy of a page lies in the log, and in what is left there.
    logged: HashMap<u32, u64>,
    left: HashMap<u32, u64>,
    /// Pages that rows may still be continued on: damage can make chains of any length.
    further: u64,
}

impl Pages {
    fn open(database: &Path) -> Self {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let open = |path: PathBuf| File::open(path).ok();
        let (database, log) = (open(database.to_owned()), open(log.into()));
        let bytes = |file: &Option<File>| {
            let metadata = file.as_ref().and_then(|file| file.metadata().ok());
            metadata.map_or(0, |metadata| metadata.len())
        };
        let page = PAGE as u64;
        let database_pages = bytes(&database) / page;
        let count = bytes(&log).saturating_sub(LOG_HEADER) / (page + FRAME_HEADER);
        let (mut logged, mut left) = (HashMap::new(), HashMap::new());
        let mut log_pages = Vec::new();
        if let Some(log) = &log {
            let salt = salt(log);
            // As far as it is looked at.
            let mut header = [0; 16];
            for frame in 0..count {
                let at = LOG_HEADER + frame * (page + FRAME_HEADER);
                let is_readable = log.read_exact_at(&mut header, at).is_ok();
                let is_current = salt.is_none_or(|salt| is_readable && header[8..16] == salt);
                log_pages.push(is_current);
                if is_readable {
                    let pages = if is_current { &mut logged } else { &mut left };
                    let number = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                    pages.insert(number, at + FRAME_HEADER);
                }
            }
        }
        Self {
            database,
            log,
            database_pages,
            log_pages,
            logged,
            left,
            further: 4 * (database_pages + count),
        }
    }

    /// All pages, the newest copies first: those of the log, then the file's.
    fn places(&self) -> Vec<At> {
        let page = PAGE as u64;
        let frames = || {
            let frames = self.log_pages.iter().enumerate().rev();
            frames.map(move |(n, current)| {
                let before = n as u64 * (page + FRAME_HEADER);
                (*current, LOG_HEADER + before + FRAME_HEADER)
            })
        };
        let log = frames().filter(|(current, _)| *current);
        let left = frames().filter(|(current, _)| !current);
        let database = (0..self.database_pages).map(|n| (Place::Database, n * page));
        log.map(|(_, at)| (Place::Log, at))
            .chain(database)
            .chain(left.map(|(_, at)| (Place::Rest, at)))
            .collect()
    }

    fn read(&self, (place, at): At, page: &mut [u8]) -> io::Result<()> {
        let file = match place {
            Place::Database => &self.database,
            Place::Log | Place::Rest => &self.log,
        };
        let file = file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(page, at)
    }

    /// Where the newest copy of a page is.
    fn find(&self, number: u32) -> Option<At> {
        if let Some(at) = self.logged.get(&number) {
            return Some((Place::Log, *at));
        }
        let index = u64::from(number).checked_sub(1)?;
        if index < self.database_pages {
            return Some((Place::Database, index * PAGE as u64));
        }
        self.left.get(&number).map(|at| (Place::Rest, *at))
    }

    /// The row that begins at `start`, if there is one.
    fn cell(&mut self, page: &[u8], start: usize) -> Option<Cell> {
        let mut rest = page.get(start..)?;
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let row = varint(&mut rest)?.cast_signed();
        if length > ROW_MAX {
            return None;
        }
        let local = if length <= LOCAL_MAX {
            length
        } else {
            let local = LOCAL_MIN + (length - LOCAL_MIN) % (PAGE - 4);
            if local <= LOCAL_MAX { local } else { LOCAL_MIN }
        };
        let here = rest.get(..local)?;
        let (types, header) = types(here)?;
        let held = types.iter().map(|t| size(*t)).sum::<Option<usize>>()?;
        if header + held != length {
            return None;
        }
        let whole;
        let payload = if local == length {
            here
        } else {
            let next = rest.get(local..local + 4)?.try_into().ok()?;
            whole = self.follow(here, u32::from_be_bytes(next), length)?;
            &whole
        };
        let mut body = payload.get(header..)?;
        let columns = types.iter().map(|t| value(*t, &mut body));
        Some(Cell {
            is_old: false,
            row,
            columns: columns.collect::<Option<_>>()?,
        })
    }

    /// The rest of a long row. A chain that comes back to itself is damage.
    fn follow(&mut self, here: &[u8], mut next: u32, length: usize) -> Option<Vec<u8>> {
        let mut payload = here.to_vec();
        let mut page = vec![0; PAGE];
        let mut seen = HashSet::new();
        while payload.len() < length {
            self.further = self.further.checked_sub(1)?;
            if !seen.insert(next) {
                return None;
            }
            self.read(self.find(next)?, &mut page).ok()?;
            next = u32::from_be_bytes(page[..4].try_into().ok()?);
            let more = (length - payload.len()).min(PAGE - 4);
            payload.extend_from_slice(&page[4..4 + more]);
        }
        Some(payload)
    }
}

/// The types of a row's columns, and how long its header is.
fn types(payload: &[u8]) -> Option<(Vec<u64>, usize)> {
    let mut rest = payload;
    let header = usize::try_from(varint(&mut rest)?).ok()?;
    let mut types = Vec::new();
    while payload.len() - rest.len() < header {
        if types.len() == COLUMNS_MAX {
            return None;
        }
        types.push(varint(&mut rest)?);
    }
    (payload.len() - rest.len() == header).then_some((types, header))
}

/// How many bytes a column of this type takes.
fn size(kind: u64) -> Option<usize> {
    Some(match kind {
        0 | 8 | 9 => 0,
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => usize::try_from((kind - 12) / 2)
            .ok()
            .filter(|n| *n <= ROW_MAX)?,
    })
}

/// Takes one column from the front.
fn value(kind: u64, body: &mut &[u8]) -> Option<Value> {
    let (bytes, rest) = body.split_at_checked(size(kind)?)?;
    *body = rest;
    let integer = || {
        let first = bytes.first().map_or(0, |b| i64::from(b.cast_signed()));
        bytes
            .iter()
            .skip(1)
            .fold(first, |n, b| n << 8 | i64::from(*b))
    };
    Some(match kind {
        0 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 => Value::Integer(integer()),
        7 => Value::Real(f64::from_bits(integer().cast_unsigned())),
        _ if kind.is_multiple_of(2) => Value::Blob(bytes.to_vec()),
        _ => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
    })
}

/// SQLite's number of one to nine bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..9 {
        let byte = *bytes.get(at)?;
        if at == 8 || byte < 0x80 {
            *bytes = &bytes[at + 1..];
            let bits = if at == 8 { 8 } else { 7 };
            return Some(number << bits | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
    }
    None
}

fn number(page: &[u8], at: usize) -> u16 {
    let bytes = page.get(at..at + 2).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    /// A number as SQLite writes it.
    fn header(mut number: u64) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(number & 0x7f).expect("seven bits")];
        while number > 0x7f {
            number >>= 7;
            bytes.insert(0, u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        }
        bytes
    }

    fn len(number: u64) -> u64 {
        header(number).len() as u64
    }

    fn a_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<i8>().prop_map(|n| Value::Integer(n.into())),
            any::<i32>().prop_map(|n| Value::Integer(n.into())),
            Just(Value::Integer(1)),
            "[a-zé]{0,40}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..12_000).prop_map(Value::Blob),
        ]
    }

    #[test]
    fn what_is_left_of_the_time_before_the_log_was_begun_anew_is_told_and_comes_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        let database = Connection::open(&path).expect("a database");
        database
            .execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;
                 PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
            )
            .expect("a table");
        let insert = |id: i64, text: String| {
            let sql = "INSERT OR REPLACE INTO t VALUES (?1, ?2)";
            database.execute(sql, (id, text)).expect("a row");
        };
        for id in 0..50 {
            insert(id, format!("{id} old {}", "x".repeat(3_000)));
        }
        database
            .execute("DELETE FROM t WHERE id = 40", [])
            .expect("done");
        insert(7, format!("7 between {}", "x".repeat(20_000)));
        // All of it is in the file, and the log begins anew over the same bytes.
        database
            .execute_batch("PRAGMA wal_checkpoint(RESTART)")
            .expect("a checkpoint");
        insert(7, format!("7 new {}", "y".repeat(20_000)));
        let mut first = HashMap::new();
        let mut old = HashSet::new();
        read(&path, |cell| {
            if let Some(Value::Text(text)) = cell.columns.get(1) {
                let word = text.split(' ').nth(1).unwrap_or_default().to_owned();
                first.entry(cell.row).or_insert((word, cell.is_old));
                if cell.is_old {
                    old.insert(cell.row);
                }
            }
            Ok::<_, ()>(())
        })
        .expect("read");
        assert_eq!(first[&7], ("new".to_owned(), false));
        assert_eq!(first[&8], ("old".to_owned(), false));
        assert!(old.contains(&40), "the log has what was removed before");
        // Where its beginning is damaged, nobody knows what is old: nothing is passed for it.
        let log = dir.path().join("x.db-wal");
        let log = std::fs::OpenOptions::new().write(true).open(log);
        let log = log.expect("the log");
        for bytes in [4, 64, 512] {
            log.write_all_at(&vec![0; bytes], 0).expect("destroyed");
            let mut new = 0;
            read(&path, |cell| {
                assert!(!cell.is_old, "{bytes}");
                if let Some(Value::Text(text)) = cell.columns.get(1) {
                    new += u64::from(text.starts_with("7 new"));
                }
                Ok::<_, ()>(())
            })
            .expect("read");
            // Further on it lies on what is destroyed.
            assert!(new > 0 || bytes > 4, "{bytes}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_row_is_found_without_the_first_page_whatever_its_length(
            rows in proptest::collection::vec((any::<i64>(), a_value(), a_value()), 1..40),
            logged in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("x.db");
            let database = Connection::open(&path).expect("a database");
            let mode = if logged { "WAL" } else { "DELETE" };
            database
                .execute_batch(&format!(
                    "PRAGMA page_size = 4096; PRAGMA journal_mode = {mode};
                     PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)"
                ))
                .expect("a table");
            let mut expect = HashMap::new();
            for (id, a, b) in rows {
                database
                    .execute("INSERT OR REPLACE INTO t VALUES (?1, ?2, ?3)", (id, &a, &b))
                    .expect("a row");
                expect.insert(id, vec![Value::Null, a, b]);
            }
            // While it is open: closing it would empty the log.
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the file");
            file.write_all_at(&[0; PAGE], 0).expect("destroyed");
            let mut found = HashMap::new();
            read(&path, |cell| {
                // Older copies come after.
                found.entry(cell.row).or_insert(cell.columns);
                Ok::<_, ()>(())
            }).expect("read");
            for (id, columns) in expect {
                prop_assert_eq!(found.get(&id), Some(&columns));
            }
        }

        #[test]
        fn a_row_whose_pages_run_in_circles_is_passed(
            pages in 1_usize..6,
            back_to in 0_usize..6,
            length in prop_oneof![5_000_usize..100_000, 100_000..ROW_MAX],
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("x.db");
            // The first page is left alone; the second is a leaf with one row of one
            // blob; those after it are its chain, the last of which leads back.
            let mut file = vec![0; PAGE * (2 + pages)];
            let leaf = &mut file[PAGE..2 * PAGE];
            let mut row = Vec::new();
            let body = 2 * length as u64 + 12;
            let types = [header(2 + len(body)), header(0), header(body)].concat();
            row.extend(header((types.len() + length) as u64));
            row.extend(header(7));
            row.extend(&types);
            let total = types.len() + length;
            let local = LOCAL_MIN + (total - LOCAL_MIN) % (PAGE - 4);
            let local = if local <= LOCAL_MAX { local } else { LOCAL_MIN };
            let before = row.len() - types.len();
            row.resize(before + local, 0x11);
            row.extend(3_u32.to_be_bytes());
            leaf[0] = LEAF;
            leaf[3..5].copy_from_slice(&1_u16.to_be_bytes());
            leaf[8..10].copy_from_slice(&16_u16.to_be_bytes());
            leaf[16..16 + row.len()].copy_from_slice(&row);
            for at in 0..pages {
                let next = if at + 1 < pages { at + 1 } else { back_to % pages };
                let next = u32::try_from(3 + next).expect("small");
                file[(2 + at) * PAGE..][..4].copy_from_slice(&next.to_be_bytes());
            }
            std::fs::write(&path, &file).expect("written");
            let mut found = 0;
            read(&path, |_| {
                found += 1;
                Ok::<_, ()>(())
            }).expect("read");
            // Only where it ends before it comes back to itself.
            prop_assert_eq!(found == 1, total <= local + pages * (PAGE - 4));
        }

        #[test]
        fn any_bytes_are_passed(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3 * PAGE),
            leaf in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("x.db");
            for at in (0..bytes.len()).step_by(PAGE) {
                if leaf {
                    bytes[at] = LEAF;
                }
            }
            std::fs::write(&path, &bytes).expect("written");
            std::fs::write(dir.path().join("x.db-wal"), &bytes).expect("written");
            read(&path, |_| Ok::<_, ()>(())).expect("read");
        }
    }
}
