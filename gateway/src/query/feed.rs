//! The thread that keeps the projections: reads the journal behind its own cursor, a
//! page at a time, and does what retention and checkpoints ask for in between.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error, apply,
    handle::{Handle, QUESTIONS_MAX, Said, State},
    kept,
    retention::{Next, Retention},
    schema,
};
use crate::{clock::Clock, record::Position, store};

/// Records of one transaction, and their bytes.
const PAGE_RECORDS: usize = 2_000;
const PAGE_BYTES: usize = 1 << 20;
/// How long to wait for something new before looking around.
const TICK: Duration = Duration::from_millis(250);
/// How long a few events are waited beside: many small transactions cost more.
const GATHER: Duration = Duration::from_millis(10);
/// How often quarantine, dead letters and the disk are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often what is too old is looked for, when there is not much.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// The log is written back at this size, or after this time.
const LOG_BYTES: u64 = 4 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
/// How long it waits after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// What must stay free beside what the journal may yet take.
const MARGIN_BYTES: u64 = 32 << 20;
/// How much less than everything else it gets of a busy processor (nice).
const NICE: i32 = 10;

/// Has the journal keep what the read side of a data directory has not read yet, from
/// before its writer runs.
pub(crate) fn hold(config: &Config, dir: &Path, store: &store::Handle) {
    if config.enabled {
        // Without a file, or one that has to be built anew, it begins at the beginning.
        let at = schema::open_read_only(dir).and_then(|read| schema::position(&read));
        store.hold().set(at.unwrap_or_default());
    }
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    config: Config,
    dir: PathBuf,
    store: store::Handle,
    clock: Arc<dyn Clock>,
    said: watch::Sender<Said>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    handle: Handle,
    rebuilt: u64,
}

/// What the journal has counted of quarantine and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    quarantined: u64,
    /// Of those: retried, discarded or evicted.
    left: u64,
    dead_letters: u64,
    dead: u64,
}

/// The database and what was done about it.
struct Work {
    connection: Connection,
    reader: store::Reader,
    position: Position,
    retention: Retention,
    /// What of quarantine and dead letters was seen.
    kept: Option<Kept>,
    looked: Option<Instant>,
    retained: Option<Instant>,
    checkpointed: Instant,
    /// Changed since the last checkpoint.
    dirty: bool,
    /// There is no room in `read.db`.
    full: bool,
}

impl Feed {
    /// Prepares; reads nothing yet. `dir` is the data directory.
    pub fn new(config: Config, dir: &Path, store: store::Handle, clock: Arc<dyn Clock>) -> Self {
        let said = Said {
            state: match config.enabled {
                true => State::Rebuilding,
                false => State::Off,
            },
            position: Position(0),
            bytes: 0,
            series: 0,
            series_refused: 0,
            evicted: 0,
            missed: 0,
            rebuilt: 0,
        };
        let (said, seen) = watch::channel(said);
        let (rebuild, asked) = mpsc::channel(1);
        let handle = Handle {
            dir: dir.into(),
            store: store.clone(),
            said: seen,
            rebuild,
            places: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            bytes_max: config.size_max,
        };
        Self {
            config,
            dir: dir.to_path_buf(),
            store,
            clock,
            said,
            asked,
            handle,
            rebuilt: 0,
        }
    }

    /// The way to ask.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Follows the journal until `stop`, on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread, or it ended unexpectedly.
    pub async fn run(self, stop: CancellationToken) -> crate::tasks::Result {
        if !self.config.enabled {
            stop.cancelled().await;
            return Ok(());
        }
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("read-side".into())
            .spawn(move || {
                let worked = self.work(&stop);
                if ended.send(worked).is_err() {
                    tracing::debug!("nobody waits for the end of the read side");
                }
            })?;
        end.await?
    }

    /// Removes `read.db` from a data directory that no gateway runs on.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn remove(dir: &Path) -> std::io::Result<()> {
        schema::remove(dir)
    }

    /// Makes projections of all that the journal has now, and returns. Blocking.
    ///
    /// # Errors
    /// When the journal or `read.db` cannot be used.
    pub fn catch_up(self) -> Result<Position, Error> {
        let committed = self.store.committed();
        let end = *committed.borrow();
        let mut work = self.open()?;
        while work.position < end {
            self.page(&mut work)?;
        }
        self.look(&mut work)?;
        schema::checkpoint(&work.connection, true)?;
        Ok(work.position)
    }

    fn work(mut self, stop: &CancellationToken) -> crate::tasks::Result {
        // Of this thread alone; where that may not be, it is as any other.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "the read side has the priority of everything else");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let mut built = None::<Instant>;
        loop {
            let Err(mut error) = self.follow(&runtime, stop) else {
                return Ok(());
            };
            self.store.hold().release();
            if error.means_damage() {
                tracing::info!(reason = %error, "the read side is built anew");
                self.rebuilt += 1;
                let soon = built.replace(Instant::now());
                match schema::remove(&self.dir) {
                    // One that does not last is not built again and again.
                    Ok(()) if soon.is_none_or(|at| at.elapsed() > RETRY) => continue,
                    Ok(()) => {}
                    Err(cannot) => error = cannot.into(),
                }
            }
            tracing::debug!(%error, "the read side waits");
            self.pause(&error.to_string());
            if runtime.block_on(async { timeout(RETRY, stop.cancelled()).await.is_ok() }) {
                return Ok(());
            }
        }
    }

    /// Follows the journal until `stop` or an error.
    fn follow(&mut self, runtime: &Runtime, stop: &CancellationToken) -> Result<(), Error> {
        self.has_room()?;
        let mut work = self.open()?;
        let mut committed = self.store.committed();
        let mut begun = work.position >= *committed.borrow();
        loop {
            if let Ok(begin) = self.asked.try_recv() {
                if begin.send(()).is_err() {
                    tracing::debug!("who asked for a rebuild is gone");
                }
                return Err(Error::Stale("somebody asked for it"));
            }
            if stop.is_cancelled() {
                return schema::checkpoint(&work.connection, true);
            }
            let end = *committed.borrow_and_update();
            let mut calm = true;
            if work.position < end && !work.full {
                calm = self.page(&mut work)? < PAGE_RECORDS / 4;
            }
            begun |= work.position >= end;
            self.look(&mut work)?;
            self.say(&work, begun)?;
            if calm {
                runtime.block_on(async {
                    let more = async {
                        tokio::time::sleep(GATHER).await;
                        if work.position >= end || work.full {
                            drop(timeout(TICK, committed.changed()).await);
                        }
                    };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = more => {}
                    }
                });
            }
        }
    }

    fn open(&self) -> Result<Work, Error> {
        let connection = schema::open(&self.dir)?;
        let position = schema::position(&connection)?;
        if position > *self.store.committed().borrow() {
            return Err(Error::Stale("it is of another journal"));
        }
        Ok(Work {
            connection,
            reader: self.store.reader()?,
            position,
            retention: Retention::default(),
            kept: None,
            looked: None,
            retained: None,
            checkpointed: Instant::now(),
            dirty: true,
            full: false,
        })
    }

    /// Takes a page over; says how many records were on it.
    fn page(&self, work: &mut Work) -> Result<usize, Error> {
        let page = work.reader.all(work.position, PAGE_RECORDS, PAGE_BYTES)?;
        let max = self.config.series_max;
        apply::apply(&mut work.connection, work.position, &page, max)?;
        work.position = work.position.max(page.scanned_to);
        work.dirty = true;
        Ok(page.records.len())
    }

    /// What is done in between.
    fn look(&self, work: &mut Work) -> Result<(), Error> {
        if work.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            work.looked = Some(Instant::now());
            self.has_room()?;
            self.kept(work)?;
        }
        if work
            .retained
            .is_none_or(|at| at.elapsed() >= RETENTION_EVERY)
        {
            let now = self.clock.now();
            let Work {
                connection,
                retention,
                ..
            } = work;
            let next = retention.run(connection, &self.dir, &self.config, now)?;
            work.retained = (next == Next::Rest).then(Instant::now);
            work.dirty = true;
        }
        let (used, _) = schema::bytes(&work.connection, &self.dir)?;
        work.full = used
            > self
                .config
                .size_max
                .saturating_add(self.config.size_max / 4);
        if used > self.config.size_max {
            work.retained = None;
        }
        if work.full {
            self.store.hold().release();
        }
        let due = work.checkpointed.elapsed() >= CHECKPOINT_EVERY;
        if work.dirty && (due || self.log_bytes() > LOG_BYTES) {
            schema::checkpoint(&work.connection, false)?;
            work.checkpointed = Instant::now();
            work.dirty = false;
            if !work.full {
                // Only what power loss cannot take back may leave the journal.
                self.store.hold().set(work.position);
            }
        }
        Ok(())
    }

    fn log_bytes(&self) -> u64 {
        let log = self.dir.join(format!("{}-wal", schema::FILE));
        std::fs::metadata(log).map_or(0, |known| known.len())
    }

    /// Follows quarantine and dead letters where the journal has counted something.
    fn kept(&self, work: &mut Work) -> Result<(), Error> {
        let status = self.store.status();
        let now = Kept {
            quarantined: status.quarantined,
            left: status.quarantined.saturating_sub(status.in_quarantine),
            dead_letters: status.dead_letters,
            dead: status.destinations.iter().map(|d| d.dead).sum(),
        };
        let before = work.kept;
        if before == Some(now) {
            return Ok(());
        }
        let listing = self.store.listing()?;
        while !kept::follow(&mut work.connection, &listing)? {}
        // Looking for what is gone goes through all that is there.
        if before.is_none_or(|before| before.left != now.left) {
            kept::forget_messages(&mut work.connection, &listing)?;
        }
        let dead = |kept: Kept| (kept.dead_letters, kept.dead);
        if before.is_none_or(|before| dead(before) != dead(now)) {
            kept::forget_dead_letters(&mut work.connection, &listing)?;
        }
        work.kept = Some(now);
        work.dirty = true;
        Ok(())
    }

    /// Whether the disk has room for more than the journal may yet take.
    fn has_room(&self) -> Result<(), Error> {
        let journal = self.store.status();
        let need = journal.max_bytes.saturating_sub(journal.file_bytes) + MARGIN_BYTES;
        let known = rustix::fs::statvfs(&self.dir).map_err(std::io::Error::from)?;
        let free = known.f_bavail.saturating_mul(known.f_frsize);
        if free < need {
            let what = format!(
                "the disk has {} MiB free, and the journal may yet take {} MiB",
                free >> 20,
                need >> 20
            );
            return Err(Error::Asked(what));
        }
        Ok(())
    }

    fn pause(&self, reason: &str) {
        let state = State::Paused(reason.into());
        self.said.send_modify(|said| said.state = state);
    }

    fn say(&self, work: &Work, begun: bool) -> Result<(), Error> {
        let (series, series_refused, evicted) = work
            .connection
            .prepare_cached("SELECT series, refused, evicted FROM state")?
            .query_row([], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            })?;
        let missed: i64 = work
            .connection
            .prepare_cached("SELECT coalesce(sum(last - first + 1), 0) FROM missing")?
            .query_row([], |row| row.get(0))?;
        let (_, bytes) = schema::bytes(&work.connection, &self.dir)?;
        let state = match (begun, work.full) {
            (_, true) => State::Paused("read.db is at its size; see [read] size_max".into()),
            (true, false) => State::Following,
            (false, false) => State::Rebuilding,
        };
        self.said.send_replace(Said {
            state,
            position: work.position,
            bytes,
            series: series.cast_unsigned(),
            series_refused: series_refused.cast_unsigned(),
            evicted: evicted.cast_unsigned(),
            missed: missed.cast_unsigned(),
            rebuilt: self.rebuilt,
        });
        Ok(())
    }
}
