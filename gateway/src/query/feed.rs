//! The thread that keeps the projections: reads the journal behind its own cursor, a
//! page at a time, and does what retention and checkpoints ask for in between.

mod taking;

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
    Config, Error,
    handle::{Handle, Order, QUESTIONS_MAX, Said, State, Waiting},
    kept,
    ledger::{self, Rescued},
    log::{self, Cramped, Log},
    names::{self, Name},
    patience::ANSWER_TIME_MAX,
    retention::{Next, Retention},
    schema, unset,
};
use crate::{
    boots::Boots,
    clock::Clock,
    pace::{self, Pace},
    record::{DestinationId, Position},
    store,
};

/// How long to wait for something new before looking around.
const TICK: Duration = Duration::from_millis(250);
/// How long a few events are waited beside: many small transactions cost more. Less
/// while somebody waits for a position.
const GATHER: Duration = Duration::from_millis(200);
const GATHER_WAITED: Duration = Duration::from_millis(10);
/// How often quarantine, dead letters and the disk are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often what is too old is looked for, when there is not much.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// How long it waits after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// What must stay free beside what the journal may yet take.
const MARGIN_BYTES: u64 = 32 << 20;

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
    pub(super) said: watch::Sender<Said>,
    orders: mpsc::Receiver<Order>,
    handle: Handle,
    boots: Arc<Boots>,
    rebuilt: u64,
    /// The last position of the journal when this process began.
    began: Position,
    /// What an earlier file knew of numbers of destinations.
    names: Vec<Name>,
    /// Its ledger by device.
    ledger: Rescued,
}

/// What the journal has counted of quarantine and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    quarantined: u64,
    /// Of those: retried, discarded or evicted.
    left: u64,
    dead_letters: u64,
    dead: u64,
}

/// The database and what was done about it.
pub(super) struct Work {
    pub(super) connection: Connection,
    reader: store::Reader,
    /// The destinations whose numbers were noted.
    named: Vec<(DestinationId, Arc<str>)>,
    position: Position,
    retention: Retention,
    /// What of quarantine and dead letters was taken over, once all of it was.
    pub(super) kept: Option<Kept>,
    /// What was looked through for what is gone.
    gone: Option<Kept>,
    /// What the journal's ledger said when the one by device was compared last.
    counted: Option<taking::Counted>,
    /// The ledger by device may differ from the journal's for a reason that is known:
    /// until it was compared a while after this.
    excused: Option<Instant>,
    /// Which file of the journal was read.
    replaced: u64,
    looked: Option<Instant>,
    retained: Option<Instant>,
    log: Log,
    /// There is no room in `read.db`.
    full: bool,
    /// What came before the clock was set was looked through, with or without knowing
    /// when this boot was.
    repaired: Option<bool>,
}

impl Work {
    /// Whether anything more may be taken over for now.
    fn may_write(&self) -> bool {
        !self.full && !self.log.is_cramped()
    }

    /// Whether there is more to take over, and room for it: of the journal, which goes on
    /// to `end`, or of quarantine and dead letters.
    fn is_behind(&self, end: Position) -> bool {
        (self.position < end && self.may_write()) || (self.kept.is_none() && !self.log.is_cramped())
    }
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
            kept_evicted: 0,
            missed: 0,
            rebuilt: 0,
            unattributed: 0,
            findings: Arc::default(),
        };
        let (said, seen) = watch::channel(said);
        let (order, orders) = mpsc::channel(1);
        let began = *store.committed().borrow();
        let handle = Handle {
            dir: dir.into(),
            store: store.clone(),
            said: seen,
            orders: order,
            waiting: Arc::new(Waiting::default()),
            cramped: Cramped::default(),
            places: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            bytes_max: config.size_max,
            answer_time_max: ANSWER_TIME_MAX,
        };
        Self {
            config,
            dir: dir.to_path_buf(),
            store,
            clock,
            said,
            orders,
            handle,
            boots: Arc::new(Boots::of_dir(dir)),
            rebuilt: 0,
            began,
            names: Vec::new(),
            ledger: Rescued::default(),
        }
    }

    /// Gives what came before the clock was set its time, as soon as that is known.
    #[must_use]
    pub fn repairing(mut self, boots: Arc<Boots>) -> Self {
        self.boots = boots;
        self
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

    /// Makes projections of all that the journal has now, and returns. Blocking. No
    /// gateway runs on the data directory.
    ///
    /// # Errors
    /// When the journal or `read.db` cannot be used.
    pub fn catch_up(mut self) -> Result<Position, Error> {
        let committed = self.store.committed();
        let end = *committed.borrow();
        let mut work = self.open()?;
        while !self.page(&mut work)?.is_whole || work.position < end {
            work.log.tend(&work.connection)?;
        }
        while work.kept.is_none() {
            self.kept(&mut work)?;
            work.log.tend(&work.connection)?;
        }
        self.look(&mut work)?;
        log::close(&work.connection)?;
        Ok(work.position)
    }

    /// The same, from the beginning.
    ///
    /// # Errors
    /// When the journal or `read.db` cannot be used.
    pub fn build(mut self) -> Result<Position, Error> {
        self.begin_anew()?;
        self.catch_up()
    }

    fn work(mut self, stop: &CancellationToken) -> crate::tasks::Result {
        pace::give_way();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let mut built = None::<Instant>;
        loop {
            let Err(mut error) = self.follow(&runtime, stop) else {
                return Ok(());
            };
            if error.means_no_room() {
                self.store.hold().release();
            }
            if error.means_damage() {
                tracing::info!(reason = %error, "the read side is built anew");
                self.rebuilt += 1;
                let soon = built.replace(Instant::now());
                match self.begin_anew() {
                    // One that does not last is not built again and again.
                    Ok(()) if soon.is_none_or(|at| at.elapsed() > RETRY) => continue,
                    Ok(()) => {}
                    Err(cannot) => error = cannot,
                }
            }
            tracing::debug!(%error, "the read side waits");
            let reason: Arc<str> = error.to_string().into();
            self.pause(reason.clone());
            let waited = async {
                tokio::select! {
                    () = stop.cancelled() => true,
                    () = self.refuse_orders(&reason) => false,
                    () = tokio::time::sleep(RETRY) => false,
                }
            };
            if runtime.block_on(waited) {
                return Ok(());
            }
        }
    }

    /// Removes what there is. The journal keeps what it has for what is built next, and
    /// answers wait for their positions again.
    pub(super) fn begin_anew(&mut self) -> Result<(), Error> {
        self.said.send_modify(|said| {
            said.state = State::Rebuilding;
            said.position = Position(0);
        });
        let known = names::rescue(&self.dir);
        if !known.is_empty() {
            self.names = known;
        }
        let ledger = ledger::rescue(&self.dir);
        if !ledger.is_empty() {
            self.ledger = ledger;
        }
        self.store.hold().set(Position(0));
        Ok(schema::remove(&self.dir)?)
    }

    /// Says to whoever wants everything built anew that it will not be, now or later.
    async fn refuse_orders(&mut self, reason: &str) {
        while let Some(order) = self.orders.recv().await {
            let Order::Asked(begun) = order else { continue };
            let waits = format!("the read side waits, and is not built anew: {reason}");
            if begun.send(Err(Error::Waits(waits))).is_err() {
                tracing::debug!("who asked for a rebuild is gone");
            }
        }
        std::future::pending().await
    }

    /// Whether it is to be built anew, and somebody still wants it.
    fn is_ordered(&mut self) -> bool {
        match self.orders.try_recv() {
            Ok(Order::Asked(begun)) => begun.send(Ok(())).is_ok(),
            Ok(Order::Damaged) => true,
            Err(_) => false,
        }
    }

    /// Follows the journal until `stop` or an error.
    fn follow(&mut self, runtime: &Runtime, stop: &CancellationToken) -> Result<(), Error> {
        self.has_room()?;
        let mut work = self.open()?;
        let mut committed = self.store.committed();
        let mut begun = work.position >= *committed.borrow();
        let mut pace = Pace::begin();
        loop {
            if self.is_ordered() {
                return Err(Error::Stale("somebody asked for it, or found damage"));
            }
            if stop.is_cancelled() {
                return log::close(&work.connection);
            }
            let end = *committed.borrow_and_update();
            if work.position < end && work.may_write() {
                self.page(&mut work)?;
            } else {
                self.count_otherwise(&mut work)?;
            }
            begun |= work.position >= end;
            self.look(&mut work)?;
            self.say(&work, begun)?;
            let rest = pace.rest();
            let behind = work.is_behind(end);
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.wait(rest, behind, &mut committed) => {}
                }
            });
        }
    }

    /// Rests, also while somebody waits: who asks again and again would end all rests.
    /// Where there is nothing left to do, gathers something.
    pub(super) async fn wait(
        &self,
        rest: Duration,
        behind: bool,
        committed: &mut watch::Receiver<Position>,
    ) {
        let waiting = &self.handle.waiting;
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        if behind {
            return;
        }
        if waiting.any() {
            tokio::time::sleep(GATHER_WAITED).await;
        } else {
            drop(timeout(GATHER, waiting.came.notified()).await);
        }
        drop(timeout(TICK, committed.changed()).await);
    }

    pub(super) fn open(&self) -> Result<Work, Error> {
        let mut connection = schema::open(&self.dir)?;
        let position = schema::position(&connection)?;
        if position > *self.store.committed().borrow() {
            return Err(Error::Stale("it is of another journal"));
        }
        let named = self.named();
        names::note(&mut connection, &named, self.began, &self.names)?;
        if ledger::stands(&connection)? == (Position(0), 0) {
            self.ledger.put(&mut connection)?;
        }
        Ok(Work {
            connection,
            reader: self.store.reader()?,
            named,
            position,
            retention: Retention::default(),
            kept: None,
            gone: None,
            counted: None,
            excused: Some(Instant::now()),
            replaced: 0,
            looked: None,
            retained: None,
            log: Log::new(self.config.size_max, self.handle.cramped.clone()),
            full: false,
            repaired: None,
        })
    }

    /// Gives what came before the clock was set its time, where it got to be known.
    fn repair(&self, work: &mut Work) -> Result<(), Error> {
        let known = self.boots.note();
        if work.repaired == Some(true) || work.repaired == Some(known) {
            return Ok(());
        }
        let listing = self.store.listing()?;
        let limits = self.config.limits();
        unset::repair(&mut work.connection, &listing, &self.boots, limits)?;
        work.repaired = Some(known);
        work.log.wrote();
        Ok(())
    }

    /// The destinations that the journal knows, and their numbers.
    fn named(&self) -> Vec<(DestinationId, Arc<str>)> {
        let status = self.store.status();
        let all = status.destinations.iter();
        all.map(|d| (d.id, d.name.clone())).collect()
    }

    /// What is done in between.
    pub(super) fn look(&self, work: &mut Work) -> Result<(), Error> {
        // Destinations come and go while the gateway runs, and numbers are given again.
        let named = self.named();
        if named != work.named {
            let now = *self.store.committed().borrow();
            names::note(&mut work.connection, &named, now, &[])?;
            work.named = named;
        }
        // Before retention, which takes it for very old.
        self.repair(work)?;
        if work.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            work.looked = Some(Instant::now());
            self.has_room()?;
            if !work.log.is_cramped() {
                self.kept(work)?;
                // There may be more: it is for the next turn, with another look at the room.
                work.looked = work.looked.filter(|_| work.kept.is_some());
            }
        }
        let now = self.clock.now();
        // A clock that was set just now makes everything old that did not get its time yet.
        let is_repaired = now.is_unset() || work.repaired == Some(true);
        let rested = work.retained.map(|at| at.elapsed());
        if is_repaired && rested.is_none_or(|rested| rested >= RETENTION_EVERY) {
            let Work {
                connection,
                retention,
                ..
            } = work;
            let next = retention.run(connection, &self.dir, &self.config, now)?;
            work.retained = (next == Next::Rest).then(Instant::now);
            work.log.wrote();
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
            work.excused = Some(Instant::now());
        }
        if work.log.tend(&work.connection)? && !work.full {
            // Only what power loss cannot take back may leave the journal.
            let (_, commit) = ledger::stands(&work.connection)?;
            self.store.hold().set_tallied(commit);
            self.store.hold().set(work.position);
        }
        Ok(())
    }

    /// Follows quarantine and dead letters where the journal has counted something, by
    /// one page.
    fn kept(&self, work: &mut Work) -> Result<(), Error> {
        let status = self.store.status();
        let now = Kept {
            quarantined: status.quarantined,
            left: status.quarantined.saturating_sub(status.in_quarantine),
            dead_letters: status.dead_letters,
            dead: status.destinations.iter().map(|d| d.dead).sum(),
        };
        if work.kept == Some(now) {
            return Ok(());
        }
        let listing = self.store.listing()?;
        let share = self.config.limits().kept_bytes;
        let whole = kept::follow(&mut work.connection, &listing, &self.boots, share)?;
        work.kept = whole.then_some(now);
        work.log.wrote();
        // Looking for what is gone goes through all that is there.
        let before = work.gone;
        if before.is_none_or(|before| before.left != now.left) {
            kept::forget_messages(&mut work.connection, &listing)?;
        }
        let dead = |kept: Kept| (kept.dead_letters, kept.dead);
        if before.is_none_or(|before| dead(before) != dead(now)) {
            kept::forget_dead_letters(&mut work.connection, &listing)?;
        }
        work.gone = Some(now);
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
            return Err(Error::NoRoom(what));
        }
        Ok(())
    }

    fn pause(&self, reason: Arc<str>) {
        let state = State::Paused(reason.to_string());
        self.said.send_modify(|said| said.state = state);
    }

    fn say(&self, work: &Work, begun: bool) -> Result<(), Error> {
        let [series, series_refused, evicted, kept_evicted]: [i64; 4] = work
            .connection
            .prepare_cached("SELECT series, refused, evicted, kept_evicted FROM state")?
            .query_row([], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
            })?;
        let missed: i64 = work
            .connection
            .prepare_cached("SELECT coalesce(sum(last - first + 1), 0) FROM missing")?
            .query_row([], |row| row.get(0))?;
        let (_, bytes) = schema::bytes(&work.connection, &self.dir)?;
        let state = match begun {
            _ if work.full => State::Paused("read.db is at its size; see [read] size_max".into()),
            _ if work.log.is_cramped() => State::Paused("its log waits for a question".into()),
            true => State::Following,
            false => State::Rebuilding,
        };
        let findings = self.said.borrow().findings.clone();
        self.said.send_replace(Said {
            state,
            position: work.position,
            bytes,
            series: series.cast_unsigned(),
            series_refused: series_refused.cast_unsigned(),
            evicted: evicted.cast_unsigned(),
            kept_evicted: kept_evicted.cast_unsigned(),
            missed: missed.cast_unsigned(),
            rebuilt: self.rebuilt,
            unattributed: ledger::unattributed(&work.connection)?,
            findings,
        });
        Ok(())
    }
}
