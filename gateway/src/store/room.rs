//! How much the journal takes, how much it may take, and the reserve.
//!
//! The gate compares pages in use plus the write-ahead log with `max_bytes`
//! before anything is inserted: pages that were freed are room, since they are
//! used again before the file grows. When the disk itself is full, the file
//! cannot grow: then the limit is what it has now. The reserve is a file with
//! real blocks that is given back to the disk, so that progress, removal and
//! checkpoints still work; it is taken again once the disk has room.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    config::{Config, OnFull},
    frame::integer,
    stage,
};

pub(super) const PAGE_BYTES: u64 = 4096;
/// Room that must remain beside the reserve before it is taken again.
const MARGIN_BYTES: u64 = 2 * 1024 * 1024;
/// Until the reserve is tried again after the disk did not give what it says is
/// free (a quota): each try costs writes.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// Pages of other tables that a commit touches, and room for index pages to split.
const COMMIT_BYTES: u64 = 16 * PAGE_BYTES;

#[derive(Debug)]
pub(super) struct Room {
    max_bytes: u64,
    on_full: OnFull,
    dir: PathBuf,
    wal: PathBuf,
    reserve: PathBuf,
    reserve_bytes: u64,
    /// Pages in use and write-ahead log, as of the last look.
    used: u64,
    /// Of it, the write-ahead log.
    log: u64,
    /// The whole of both files, as of the last look.
    files: u64,
    /// Put in since.
    added: u64,
    /// The disk is full; the reserve was given back.
    disk_full: bool,
    /// The last group was turned away.
    refusing: bool,
    /// The reserve is not tried before.
    retry_at: Option<Instant>,
    /// How long to wait after the next failure.
    retry_delay: Duration,
}

impl Room {
    pub(super) fn new(config: &Config, database: &Path) -> Self {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        Self {
            max_bytes: config.max_bytes,
            on_full: config.on_full,
            dir: config.dir.clone(),
            wal: wal.into(),
            reserve: config.dir.join("journal.reserve"),
            reserve_bytes: config.reserve_bytes,
            used: 0,
            log: 0,
            files: 0,
            added: 0,
            disk_full: false,
            refusing: false,
            retry_at: None,
            retry_delay: RETRY,
        }
    }

    /// Looks at the database again; inside a transaction this counts what it did.
    pub(super) fn look(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let pages = |pragma| -> rusqlite::Result<u64> {
            stage::cached(connection, pragma)?.query_row([], |row| row.get(0).map(integer))
        };
        let total = pages("PRAGMA page_count")?;
        let free = pages("PRAGMA freelist_count")?;
        let wal = fs::metadata(&self.wal).map_or(0, |m| m.len());
        self.used = total.saturating_sub(free) * PAGE_BYTES + wal;
        self.log = wal;
        self.files = total * PAGE_BYTES + wal;
        self.added = 0;
        Ok(())
    }

    /// Whether the log takes so much that it had better be emptied before anything is
    /// counted.
    pub(super) fn has_long_log(&self) -> bool {
        fs::metadata(&self.wal).is_ok_and(|log| log.len() > self.max_bytes / 8)
    }

    /// Whether so many bytes fit.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        // Rows do not fill pages quite.
        let bytes = bytes + bytes / 8 + COMMIT_BYTES;
        self.used + self.added + bytes <= self.limit()
    }

    /// What there may be: of a full disk what there is.
    pub(super) fn limit(&self) -> u64 {
        match self.disk_full {
            true => self.files.min(self.max_bytes),
            false => self.max_bytes,
        }
    }

    /// What is in it, the write-ahead log apart.
    pub(super) const fn content_bytes(&self) -> u64 {
        self.used.saturating_sub(self.log) + self.added
    }

    /// Whether so many bytes fit into three quarters of the room: more than what everybody
    /// has may take ([`Self::is_half_full`]), less than what devices may.
    pub(super) const fn has_plenty(&self, bytes: u64) -> bool {
        let bytes = bytes + bytes / 8 + COMMIT_BYTES;
        !self.disk_full && self.used + self.added + bytes <= self.max_bytes / 4 * 3
    }

    /// So many bytes were put in.
    pub(super) const fn add(&mut self, bytes: u64) {
        self.added += bytes + bytes / 8;
    }

    /// Whether so much is used that what everybody has is better let go.
    pub(super) const fn is_half_full(&self) -> bool {
        self.beyond_half() > 0
    }

    /// How much is better let go; on a full disk all that can be.
    pub(super) const fn beyond_half(&self) -> u64 {
        if self.disk_full {
            return u64::MAX;
        }
        (self.used + self.added).saturating_sub(self.max_bytes / 2)
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, on_full: OnFull, max_bytes: u64) {
        (self.on_full, self.max_bytes) = (on_full, max_bytes);
    }

    pub(super) const fn on_full(&self) -> OnFull {
        self.on_full
    }

    pub(super) const fn used_bytes(&self) -> u64 {
        self.used + self.added
    }

    pub(super) const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(super) const fn set_refusing(&mut self, refusing: bool) {
        self.refusing = refusing;
    }

    pub(super) const fn refusing(&self) -> bool {
        self.refusing
    }

    pub(super) const fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// The disk is full: gives the reserve back, if it is still there.
    pub(super) fn give_reserve_back(&mut self) {
        self.disk_full = true;
        match fs::remove_file(&self.reserve) {
            Ok(()) => tracing::warn!("the disk is full; gave the reserve back to go on"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the disk is full, and the reserve stays"),
        }
    }

    /// Takes the reserve (again) if the disk has room for it; then the disk is
    /// no longer full.
    pub(super) fn take_reserve(&mut self) {
        let there = fs::metadata(&self.reserve).is_ok_and(|m| m.len() >= self.reserve_bytes);
        if there && !self.disk_full {
            return;
        }
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.free_bytes() {
            Ok(free) if !there && free < self.reserve_bytes + MARGIN_BYTES => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the file system does not tell its free space"),
        }
        match self.allocate() {
            Ok(()) => {
                (self.retry_at, self.retry_delay) = (None, RETRY);
                if std::mem::take(&mut self.disk_full) {
                    tracing::info!("the disk has room again; took the reserve back");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no room for the reserve yet");
                self.retry_at = Some(Instant::now() + self.retry_delay);
                self.retry_delay = (self.retry_delay * 2).min(RETRY_MAX);
                // Half a reserve would only be in the way.
                if let Err(error) = fs::remove_file(&self.reserve) {
                    tracing::debug!(%error, "could not remove the unfinished reserve");
                }
            }
        }
    }

    fn allocate(&self) -> io::Result<()> {
        if self.reserve_bytes == 0 {
            return Ok(());
        }
        let mut file = File::create(&self.reserve)?;
        let none = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, none, 0, self.reserve_bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                fill(&mut file, self.reserve_bytes)
            }
            result => Ok(result?),
        }
    }

    /// Bytes that are free to us on the disk.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Takes blocks by writing, where the file system cannot give them out unwritten
/// (vfat, many of FUSE).
fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(bytes), file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_reserve_that_is_written_has_real_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("reserve");
        let mut file = File::create(&path).expect("created");
        fill(&mut file, 300_000).expect("written");
        let seen = fs::metadata(&path).expect("seen");
        assert_eq!(seen.len(), 300_000);
        assert!(seen.blocks() * 512 >= 300_000, "{} blocks", seen.blocks());
    }

    #[test]
    fn a_reserve_that_cannot_be_taken_is_tried_less_and_less_often() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            dir: dir.path().join("missing"),
            max_bytes: 1 << 20,
            max_age: None,
            keep_delivered: None,
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 4_096,
            dedup_age: RETRY,
            dedup_count: 1,
            dedup_memory_bytes: 1,
            destinations: Vec::new(),
            from_kept: Vec::new(),
            seal: penstock_broker::seal::Seal::default(),
        };
        let mut room = Room::new(&config, &config.dir.join("db"));
        for _ in 0..20 {
            room.retry_at = None;
            room.take_reserve();
        }
        assert_eq!(room.retry_delay, RETRY_MAX);
        fs::create_dir(&config.dir).expect("created");
        room.take_reserve();
        assert!(fs::metadata(&room.reserve).is_err(), "it is not time yet");
        room.retry_at = Some(Instant::now());
        room.take_reserve();
        assert_eq!(fs::metadata(&room.reserve).expect("taken").len(), 4_096);
        assert_eq!((room.retry_at, room.retry_delay), (None, RETRY));
    }
}
