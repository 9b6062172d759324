//! Whether there is room for everything to be brought under another key: looked at before
//! anything is changed, because a disk that is full halfway leaves a gateway that cannot
//! start on it.
//!
//! The values of a database grow in it; then SQLite makes a whole copy where temporary files
//! go, and takes it back by way of the write-ahead log. One database comes after the other,
//! and what the earlier ones grew by is taken then.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use penstock_broker::seal::{OVERHEAD, Seal};
use rusqlite::{Connection, OpenFlags};

/// What must be left: pages that are not full, small files, and what others write.
const MARGIN_BYTES: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4_096;

/// There is not enough.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} has {} free, and {} are needed{}; {}",
    .dir.display(),
    Mib(*.free),
    Mib(*.needed),
    if *.is_temporary { " for a copy of a database" } else { " beside what is there" },
    if *.is_temporary {
        "name a directory with more in the environment, as SQLITE_TMPDIR"
    } else {
        "make room, and run it again"
    }
)]
pub(crate) struct NoRoom {
    dir: PathBuf,
    is_temporary: bool,
    free: u64,
    needed: u64,
}

struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// What a database has.
#[derive(Debug, Clone, Copy)]
struct Database {
    /// Bytes in pages that are used.
    content: u64,
    /// Bytes in pages that are not.
    free: u64,
    /// By how much it grows.
    growth: u64,
}

/// What is needed in the data directory, and where temporary files go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Needed {
    data: u64,
    temporary: u64,
    /// Both at once, where they are on one disk.
    together: u64,
}

/// Says that it does not fit, where that is so, given how many values of each database are
/// plain. A system that does not tell its free space is believed to have enough.
pub(crate) fn look_for_room(
    dir: &Path,
    seal: &Seal,
    plain_values: &[(&str, u64)],
) -> Result<(), NoRoom> {
    let databases: Vec<Database> = plain_values
        .iter()
        .filter_map(|(database, plain)| {
            let value = if seal.is_on() { OVERHEAD as u64 } else { 0 };
            read(&dir.join(database), plain * value)
        })
        .collect();
    let temporary = temporary();
    let is_same = match (std::fs::metadata(dir), std::fs::metadata(&temporary)) {
        (Ok(dir), Ok(temporary)) => dir.dev() == temporary.dev(),
        _ => true,
    };
    let place = Place {
        dir,
        temporary: &temporary,
        is_same,
    };
    // Logs that a kill has left are written over, or cut.
    let logs: u64 = plain_values
        .iter()
        .map(|(database, _)| std::fs::metadata(dir.join(format!("{database}-wal"))))
        .map(|log| log.map_or(0, |log| log.len()))
        .sum();
    let free = |of: &Path| Some(free_bytes(of)? + if of == dir { logs } else { 0 });
    compare(needed(&databases), &place, free)
}

/// Where they are.
struct Place<'p> {
    dir: &'p Path,
    temporary: &'p Path,
    is_same: bool,
}

fn compare(
    needed: Needed,
    place: &Place<'_>,
    free: impl Fn(&Path) -> Option<u64>,
) -> Result<(), NoRoom> {
    let look = |dir: &Path, is_temporary, needed| match free(dir) {
        Some(free) if free < needed => Err(NoRoom {
            dir: dir.to_owned(),
            is_temporary,
            free,
            needed,
        }),
        _ => Ok(()),
    };
    if place.is_same {
        return look(place.dir, false, needed.together);
    }
    look(place.dir, false, needed.data)?;
    look(place.temporary, true, needed.temporary)
}

fn needed(databases: &[Database]) -> Needed {
    let mut needed = Needed::default();
    let mut grown = 0;
    for one in databases {
        let copy = one.content + one.growth;
        // What grows takes free pages first, and the log has the whole copy at the end.
        let own = one.growth.saturating_sub(one.free);
        needed.data = needed.data.max(grown + own + copy);
        needed.temporary = needed.temporary.max(copy);
        needed.together = needed.together.max(grown + own + 2 * copy);
        grown += own;
    }
    Needed {
        data: needed.data + MARGIN_BYTES,
        temporary: needed.temporary + MARGIN_BYTES,
        together: needed.together + MARGIN_BYTES,
    }
}

/// What a database has; `None` where it cannot be read, which whoever opens it says.
fn read(path: &Path, growth: u64) -> Option<Database> {
    if !path.is_file() {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).ok()?;
    let pages = |pragma: &str| -> Option<u64> {
        let count = connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        Some(count.ok()?.unsigned_abs() * PAGE_BYTES)
    };
    let (all, free) = (pages("page_count")?, pages("freelist_count")?);
    Some(Database {
        content: all.saturating_sub(free),
        free,
        // Rows do not fill pages quite.
        growth: growth + growth / 8,
    })
}

/// Where SQLite puts temporary files.
fn temporary() -> PathBuf {
    let named = ["SQLITE_TMPDIR", "TMPDIR"];
    let named = named.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp"].map(PathBuf::from);
    let may = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let is_fit = |dir: &PathBuf| dir.is_dir() && rustix::fs::access(dir, may).is_ok();
    let mut all = named.chain(usual);
    all.find(is_fit).unwrap_or_else(|| ".".into())
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let known = rustix::fs::statvfs(dir).ok()?;
    Some(known.f_bavail.saturating_mul(known.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn database(content: u64, free: u64, growth: u64) -> Database {
        Database {
            content: content * MIB,
            free: free * MIB,
            growth: growth * MIB,
        }
    }

    #[test]
    fn the_log_and_the_copy_have_to_fit_beside_what_is_there() {
        let one = needed(&[database(100, 0, 40)]);
        assert_eq!(
            (one.data, one.temporary),
            ((180 + 16) * MIB, (140 + 16) * MIB)
        );
        assert_eq!(one.together, (320 + 16) * MIB);
        // Free pages are used first; what comes later stands beside what has grown.
        let two = needed(&[
            database(100, 60, 40),
            database(10, 0, 5),
            database(120, 0, 0),
        ]);
        assert_eq!(
            (two.data, two.temporary),
            ((140 + 16) * MIB, (140 + 16) * MIB)
        );
        let grown = needed(&[database(10, 0, 5), database(120, 0, 0)]);
        assert_eq!(grown.data, (125 + 16) * MIB);
    }

    #[test]
    fn what_is_missing_is_said_with_the_directory_and_what_to_do() {
        let needed = needed(&[database(100, 0, 40)]);
        let (dir, temporary) = (Path::new("/data"), Path::new("/t"));
        let of = |is_same, data: u64, other: u64| {
            let place = Place {
                dir,
                temporary,
                is_same,
            };
            let free = |of: &Path| Some(if of == dir { data * MIB } else { other * MIB });
            let said = compare(needed, &place, free).map_err(|error| error.to_string());
            said.err().unwrap_or_default()
        };
        assert_eq!(of(false, 196, 156), "");
        assert_eq!(of(true, 336, 0), "");
        assert_eq!(
            of(false, 195, 156),
            "/data has 195 MiB free, and 196 MiB are needed beside what is there; make room, and \
             run it again"
        );
        assert_eq!(
            of(false, 196, 155),
            "/t has 155 MiB free, and 156 MiB are needed for a copy of a database; name a \
             directory with more in the environment, as SQLITE_TMPDIR"
        );
        assert!(of(true, 335, 1_000).starts_with("/data has 335 MiB free, and 336 MiB"));
    }

    #[test]
    fn what_a_database_has_is_read_and_what_is_no_database_is_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        assert!(read(&path, 0).is_none());
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(1000000))")
            .unwrap();
        let found = read(&path, 800).unwrap();
        assert!(found.content > 1_000_000 && found.content < 1_100_000);
        assert_eq!((found.free, found.growth), (0, 900));
        connection.execute_batch("DELETE FROM t").unwrap();
        let found = read(&path, 0).unwrap();
        assert!(found.free > 900_000 && found.content < 100_000);
        // What a killed reseal has left in the log is as good as free.
        let seal = Seal::new(&penstock_broker::seal::Key::random().unwrap(), &[]).unwrap();
        let free = free_bytes(dir.path()).unwrap();
        let plain = [("journal.db", free / 32)];
        let error = look_for_room(dir.path(), &seal, &plain).unwrap_err();
        let log = std::fs::File::create(dir.path().join("broker.db-wal")).unwrap();
        log.set_len(error.needed).unwrap();
        let both = [plain[0], ("broker.db", 0)];
        let is_one = error.dir == dir.path();
        assert_eq!(look_for_room(dir.path(), &seal, &both).is_ok(), is_one);
        let plain = [("journal.db", u64::MAX >> 20)];
        assert!(look_for_room(dir.path(), &seal, &plain).is_err());
        assert_eq!(
            look_for_room(dir.path(), &seal.without_sealing(), &plain),
            Ok(())
        );
    }
}
