//! The one thread that writes `broker.db`.
//!
//! It waits for one job, takes what else is there up to [`BATCH`], applies all of it
//! in one transaction, commits, and then answers. No timer: batches form by themselves
//! while the disk is busy. What nobody waits for rides along, in slices ([`Writer::do_chores`]).
//!
//! What fails leaves nothing behind, in the file or in memory. When the disk is full,
//! what grows is refused for a moment at a time, and what makes room goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{CachedStatement, Connection, ErrorCode};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    Error, Leave, Refused, SessionId, Shared, Turn,
    bring::{Bringing, Cursor, UnderWay},
    job::{Answer, Job, Work},
    quota::{DROPS_MAX, Payer},
    schema,
    stage::State,
};

/// Jobs in one commit.
const BATCH: usize = 1024;
/// How long the writer sleeps at most.
const TICK: Duration = Duration::from_secs(1);
/// Between looking for retained messages that have expired.
const SWEEP: Duration = Duration::from_mins(1);
/// How long a full disk is believed to stay full.
const HOLD: Duration = Duration::from_millis(200);
/// How long a session waits for what makes room, before it hears that there is none.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 2 });
/// Places emptied in one commit.
const EMPTIED: usize = if cfg!(test) { 2 } else { 256 };
/// Commits that may fail in a row, and files that may be replaced.
pub(super) const FAILURES_MAX: u32 = 3;

pub(super) type Reply = oneshot::Sender<Result<Answer, Refused>>;

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    jobs: mpsc::Receiver<Job>,
    failing: watch::Sender<bool>,
    /// Until when the disk is believed to be full.
    hold: Option<Instant>,
    /// The disk was full when something was to grow last.
    pub(super) full: bool,
    /// When somebody tried last whether it still is.
    pub(super) tried: Option<Instant>,
    /// When it was said last that retained messages have no more room.
    pub(super) said_full: Option<Instant>,
    swept: Instant,
    /// What connected sessions said that found no room, to be tried again.
    parked: Vec<Job>,
    pub(super) bringing: UnderWay,
    /// Where the one whose turn it is goes on after this commit, if it does.
    pub(super) brought: Option<Option<Cursor>>,
    pub(super) payer: Payer,
    /// Places that messages may still cost others; more with each message and commit.
    pub(super) drops_left: usize,
    /// What sessions that are over had is being emptied.
    pub(super) emptying: bool,
    /// The highest session there ever was.
    pub(super) last_session: i64,
    pub(super) failures: u32,
    pub(super) replaced: u32,
}

/// The statement, prepared once.
pub(super) fn cached<'c>(
    connection: &'c Connection,
    sql: &str,
) -> rusqlite::Result<CachedStatement<'c>> {
    connection.prepare_cached(sql)
}

impl Writer {
    pub(super) fn open(
        shared: Arc<Shared>,
        jobs: mpsc::Receiver<Job>,
        failing: watch::Sender<bool>,
    ) -> Result<Self, Error> {
        let dir = shared.config.dir.clone();
        let bytes_max = shared.config.database_bytes_max();
        let opened = schema::open(dir.as_deref(), bytes_max, &shared.config.seal)?;
        let mut writer = Self {
            connection: opened.connection,
            shared,
            state: State::default(),
            jobs,
            failing,
            hold: None,
            full: false,
            tried: None,
            said_full: None,
            swept: Instant::now(),
            parked: Vec::new(),
            bringing: UnderWay::default(),
            brought: None,
            payer: None,
            drops_left: 0,
            emptying: false,
            last_session: 0,
            failures: 0,
            replaced: 0,
        };
        if let Some(path) = opened.set_aside {
            writer.report_damage(&path);
        }
        match writer.load() {
            Err(error) if schema::means_damage(&error) => {
                writer.replace_file()?;
            }
            loaded => loaded?,
        }
        Ok(writer)
    }

    pub(super) fn sql(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        cached(&self.connection, sql)
    }

    /// Reads everything that is kept in memory too, and notes in one commit what
    /// ended when the process did: there may be thousands of sessions. On a full disk
    /// memory has it, and it is written later.
    fn load(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let read = self.read_all().and_then(|damaged| {
            let written = self.write_what_ended(&damaged);
            match written.and_then(|()| self.connection.execute_batch("COMMIT")) {
                Err(error) if self.means_full(&error) => Ok(false),
                written => written.map(|()| true),
            }
        });
        if !matches!(read, Ok(true)) && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        if !read? {
            self.found_full();
            self.state.not_saved();
        }
        self.state.committed(&self.shared);
        Ok(())
    }

    /// The topics of retained messages that are damaged.
    fn read_all(&mut self) -> rusqlite::Result<Vec<Arc<str>>> {
        self.load_sessions()?;
        self.load_exchanges()?;
        self.load_subscriptions()?;
        self.begin_survey()?;
        let damaged = self.load_retained()?;
        self.load_debts()?;
        Ok(damaged)
    }

    fn write_what_ended(&mut self, damaged: &[Arc<str>]) -> rusqlite::Result<()> {
        for topic in damaged {
            self.delete_retained(topic)?;
        }
        self.wills_are_due()?;
        self.write_rows()
    }

    pub(super) fn run(mut self) {
        let failed = self.work().err();
        if failed.is_none() {
            self.close_debts();
        }
        if let Some(error) = failed {
            tracing::error!(%error, "the broker can keep nothing any more");
            self.failing.send_replace(true);
        }
        if let Err(error) = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        {
            // The log stays, and the next start reads it.
            tracing::debug!(%error, "could not empty the log of broker.db");
        }
        let Self {
            connection,
            mut jobs,
            ..
        } = self;
        // Whoever waits for the end may use the file then.
        drop(connection);
        // Whoever waits for an answer hears that nothing is known.
        jobs.close();
        while jobs.try_recv().is_ok() {}
    }

    fn work(&mut self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        loop {
            let mut batch = Vec::new();
            let open = self.receive(&runtime, &mut batch);
            self.commit(batch)?;
            self.pay_debts()?;
            if !open {
                return Ok(());
            }
        }
    }

    /// Waits for work, or for something to expire. False when no more will come.
    fn receive(&mut self, runtime: &Runtime, batch: &mut Vec<Job>) -> bool {
        let wait = self.wait();
        if !self.is_held() {
            // They have waited longest.
            batch.append(&mut self.parked);
        }
        let wait = if batch.is_empty() {
            wait
        } else {
            Duration::ZERO
        };
        let mut next = match self.jobs.try_recv() {
            Ok(job) => Some(job),
            Err(mpsc::error::TryRecvError::Disconnected) => return false,
            Err(mpsc::error::TryRecvError::Empty) if wait.is_zero() => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                match runtime.block_on(async { timeout(wait, self.jobs.recv()).await }) {
                    Ok(None) => return false,
                    Ok(job) => job,
                    Err(_) => None,
                }
            }
        };
        while let Some(job) = next {
            let ends = matches!(job.work, Work::Close);
            batch.push(job);
            if ends {
                return false;
            }
            if batch.len() >= BATCH {
                break;
            }
            next = self.jobs.try_recv().ok();
        }
        true
    }

    /// The disk is believed to be full.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some_and(|until| Instant::now() < until)
    }

    /// How long there is nothing to do by itself.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        match self.hold {
            // What could not be written is not tried again and again.
            Some(until) if until > now => until - now,
            _ if self.has_chores() || self.debts_are_due() || !self.parked.is_empty() => {
                Duration::ZERO
            }
            _ => self.next_expiry(TICK),
        }
    }

    /// Applies and answers a batch, however often that takes.
    pub(super) fn commit(&mut self, mut batch: Vec<Job>) -> Result<(), Error> {
        if self.full && batch.iter().any(|job| job.work.tries()) {
            self.tried = Some(Instant::now());
        }
        if self.is_held() {
            batch = self.refuse(batch);
        }
        loop {
            let has_chores = self.has_chores();
            if batch.is_empty() && !has_chores {
                return Ok(());
            }
            match self.attempt(&batch) {
                Ok(answers) => {
                    self.failures = 0;
                    let mut done = batch.iter().zip(&answers);
                    self.full &= !done.any(|(job, answer)| job.work.has_grown(answer));
                    self.state.committed(&self.shared);
                    self.brought();
                    for (job, answer) in batch.drain(..).zip(answers) {
                        if let Ok(Answer::Later(bringing)) = answer {
                            // What is changed is in force, whatever is still to be brought.
                            let (begun, bringing) = bringing.begun();
                            drop(job.reply.send(Ok(begun)));
                            self.bringing.push(bringing);
                        } else {
                            // Whoever no longer waits does not need to know.
                            drop(job.reply.send(answer));
                        }
                    }
                    return Ok(());
                }
                Err(error) if self.means_full(&error) => {
                    self.state.roll_back(&self.shared);
                    self.found_full();
                    self.bring_later();
                    let before = batch.len();
                    batch = self.refuse(batch);
                    if batch.len() == before && !has_chores {
                        // Not even what makes room can be written.
                        return self.give_up_on(batch);
                    }
                }
                Err(error) => return self.went_wrong(error, batch),
            }
        }
    }

    fn attempt(&mut self, batch: &[Job]) -> rusqlite::Result<Vec<Result<Answer, Refused>>> {
        self.brought = None;
        self.drops_left = DROPS_MAX;
        self.transact(|writer| writer.fill(batch))
    }

    /// Does something in a commit of its own.
    pub(super) fn transact<T>(
        &mut self,
        fill: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.state.begin();
        self.sql("BEGIN IMMEDIATE")?.execute([])?;
        let result = fill(self).and_then(|filled| {
            self.write_rows()?;
            self.sql("COMMIT")?.execute([])?;
            Ok(filled)
        });
        // A full disk may have rolled back already.
        if result.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        result
    }

    fn fill(&mut self, batch: &[Job]) -> rusqlite::Result<Vec<Result<Answer, Refused>>> {
        if self.has_chores() {
            self.do_chores()?;
        }
        batch.iter().map(|job| self.apply(&job.work)).collect()
    }

    /// Whether there is something to do that nobody asks for, or asks for any more.
    pub(super) fn has_chores(&self) -> bool {
        !self.is_held()
            && (!self.state.leftovers.is_empty()
                || !self.state.unsaved.is_empty()
                || !self.state.survey.is_over()
                || !self.bringing.is_empty()
                || self.may_sweep()
                || self.next_expiry(TICK).is_zero())
    }

    /// Does some of it.
    fn do_chores(&mut self) -> rusqlite::Result<()> {
        self.expire_sessions()?;
        if self.may_sweep() && self.expire_retained()? {
            self.swept = Instant::now();
        }
        self.save_unsaved()?;
        self.empty_leftovers(EMPTIED)?;
        self.bring()?;
        if !self.state.survey.is_over() {
            self.survey()?;
        }
        Ok(())
    }

    fn may_sweep(&self) -> bool {
        self.swept.elapsed() >= SWEEP
    }

    fn apply(&mut self, work: &Work) -> rusqlite::Result<Result<Answer, Refused>> {
        Ok(Ok(match work {
            Work::Enter(enter) => return self.enter(enter),
            Work::Leave(leave) => return self.leave(leave),
            Work::Begin(id, exchanges) => return self.begin_exchanges(*id, exchanges),
            Work::Turn(id, turn) => return self.turn(*id, turn),
            Work::Publish(ops) => self.publish(ops, true)?,
            Work::Tell(ops) => self.publish(ops, false)?,
            Work::Will(op, _) => self.publish(std::slice::from_ref(op), false)?,
            Work::Errand(errand) => self.errand(errand)?,
            Work::Errands => self.errands()?,
            Work::ErrandsAreOver(tokens) => self.errands_are_over(tokens)?,
            Work::Room(wishes) => self.room(wishes),
            Work::TakeBack(homeless) => self.take_back(homeless)?,
            Work::DueWill(id) => self.due_will(*id)?,
            Work::IsWillDue(will) => self.is_will_due(*will)?,
            Work::WillsAreOver(wills) => {
                for will in wills {
                    self.will_was_published(*will)?;
                }
                Answer::Done
            }
            Work::Remove(client) => self.remove_client(client)?,
            Work::ClearRetained(topic) => self.clear_retained(topic)?,
            Work::Sessions => self.list_sessions(),
            Work::Subscriptions => self.list_subscriptions()?,
            Work::Wills => self.list_wills()?,
            Work::Close => Answer::Done,
        }))
    }

    fn turn(&mut self, id: SessionId, turn: &Turn) -> rusqlite::Result<Result<Answer, Refused>> {
        let Some(session) = self.state.sessions.get(&id) else {
            return Ok(Err(Refused::Gone));
        };
        let user = session.row.user.clone();
        if !self.has_room_for_filters(id, &turn.subscribe) {
            return Ok(Err(Refused::Full));
        }
        for position in &turn.done {
            self.remove_place(id, *position)?;
        }
        for position in &turn.received {
            self.place_received(id, *position)?;
        }
        for (packet, token) in &turn.released {
            self.end_exchange(id, *packet, token)?;
        }
        for filter in &turn.unsubscribe {
            self.unsubscribe(id, filter)?;
        }
        let mut bringing = Bringing::new(id, user, self.shared.retained.number());
        for add in &turn.subscribe {
            let is_new = self.subscribe(id, add)?;
            bringing.add(add, is_new);
        }
        self.lower_places(id, &turn.lower)?;
        if turn.heard > 0
            && let Some(session) = self.state.change(id)
        {
            session.row.dropped = session.row.dropped.saturating_sub(turn.heard);
        }
        if turn.page {
            self.page(id)?;
        }
        self.begin_bringing(bringing).map(Ok)
    }

    /// Answers the jobs that need room, where there is none; the others.
    fn refuse(&mut self, batch: Vec<Job>) -> Vec<Job> {
        let (refused, rest) = batch.into_iter().partition(|job| job.work.grows());
        let refused: Vec<Job> = refused;
        for job in refused {
            let answer = match &job.work {
                Work::Will(op, will) => self.owe_of(op, *will),
                _ => Err(Refused::Full),
            };
            // Whoever no longer waits does not need to know.
            drop(job.reply.send(answer));
        }
        rest
    }

    /// Answers what could not be written although it makes room; what sessions say while
    /// they are connected is tried again first. What only reads had no part in that.
    fn give_up_on(&mut self, batch: Vec<Job>) -> Result<(), Error> {
        let now = Instant::now();
        let mut jobs = batch.into_iter();
        while let Some(mut job) = jobs.next() {
            if job.work.only_reads() {
                match self.apply(&job.work) {
                    // Whoever no longer waits does not need to know.
                    Ok(answer) => drop(job.reply.send(answer)),
                    Err(error) => {
                        let rest = std::iter::once(job).chain(jobs).collect();
                        return self.went_wrong(error, rest);
                    }
                }
                continue;
            }
            if let Work::Leave(leave) = &job.work {
                self.left_unsaved(leave);
            }
            let since = *job.full_since.get_or_insert(now);
            if matches!(job.work, Work::Turn(..)) && now.duration_since(since) < PATIENCE {
                self.parked.push(job);
                continue;
            }
            // Whoever no longer waits does not need to know.
            drop(job.reply.send(Err(Refused::Full)));
        }
        Ok(())
    }

    /// A connection has ended, whatever the disk says; that is written later.
    pub(super) fn left_unsaved(&mut self, leave: &Leave) {
        self.left(leave);
        self.state.unsaved.insert(leave.session, leave.forget_will);
        self.state.committed(&self.shared);
    }

    fn found_full(&mut self) {
        if !self.full {
            self.full = true;
            self.tried = Some(Instant::now());
            self.shared.counters.keep_full.add(1);
            tracing::warn!("broker.db has no more room: what grows is refused");
        }
        if !self.is_held() {
            self.hold = Some(Instant::now() + HOLD);
        }
    }

    /// Whether the disk, or the database, has no more room.
    pub(super) fn means_full(&self, error: &rusqlite::Error) -> bool {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => true,
            // Some file systems say so when the log is synced.
            Some(ErrorCode::SystemIoFailure) => !failed_to_sync(error),
            _ => false,
        }
    }
}

/// After a failed sync nobody knows what is on disk.
fn failed_to_sync(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if [SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC].contains(&failure.extended_code))
}
