//! Committed events as they come, for somebody who looks on.
//!
//! ```text
//! store ─ after commit ─▶ newest records in memory, or the journal ─▶ Tail ─▶ one reader
//! ```
//!
//! Promises: only what is committed is shown, each event once, and in the order of the
//! journal. One page at a time is in memory, and it is read when it is asked for. Nobody waits for it: a reader who is slow
//! falls behind, and what has left the journal before it was shown is said, with how many
//! there were. It runs on a thread of the lowest priority, one for each reader, and rests
//! while processors are wanted; so under load it falls behind too.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    boots::Boots,
    event::Event,
    pace::{self, Pace},
    record::{DestinationId, Position, Routes},
    rules::{Pattern, Rule, RuleSet, Scratch},
    store::{self, Page, Reader},
};

/// Records looked at in one go.
const RECORDS_MAX: usize = 256;
/// Bytes of records looked at in one go, about.
const BYTES_MAX: usize = 256 * 1024;
/// While there is nothing to show, it is said how far it has looked this often.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// After the journal could not be read: the writer replaces a damaged one.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What somebody wants to see.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Every one of these patterns has to fit; the routes stand for them.
    patterns: RuleSet,
    all: Routes,
}

impl Filter {
    /// Events that every one of these patterns takes.
    pub(crate) fn new(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        let numbered = (0..).map(DestinationId).zip(patterns);
        let mut all = Routes::NONE;
        let rules: Vec<Rule> = numbered
            .map(|(id, pattern)| {
                all = all.with(id);
                let name: Arc<str> = id.0.to_string().into();
                Rule::to(&name.clone(), pattern, vec![name])
            })
            .collect();
        let id = |name: &str| name.parse().ok().map(DestinationId);
        let patterns = RuleSet::new(&rules, id).unwrap_or_default();
        Self { patterns, all }
    }

    /// Whether it takes an event; no, where that would take too many comparisons.
    fn takes(&self, event: &Event, scratch: &mut Scratch) -> bool {
        scratch.begin_message();
        let routed = self.patterns.route(event, self.all, scratch);
        routed.is_ok_and(|routed| routed.routes == self.all)
    }
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// An event, as destinations receive it, with its position.
    Event(Position, Vec<u8>),
    /// Events up to this position had left the journal before they could be shown, or
    /// could not be read.
    Missed(Position, NonZeroU64),
    /// Nothing up to here is to be shown.
    Looked(Position),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tail {
    committed: watch::Receiver<Position>,
    /// Who reads: it ends when nobody can ask any more.
    pages: mpsc::Sender<oneshot::Sender<Found>>,
    /// What was asked for, and is not there yet.
    found: Option<oneshot::Receiver<Found>>,
    /// Looked at up to here.
    at: Position,
}

/// A page, and up to where that was.
type Found = Result<(Vec<Shown>, Position), store::Error>;

impl Tail {
    /// Begins behind `after`, or with what comes from now on. Keeps `place` for as long as
    /// its thread is there, which may be longer than anybody listens.
    ///
    /// # Errors
    /// When the journal cannot be opened, or the system has no thread left.
    pub(crate) fn begin(
        store: &store::Handle,
        boots: Arc<Boots>,
        filter: Filter,
        after: Option<Position>,
        place: impl Send + 'static,
    ) -> Result<Self, store::Error> {
        let committed = store.committed();
        let now = *committed.borrow();
        // A position that is not given yet is another journal's.
        let at = after.map_or(now, |after| after.min(now));
        let mut reading = Reading {
            reader: store.reader()?,
            boots,
            filter,
            scratch: Scratch::default(),
            at,
        };
        let (pages, mut asked) = mpsc::channel::<oneshot::Sender<Found>>(1);
        std::thread::Builder::new()
            .name("tail".into())
            .spawn(move || {
                let _place = place;
                pace::give_way();
                let mut pace = Pace::begin();
                while let Some(reply) = asked.blocking_recv() {
                    let found = reading.page();
                    if reply.send(found).is_err() {
                        return;
                    }
                    std::thread::sleep(pace.rest());
                }
            })?;
        Ok(Self {
            committed,
            pages,
            found: None,
            at,
        })
    }

    /// Looked at up to here.
    pub(crate) const fn at(&self) -> Position {
        self.at
    }

    /// What comes next, or after a while how far it has looked; `None` when the gateway ends.
    pub(crate) async fn next(&mut self) -> Option<Vec<Shown>> {
        self.next_within(SAY_EVERY).await
    }

    async fn next_within(&mut self, time: Duration) -> Option<Vec<Shown>> {
        let until = Instant::now() + time;
        loop {
            let at = self.at;
            let more = self.committed.wait_for(|position| *position > at);
            match timeout_at(until, more).await {
                Err(_) => return Some(vec![Shown::Looked(at)]),
                Ok(more) => drop(more.ok()?),
            }
            if self.found.is_none() {
                let (reply, found) = oneshot::channel();
                self.pages.send(reply).await.ok()?;
                self.found = Some(found);
            }
            let Ok(found) = timeout_at(until, self.found.as_mut()?).await else {
                return Some(vec![Shown::Looked(at)]);
            };
            self.found = None;
            match found.ok()? {
                Ok((shown, at)) => {
                    self.at = at;
                    if !shown.is_empty() {
                        return Some(shown);
                    }
                }
                Err(error) => {
                    tracing::info!(%error, "the journal could not be read for a live tail");
                    sleep(AGAIN_AFTER).await;
                }
            }
            // Also where there is always more, and nothing of it is wanted.
            if Instant::now() >= until {
                return Some(vec![Shown::Looked(self.at)]);
            }
        }
    }
}

/// What reads, on its thread.
#[derive(Debug)]
struct Reading {
    reader: Reader,
    boots: Arc<Boots>,
    filter: Filter,
    scratch: Scratch,
    at: Position,
}

impl Reading {
    fn page(&mut self) -> Found {
        let page = self.reader.all(self.at, RECORDS_MAX, BYTES_MAX)?;
        Ok((self.show(page), self.at))
    }

    fn show(&mut self, page: Page) -> Vec<Shown> {
        let mut shown = Vec::new();
        let end = page.scanned_to.max(self.at);
        for record in page.records {
            let position = record.position;
            self.miss(Position(position.0 - 1), &mut shown);
            self.at = position;
            let record = self.boots.repaired(record);
            let Ok(event) = record.event() else {
                // What does not read back is a destination's to report.
                shown.push(Shown::Missed(position, NonZeroU64::MIN));
                continue;
            };
            if self.filter.takes(&event, &mut self.scratch) {
                let mut text = Vec::new();
                event.to_json(Some(&position.to_string()), &mut text);
                shown.push(Shown::Event(position, text));
            }
        }
        self.miss(end, &mut shown);
        shown
    }

    /// Says that nothing is known of what lies up to `to`, if anything does.
    fn miss(&mut self, to: Position, shown: &mut Vec<Shown>) {
        if let Some(count) = NonZeroU64::new(to.0.saturating_sub(self.at.0)) {
            self.at = to;
            shown.push(Shown::Missed(to, count));
        }
    }
}
