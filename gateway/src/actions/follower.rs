//! The thread that acts: reads what rules took behind the journal's cursor, a page at a
//! time, and does what is asked for in between.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use penstock_broker::Local;
use rusqlite::Connection;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, failed,
    handle::{Handle, Order, Told},
    made::Now,
    outbox, schema, throttle, windows,
    work::{self, Outside, Work, agree},
};
use crate::{
    aside,
    boots::Boots,
    clock::Clock,
    fleet::Fleet,
    gateway_id::GatewayId,
    ingest::{Going, Ingest},
    record::{DestinationId, Position, Record},
    rulebook,
    rules::{ACTIONS, ActingSet, Scratch},
    store::{self, Appended, Dead, Entry, Progress, Reader},
};

/// Records of one transaction, and their bytes.
const PAGE_RECORDS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
/// How long to wait for something new before looking around; also how often a cursor
/// that only passes what is for others is written down.
const TICK: Duration = Duration::from_millis(250);
/// How long it waits after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is written down for how long devices were listened to: a crash takes
/// back no more.
const LISTENED_EVERY: Duration = Duration::from_secs(2);
/// A turn of the loop that took longer than this stood still, and did not listen.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Events that rules made and that wait for room in the journal, before rules wait too.
const OUTBOX_MAX: i64 = 10_000;
/// Orders that wait.
const ORDERS_MAX: usize = 16;

/// See the module above.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    store: store::Handle,
    ingest: Arc<Ingest>,
    local: Local,
    fleet: Fleet,
    gateway: GatewayId,
    boots: Arc<Boots>,
    clock: Arc<dyn Clock>,
    told: watch::Sender<Told>,
    orders: mpsc::Receiver<Order>,
    handle: Handle,
}

/// With whom it works.
#[derive(Debug)]
pub struct Parts {
    /// The journal.
    pub store: store::Handle,
    /// Who has the rules.
    pub ingest: Arc<Ingest>,
    /// The broker's subscribers.
    pub local: Local,
    /// Devices, and commands to them.
    pub fleet: Fleet,
    /// Who this gateway is.
    pub gateway: GatewayId,
    /// When the machine was started.
    pub boots: Arc<Boots>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What it has in hand.
struct Open {
    connection: Connection,
    reader: Reader,
    id: DestinationId,
    /// Everything up to here was read and acted on.
    cursor: Position,
    /// For how long devices were listened to, ever.
    listened: Duration,
    /// When they were written down.
    listened_at: Instant,
    /// What of that the journal knows.
    noted: Position,
    noted_at: Instant,
    scratch: Scratch,
    /// What rules made waits for room in the journal, which was last asked then.
    waits: bool,
    tried_at: Instant,
    /// The rules whose windows are kept.
    rules: Option<Arc<ActingSet>>,
    /// Commands may wait for a clock.
    untimed: bool,
    /// Whether the schedules of those are open.
    opened: windows::Opened,
}

impl Follower {
    /// Prepares; does nothing yet. `dir` is the data directory.
    pub fn new(dir: &Path, parts: Parts) -> Self {
        let (told, seen) = watch::channel(Told {
            set_aside: set_aside(dir),
            ..Told::default()
        });
        let (order, orders) = mpsc::channel(ORDERS_MAX);
        let handle = Handle {
            dir: dir.into(),
            store: parts.store.clone(),
            ingest: parts.ingest.clone(),
            told: seen,
            orders: order,
        };
        Self {
            dir: dir.to_path_buf(),
            store: parts.store,
            ingest: parts.ingest,
            local: parts.local,
            fleet: parts.fleet,
            gateway: parts.gateway,
            boots: parts.boots,
            clock: parts.clock,
            told,
            orders,
            handle,
        }
    }

    /// The way to ask.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Acts until `stop`, on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread, or it ended unexpectedly.
    pub async fn run(self, stop: CancellationToken) -> crate::tasks::Result {
        let (ended, end) = oneshot::channel();
        let show = Outside {
            local: self.local.clone(),
            fleet: self.fleet.clone(),
            runtime: tokio::runtime::Handle::current(),
            stop: stop.clone(),
        };
        std::thread::Builder::new()
            .name("rules".into())
            .spawn(move || {
                let worked = self.work(&show, &stop);
                if ended.send(worked).is_err() {
                    tracing::debug!("nobody waits for the end of the rules' actions");
                }
            })?;
        end.await?
    }

    fn work(mut self, show: &Outside, stop: &CancellationToken) -> crate::tasks::Result {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        loop {
            let error = match self.follow(&runtime, show, stop) {
                Ok(()) | Err(Error::Ending | Error::Stopped(_)) => return Ok(()),
                Err(error) => error,
            };
            // Where no rule acts nothing waits.
            let waits = !matches!(error, Error::Unknown) || !self.ingest.rules().acts().is_empty();
            let known = self.told.borrow().error.is_some();
            if waits && !known {
                tracing::error!(%error, "rules that do more than send wait");
            }
            let reason = waits.then(|| error.to_string().into());
            self.told.send_modify(|told| told.error = reason);
            // Within the runtime: a sleep asks for its clock when it is made.
            let rested = runtime
                .block_on(async { stop.run_until_cancelled(tokio::time::sleep(RETRY)).await });
            if rested.is_none() {
                return Ok(());
            }
        }
    }

    fn open(&self) -> Result<Open, Error> {
        let connection = schema::open(&self.dir, self.store.seal())?;
        agree(&connection, *self.store.committed().borrow())?;
        let status = self.store.status();
        let mut known = status.destinations.iter();
        let ours = known.find(|known| &*known.name == ACTIONS);
        let ours = ours.ok_or(Error::Unknown)?;
        Ok(Open {
            listened: Duration::from_millis(schema::listened(&connection)?.cast_unsigned()),
            waits: false,
            tried_at: Instant::now(),
            listened_at: Instant::now(),
            connection,
            reader: self.store.reader()?,
            id: ours.id,
            cursor: ours.cursor,
            noted: ours.cursor,
            noted_at: Instant::now(),
            scratch: Scratch::default(),
            rules: None,
            untimed: true,
            opened: windows::Opened::default(),
        })
    }

    /// Acts until `stop` or an error.
    fn follow(
        &mut self,
        runtime: &Runtime,
        show: &Outside,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut open = self.open()?;
        let aside = set_aside(&self.dir);
        self.told.send_modify(|told| told.set_aside = aside);
        let mut committed = self.store.committed();
        self.hand_over(&mut open, runtime)?;
        self.say(&open)?;
        let (mut turned, mut is_current) = (Instant::now(), false);
        loop {
            let end = *committed.borrow_and_update();
            // Only who was up to date listened since, and no longer than turns take: what
            // stood still heard nothing.
            let took = turned.elapsed().min(TURN_MAX);
            turned = Instant::now();
            if is_current {
                open.listened += took;
            }
            if open.waits && open.tried_at.elapsed() >= TICK {
                self.hand_over(&mut open, runtime)?;
                self.say(&open)?;
            }
            // Reading on frees the room that what was made waits for, up to a bound.
            let work = self.with(&open, show);
            self.place_untimed(&mut open, &work)?;
            while open.cursor < end && !stop.is_cancelled() && !self.is_held_up(&open)? {
                self.page(&mut open, runtime, show)?;
            }
            self.tried_again(&mut open, runtime, show)?;
            is_current = open.cursor >= end;
            // After a long turn there is more to read first.
            if is_current && turned.elapsed() < TURN_MAX && !self.is_held_up(&open)? {
                self.tick(&mut open, runtime, show)?;
            }
            if open.noted < open.cursor && open.noted_at.elapsed() >= TICK {
                self.note(&mut open, runtime, 0, Vec::new(), Vec::new())?;
            }
            if stop.is_cancelled() {
                if open.noted < open.cursor {
                    self.note(&mut open, runtime, 0, Vec::new(), Vec::new())?;
                }
                return Ok(());
            }
            let order = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    order = self.orders.recv() => order,
                    // The end of the journal is the end of everything.
                    _ = committed.changed() => None,
                    () = tokio::time::sleep(TICK) => None,
                }
            });
            if let Some(order) = order {
                self.obey(&mut open, show, order)?;
                self.hand_over(&mut open, runtime)?;
            }
        }
    }

    /// Acts on a page, and says so to the journal.
    fn page(&self, open: &mut Open, runtime: &Runtime, show: &Outside) -> Result<(), Error> {
        let page = open
            .reader
            .read(open.id, open.cursor, PAGE_RECORDS, PAGE_BYTES)?;
        let records = page.records.len() as u64;
        let dead = self.act(open, show, page.records, false)?;
        open.cursor = open.cursor.max(page.scanned_to);
        if records > 0 {
            let delivered = records - dead.len() as u64;
            self.note(open, runtime, delivered, Vec::new(), dead)?;
            if !open.waits {
                self.hand_over(open, runtime)?;
            }
            self.say(open)?;
        }
        Ok(())
    }

    /// Places the commands that waited for a clock, when there is one: before what is asked
    /// for later.
    fn place_untimed(&self, open: &mut Open, work: &Work<'_, Outside>) -> Result<(), Error> {
        let is_unset = work.now.at.is_unset();
        if !open.untimed || is_unset {
            open.untimed |= is_unset;
            return Ok(());
        }
        let rules = self.ingest.rules();
        let repaired = |record| self.boots.repaired(record);
        while work.place_untimed(&mut open.connection, rules.acts(), repaired)? {}
        open.untimed = false;
        self.say(open)
    }

    /// Whether so much waits for room in the journal that no more is made.
    fn is_held_up(&self, open: &Open) -> Result<bool, Error> {
        Ok(open.waits && outbox::count(&open.connection)? >= OUTBOX_MAX)
    }

    /// Gives the journal what rules made; what finds no room there waits. What they act on
    /// next may be of it.
    fn hand_over(&self, open: &mut Open, runtime: &Runtime) -> Result<(), Error> {
        loop {
            let (last, waiting) = outbox::first(&open.connection)?;
            open.waits = !waiting.is_empty();
            open.tried_at = Instant::now();
            if waiting.is_empty() {
                return Ok(());
            }
            let made = waiting.iter();
            let made = made.map(|one| self.ingest.made(&one.event, one.rule.as_deref()));
            // Destinations that come meanwhile wait for those that know nothing of them.
            let (entries, going): (Vec<Entry>, Vec<Going>) = made
                .map(|made| (Entry::Event(made.event), made.going))
                .unzip();
            let appended = runtime.block_on(async { self.store.append(entries).await?.await });
            drop(going);
            let appended = appended?;
            if appended.contains(&Appended::Full) {
                return Ok(());
            }
            outbox::forget(&open.connection, last)?;
        }
    }

    /// Looks at windows whose time has come. Everything that came is acted on by now.
    fn tick(&self, open: &mut Open, runtime: &Runtime, show: &Outside) -> Result<(), Error> {
        let rules = self.ingest.rules();
        let known = open.rules.as_ref();
        if !known.is_some_and(|known| Arc::ptr_eq(known, rules.acts())) {
            let with_window = rules.acts().windowed();
            windows::forget_others(&mut open.connection, with_window)?;
            let throttled = rules.acts().rules().iter();
            let throttled = throttled.filter(|rule| rule.actions.throttle.is_some());
            let throttled = throttled.map(|rule| &*rule.name);
            throttle::forget_others(&mut open.connection, throttled)?;
            open.rules = Some(rules.acts().clone());
            open.opened = windows::Opened::default();
        }
        if rules.acts().windowed().next().is_none() {
            return Ok(());
        }
        let work = self.with(open, show);
        self.place_untimed(open, &work)?;
        let (now, listened) = (work.now.at, work.listened);
        open.opened
            .look(&open.connection, rules.acts(), now, listened)?;
        let mut turned = false;
        while work.tick(&mut open.connection, rules.acts())? {
            turned = true;
        }
        if open.listened_at.elapsed() >= LISTENED_EVERY {
            schema::set_listened(&open.connection, work.listened)?;
            open.listened_at = Instant::now();
        }
        if turned {
            self.hand_over(open, runtime)?;
            self.say(open)?;
        }
        Ok(())
    }

    /// Dead letters that somebody has put back.
    fn tried_again(&self, open: &mut Open, runtime: &Runtime, show: &Outside) -> Result<(), Error> {
        let status = self.store.status();
        let mut known = status.destinations.iter();
        let ours = known.find(|known| known.id == open.id);
        if ours.is_none_or(|ours| ours.retrying == 0) {
            return Ok(());
        }
        let retries = open.reader.retries(open.id, PAGE_RECORDS, PAGE_BYTES)?;
        if retries.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> = retries.into_iter().map(|retry| retry.record).collect();
        let positions: Vec<Position> = records.iter().map(|record| record.position).collect();
        let dead = self.act(open, show, records, true)?;
        let is_dead = |at: &Position| dead.iter().any(|dead| dead.record.position == *at);
        let done: Vec<Position> = positions.into_iter().filter(|at| !is_dead(at)).collect();
        self.note(open, runtime, done.len() as u64, done, dead)?;
        self.hand_over(open, runtime)
    }

    /// Acts on records by the rules that are in force now.
    fn act(
        &self,
        open: &mut Open,
        show: &Outside,
        records: Vec<Record>,
        again: bool,
    ) -> Result<Vec<Dead>, Error> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let records: Vec<Record> = records
            .into_iter()
            .map(|record| self.boots.repaired(record))
            .collect();
        // After the page was read: the rules that sent these here, or later ones.
        let rules = self.ingest.rules();
        let work = self.with(open, show);
        self.place_untimed(open, &work)?;
        let Open {
            connection,
            scratch,
            ..
        } = open;
        let done = work.page(connection, rules.acts(), scratch, &records, again)?;
        let dead = done.unread.into_iter().map(|(record, reason)| Dead {
            first: None,
            record,
            attempts: 1,
            reason,
        });
        Ok(dead.collect())
    }

    fn with<'w>(&'w self, open: &Open, show: &'w Outside) -> Work<'w, Outside> {
        Work {
            listened: i64::try_from(open.listened.as_millis()).unwrap_or(i64::MAX),
            gateway: &self.gateway,
            show,
            now: Now::of(&*self.clock),
        }
    }

    /// Has the journal note how far this is, and waits until it is on the disk.
    fn note(
        &self,
        open: &mut Open,
        runtime: &Runtime,
        delivered: u64,
        retried: Vec<Position>,
        dead: Vec<Dead>,
    ) -> Result<(), Error> {
        let progress = Progress {
            spent: None,
            destination: open.id,
            cursor: open.cursor,
            delivered,
            retry: Vec::new(),
            retried,
            dead,
        };
        runtime.block_on(async { self.store.progress(progress).await?.await })?;
        open.noted = open.cursor;
        open.noted_at = Instant::now();
        Ok(())
    }

    fn obey(&self, open: &mut Open, show: &Outside, order: Order) -> Result<(), Error> {
        let heard = match order {
            Order::Retry(id, reply) => {
                let rules = self.ingest.rules();
                let work = self.with(open, show);
                let done = work.retry(&mut open.connection, rules.acts(), id)?;
                reply.send(done).is_ok()
            }
            Order::Alarm(said, reply) => {
                let done = work::said(&mut open.connection, &said, &Now::of(&*self.clock))?;
                reply.send(done).is_ok()
            }
            Order::Discard(id, reply) => {
                let transaction = open.connection.transaction()?;
                let found = failed::remove(&transaction, id)?;
                transaction.commit()?;
                reply.send(found).is_ok()
            }
        };
        if !heard {
            tracing::debug!("who asked is gone");
        }
        self.say(open)
    }

    fn say(&self, open: &Open) -> Result<(), Error> {
        let [
            messages,
            failures,
            failures_evicted,
            lost,
            windows_evicted,
            held_back,
            alarms,
        ]: [i64; 7] = open
            .connection
            .prepare_cached(
                "SELECT messages, failures, failures_evicted, lost, windows_evicted, held_back,
                     (SELECT count(*) FROM alarms WHERE state < 2) FROM state",
            )?
            .query_row([], |row| {
                let mut counts = [0; 7];
                for (at, count) in counts.iter_mut().enumerate() {
                    *count = row.get(at)?;
                }
                Ok(counts)
            })?;
        let throttled = throttle::held_back(&open.connection)?;
        self.told.send_modify(|told| {
            *told = Told {
                position: open.cursor.0,
                held_back: held_back.cast_unsigned(),
                throttled: throttled.into(),
                alarms: alarms.cast_unsigned(),
                messages: messages.cast_unsigned(),
                failures: failures.cast_unsigned(),
                failures_evicted: failures_evicted.cast_unsigned(),
                windows_evicted: windows_evicted.cast_unsigned(),
                lost: lost.cast_unsigned(),
                set_aside: told.set_aside.clone(),
                error: open
                    .waits
                    .then(|| "the journal is full: what rules made waits".into()),
            };
        });
        Ok(())
    }
}

/// Damaged files with rules that were set aside.
fn set_aside(dir: &Path) -> Arc<[String]> {
    let files = [rulebook::FILE, schema::FILE];
    let listed = files.map(|file| aside::list(dir, file));
    let names = listed.into_iter().flat_map(|listed| {
        listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for damaged files that were set aside");
            Vec::new()
        })
    });
    names.collect()
}
