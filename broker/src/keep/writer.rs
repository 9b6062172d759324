//! The one thread that writes `broker.db`.
//!
//! It waits for one job, takes what else is there up to [`BATCH`], applies all of it
//! in one transaction, commits, and then answers. No timer: batches form by themselves
//! while the disk is busy. Sessions and retained messages that have expired ride along.
//!
//! What fails leaves nothing behind, in the file or in memory. When the disk is full,
//! what grows is refused for a moment at a time, and what makes room goes on.

use std::{
    path::Path,
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
    Error, Refused, SessionId, Shared, Turn,
    job::{Answer, Job, Work},
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
/// Commits that may fail in a row, and files that may be replaced.
const FAILURES_MAX: u32 = 3;

type Reply = oneshot::Sender<Result<Answer, Refused>>;

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
    full: bool,
    swept: Instant,
    failures: u32,
    replaced: u32,
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
        let opened = schema::open(dir.as_deref(), bytes_max)?;
        let mut writer = Self {
            connection: opened.connection,
            shared,
            state: State::default(),
            jobs,
            failing,
            hold: None,
            full: false,
            swept: Instant::now(),
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
    /// ended when the process did: there may be thousands of sessions.
    fn load(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let read = self
            .read_all()
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        if read.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        read?;
        self.state.committed(&self.shared);
        Ok(())
    }

    fn read_all(&mut self) -> rusqlite::Result<()> {
        self.load_sessions()?;
        self.load_subscriptions()?;
        self.load_retained()?;
        self.wills_are_due()?;
        self.write_rows()
    }

    pub(super) fn run(mut self) {
        let failed = self.work().err();
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
            if !open {
                return Ok(());
            }
        }
    }

    /// Waits for work, or for something to expire. False when no more will come.
    fn receive(&mut self, runtime: &Runtime, batch: &mut Vec<Job>) -> bool {
        let wait = self.next_expiry(TICK);
        let mut next = match self.jobs.try_recv() {
            Ok(job) => Some(job),
            Err(mpsc::error::TryRecvError::Disconnected) => return false,
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

    /// Applies and answers a batch, however often that takes.
    fn commit(&mut self, mut batch: Vec<Job>) -> Result<(), Error> {
        if self.hold.is_some_and(|until| Instant::now() < until) {
            batch = refuse(batch, grows);
        }
        loop {
            if batch.is_empty() && self.next_expiry(TICK) > Duration::ZERO && !self.may_sweep() {
                return Ok(());
            }
            match self.attempt(&batch) {
                Ok(answers) => {
                    self.failures = 0;
                    self.full &= !batch.iter().any(|job| has_grown(&job.work));
                    self.state.committed(&self.shared);
                    for (job, answer) in batch.drain(..).zip(answers) {
                        // Whoever no longer waits does not need to know.
                        drop(job.reply.send(answer));
                    }
                    return Ok(());
                }
                Err(error) if self.means_full(&error) => {
                    self.state.roll_back(&self.shared);
                    if !self.full {
                        self.full = true;
                        self.shared.counters.keep_full.add(1);
                        tracing::warn!("broker.db has no more room: what grows is refused");
                    }
                    self.hold = Some(Instant::now() + HOLD);
                    let before = batch.len();
                    batch = refuse(batch, grows);
                    if batch.len() == before {
                        // Not even what makes room can be written.
                        self.give_up_on(batch);
                        return Ok(());
                    }
                }
                Err(error) if schema::means_damage(&error) => {
                    self.state.roll_back(&self.shared);
                    tracing::error!(%error, "broker.db is damaged");
                    self.replace_file()?;
                    // The sessions that they are about are gone.
                    drop(refuse(batch, |_| true));
                    return Ok(());
                }
                Err(error) => {
                    self.state.roll_back(&self.shared);
                    tracing::error!(%error, "failed to commit to broker.db");
                    self.failures += 1;
                    if self.failures >= FAILURES_MAX {
                        return Err(error.into());
                    }
                    // Dropped: whoever waits hears that nothing is known.
                    return Ok(());
                }
            }
        }
    }

    fn attempt(&mut self, batch: &[Job]) -> rusqlite::Result<Vec<Result<Answer, Refused>>> {
        self.state.begin();
        self.sql("BEGIN IMMEDIATE")?.execute([])?;
        let result = self.fill(batch).and_then(|answers| {
            self.write_rows()?;
            self.sql("COMMIT")?.execute([])?;
            Ok(answers)
        });
        // A full disk may have rolled back already.
        if result.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        result
    }

    fn fill(&mut self, batch: &[Job]) -> rusqlite::Result<Vec<Result<Answer, Refused>>> {
        let expired = self.expire_sessions()?;
        self.shared.counters.sessions_expired.add(expired);
        if self.may_sweep() {
            self.swept = Instant::now();
            let expired = self.expire_retained()?;
            self.shared.counters.dropped_expired.add(expired);
        }
        batch.iter().map(|job| self.apply(&job.work)).collect()
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
            Work::Room(wishes) => self.room(wishes),
            Work::TakeBack(homeless) => self.take_back(homeless)?,
            Work::DueWill(id) => self.due_will(*id)?,
            Work::WillIsOver(id, due_ms) => {
                self.will_is_over(*id, *due_ms)?;
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
        if !self.state.sessions.contains_key(&id) {
            return Ok(Err(Refused::Gone));
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
        for add in &turn.subscribe {
            self.subscribe(id, add)?;
        }
        if turn.heard > 0
            && let Some(session) = self.state.change(id)
        {
            session.row.dropped = session.row.dropped.saturating_sub(turn.heard);
        }
        if turn.page {
            self.page(id)?;
        }
        Ok(Ok(Answer::Decided(self.shared.decided())))
    }

    /// Answers what could not be written although it makes room.
    fn give_up_on(&mut self, batch: Vec<Job>) {
        for job in batch {
            if let Work::Leave(leave) = &job.work {
                self.left(leave);
                self.state.committed(&self.shared);
            }
            // Whoever no longer waits does not need to know.
            drop(job.reply.send(Err(Refused::Full)));
        }
    }

    /// Whether the disk, or the database, has no more room.
    fn means_full(&self, error: &rusqlite::Error) -> bool {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => true,
            // Some file systems say so when the log is synced.
            Some(ErrorCode::SystemIoFailure) => !failed_to_sync(error),
            _ => false,
        }
    }

    /// Sets the damaged file aside and begins another. What is retained is in
    /// memory and goes into it; sessions are gone, and those connected are ended.
    fn replace_file(&mut self) -> Result<(), Error> {
        self.replaced += 1;
        let Some(dir) = self
            .shared
            .config
            .dir
            .clone()
            .filter(|_| self.replaced <= FAILURES_MAX)
        else {
            return Err(Error::Sqlite(schema::damaged(
                "damaged again and again".into(),
            )));
        };
        let memory = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.connection, memory));
        let opened = schema::replace(&dir, self.shared.config.database_bytes_max())?;
        self.connection = opened.connection;
        if let Some(path) = opened.set_aside {
            self.report_damage(&path);
        }
        let retained = self.shared.retained.all();
        self.state.end_all();
        self.shared.clear();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        self.state.begin();
        for message in retained {
            self.retain(&message)?;
        }
        self.connection.execute_batch("COMMIT")?;
        self.state.committed(&self.shared);
        Ok(())
    }

    fn report_damage(&self, path: &Path) {
        self.shared.counters.keep_set_aside.add(1);
        tracing::error!(
            file = %path.display(),
            "a damaged broker.db was set aside; persistent sessions begin anew"
        );
    }
}

/// After a failed sync nobody knows what is on disk.
fn failed_to_sync(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if [SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC].contains(&failure.extended_code))
}

/// Whether a job needs room.
fn grows(work: &Work) -> bool {
    match work {
        Work::Enter(_)
        | Work::Publish(_)
        | Work::Tell(_)
        | Work::Room(_)
        | Work::Begin(..)
        | Work::TakeBack(_) => true,
        Work::Turn(_, turn) => !turn.subscribe.is_empty(),
        _ => false,
    }
}

/// Whether a job that was done shows that there is room.
fn has_grown(work: &Work) -> bool {
    grows(work) && !matches!(work, Work::Room(_))
}

/// Answers the jobs that are to be refused; the others.
fn refuse(batch: Vec<Job>, is_refused: impl Fn(&Work) -> bool) -> Vec<Job> {
    let mut rest = Vec::new();
    for job in batch {
        if is_refused(&job.work) {
            let reply: Reply = job.reply;
            // Whoever no longer waits does not need to know.
            drop(reply.send(Err(Refused::Full)));
        } else {
            rest.push(job);
        }
    }
    rest
}
