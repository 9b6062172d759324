//! What others know of the read side, and ask of it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{Error, Reader, log::Cramped, patience::Patience};
use crate::{
    pace::{self, Pace},
    record::Position,
    store,
};

/// Questions that are answered at a time; others wait.
pub(super) const QUESTIONS_MAX: usize = 4;
/// The place of a question that had to wait for processors stays empty for so many
/// times as long.
const QUESTIONS_REST: u32 = 4;
/// How long a question may wait for a position, and an order until it is begun.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);

/// What the feed is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
#[schema(as = ReadState)]
pub enum State {
    /// There is none.
    Off,
    /// It follows the journal.
    Following,
    /// It makes projections of what the journal has, from the beginning.
    Rebuilding,
    /// It waits, and why.
    Paused(String),
}

/// The account of the read side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = ReadStatus)]
pub struct Status {
    /// What it is about.
    #[serde(flatten)]
    pub state: State,
    /// Answers reflect every event up to here.
    pub position: u64,
    /// Events of the journal that they do not reflect yet.
    pub lag: u64,
    /// `read.db` and its log.
    pub bytes: u64,
    /// The most that it may take, about.
    pub bytes_max: u64,
    /// Series that are followed.
    pub series: u64,
    /// Values of other series, which were not taken because there are too many.
    pub series_refused: u64,
    /// Events that left for want of room.
    pub evicted: u64,
    /// Messages in quarantine and dead letters that cannot be searched, for want of room.
    pub kept_evicted: u64,
    /// Positions that were never seen here, because they left the journal before.
    pub missed: u64,
    /// How often it was built anew since the start.
    pub rebuilt: u64,
    /// What the journal counted, and the ledger by device cannot tell the device of.
    pub unattributed: u64,
    /// Whether the journal keeps for it what it has not read yet.
    pub held: bool,
}

/// What the feed says of itself.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) state: State,
    pub(super) position: Position,
    pub(super) bytes: u64,
    pub(super) series: u64,
    pub(super) series_refused: u64,
    pub(super) evicted: u64,
    pub(super) kept_evicted: u64,
    pub(super) missed: u64,
    pub(super) rebuilt: u64,
    pub(super) unattributed: u64,
    pub(super) findings: Arc<[String]>,
}

/// Why everything is to be built anew.
#[derive(Debug)]
pub(super) enum Order {
    /// Somebody wants it, and waits for the word that it has begun, or why not.
    Asked(oneshot::Sender<Result<(), Error>>),
    /// An answer came upon damage.
    Damaged,
}

/// Who waits for a position.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: AtomicUsize,
    pub(super) came: Notify,
}

impl Waiting {
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }
}

/// One who does, until it is dropped.
struct Waits<'a>(&'a Waiting);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a Waiting) -> Self {
        waiting.count.fetch_add(1, Relaxed);
        waiting.came.notify_one();
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

/// The way to ask: cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) dir: Arc<Path>,
    pub(super) store: store::Handle,
    pub(super) said: watch::Receiver<Said>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) places: Arc<Semaphore>,
    pub(super) cramped: Cramped,
    pub(super) bytes_max: u64,
    /// How long an answer may take.
    pub(super) answer_time_max: Duration,
}

impl Handle {
    /// The account, a moment old.
    pub fn status(&self) -> Status {
        let said = self.said.borrow().clone();
        let committed = self.store.committed();
        let committed = committed.borrow().0;
        Status {
            lag: match said.state {
                State::Off => 0,
                _ => committed.saturating_sub(said.position.0),
            },
            state: said.state,
            position: said.position.0,
            bytes: said.bytes,
            bytes_max: self.bytes_max,
            series: said.series,
            series_refused: said.series_refused,
            evicted: said.evicted,
            kept_evicted: said.kept_evicted,
            missed: said.missed,
            rebuilt: said.rebuilt,
            unattributed: said.unattributed,
            held: self.store.hold().is_set(),
        }
    }

    /// What the ledger by device differed in from the journal's, for no reason that is
    /// known; nothing where there is no read side.
    pub async fn audit_ledger(&self) -> Vec<String> {
        let mut found = self.said.borrow().findings.to_vec();
        // What cannot be asked now is asked the next time.
        if let Ok(more) = self.ask(|reader| reader.audit_ledger()).await {
            found.extend(more);
        }
        found
    }

    /// Builds everything anew; returns once that has begun. It does not begin after
    /// this was given up.
    ///
    /// # Errors
    /// When there is no read side, when it waits for something, or has no time.
    pub async fn rebuild(&self) -> Result<(), Error> {
        self.is_on()?;
        let (begun, done) = oneshot::channel();
        let begun = async {
            let order = self.orders.send(Order::Asked(begun));
            order.await.map_err(|_| Error::Off)?;
            done.await.unwrap_or(Err(Error::Off))
        };
        let busy = "the read side did not come to it in ten seconds; ask again".to_owned();
        timeout(WAIT_MAX, begun)
            .await
            .unwrap_or(Err(Error::Waits(busy)))
    }

    /// Waits until answers reflect a position, with a bound.
    ///
    /// # Errors
    /// When they still do not; the position that they reflect is said.
    pub async fn wait_for(&self, position: Position) -> Result<(), Error> {
        self.wait_until(position, Instant::now() + WAIT_MAX).await
    }

    async fn wait_until(&self, position: Position, until: Instant) -> Result<(), Error> {
        self.is_on()?;
        let mut said = self.said.clone();
        if said.borrow().position >= position {
            return Ok(());
        }
        let _waits = Waits::begin(&self.waiting);
        let reached = said.wait_for(|said| said.position >= position);
        if let Ok(Ok(_)) = timeout_at(until, reached).await {
            return Ok(());
        }
        let at = self.said.borrow().position;
        Err(Error::Behind { at, position })
    }

    /// Asks for an answer that reflects a position at least, and waits for that, with a
    /// bound.
    ///
    /// # Errors
    /// As [`Handle::ask`]; and when the answer would be from before that position, as
    /// it is for a while after everything was built anew.
    pub async fn ask_from<T: Send + 'static>(
        &self,
        position: Position,
        question: impl Fn(&mut Reader) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let question = Arc::new(question);
        let until = Instant::now() + WAIT_MAX;
        loop {
            self.wait_until(position, until).await?;
            let question = question.clone();
            let answer = self.ask(move |reader| {
                reader.least(position);
                question(reader)
            });
            match answer.await {
                // It was begun anew in between, and will say so in a moment.
                Err(Error::Behind { .. }) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Asks on a thread that may block; a question that takes too long is ended, and so
    /// is one that nobody waits for any more.
    ///
    /// # Errors
    /// What `question` says, or that it took too long.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Reader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.is_on()?;
        let place = self.places.clone().acquire_owned();
        let place = place.await.map_err(|_| Error::Off)?;
        let (dir, store) = (self.dir.clone(), self.store.clone());
        let patience = Patience::new(self.answer_time_max, self.cramped.clone());
        let (reply, answer) = oneshot::channel();
        let asked = patience.clone();
        // Of its own: priorities are of threads, and this one's is the lowest.
        std::thread::Builder::new()
            .name("read-answer".into())
            .spawn(move || {
                pace::give_way();
                let mut pace = Pace::begin();
                let answer = Reader::of_running(&dir, store, &asked).and_then(|mut reader| {
                    let answer = question(&mut reader);
                    asked.end();
                    answer
                });
                if reply.send(answer).is_err() {
                    tracing::debug!("nobody waits for an answer of the read side");
                }
                // The next question waits while processors are wanted by others.
                std::thread::sleep(pace.rest() * QUESTIONS_REST);
                drop(place);
            })?;
        // Whoever leaves ends the question.
        let _leaves = patience.leaves();
        let answer = match timeout(self.answer_time_max, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                tracing::error!("a question to the read side failed");
                let what = "the question could not be answered".to_owned();
                return Err(Error::Asked(what));
            }
            Err(_) => return Err(Error::TooLong),
        };
        if let Err(error) = &answer
            && error.means_corruption()
        {
            // One that waits already is as good.
            drop(self.orders.try_send(Order::Damaged));
        }
        answer
    }

    fn is_on(&self) -> Result<(), Error> {
        match self.said.borrow().state {
            State::Off => Err(Error::Off),
            _ => Ok(()),
        }
    }
}
