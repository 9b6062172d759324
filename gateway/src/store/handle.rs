//! The way in for everyone else.

use std::{path::PathBuf, sync::Arc};

use penstock_broker::seal::Seal;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    Error, Reader,
    edit::{Edit, NotEdited},
    entry::{Appended, Entry, Receipt, Stopped},
    hold::Hold,
    job::{Change, Job, Outcome, Work},
    listing::Listing,
    mode::{Mode, Wanted},
    progress::{Progress, Spent},
    reader::Noticed,
    status::Status,
    tail::{Newest, Tail},
    turn::Turn,
};
use crate::record::{DestinationId, Position};

/// Groups that may wait for the writer, at most.
pub(super) const QUEUE_GROUPS: usize = 1_024;
/// Bytes of entries that may wait for the writer, at most, in KiB.
pub(super) const QUEUE_KIB: u32 = 32 * 1_024;

/// Whether the writer lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    Closed,
    Failed(Failure),
}

/// Why the journal's writer gave up: it can no longer keep its promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal cannot be written: {0}")]
pub struct Failure(pub Arc<str>);

/// The way in for everyone else: cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) room: Arc<Semaphore>,
    pub(super) committed: watch::Receiver<Position>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) life: watch::Receiver<Life>,
    pub(super) tail: Arc<Tail>,
    pub(super) noticed: Arc<Noticed>,
    pub(super) hold: Arc<Hold>,
    pub(super) database: Arc<PathBuf>,
    pub(super) seal: Seal,
}

impl Handle {
    /// Queues a group of entries to be committed together. Waits for room in
    /// the bounded queue; the receipt waits for the commit.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Receipt, Stopped> {
        self.queue(entries, None, false).await
    }

    /// Like [`Handle::append`], for what can wait: it finds no room once three quarters
    /// of `size_max` are used, and nothing gives way to it.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn append_spare(&self, entries: Vec<Entry>) -> Result<Receipt, Stopped> {
        self.queue(entries, None, true).await
    }

    /// Like [`Handle::append`], for a group whose connection must not see it
    /// kept while an earlier one was turned away.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn append_in_turn(
        &self,
        entries: Vec<Entry>,
        turn: Turn,
    ) -> Result<Receipt, Stopped> {
        self.queue(entries, Some(turn), false).await
    }

    async fn queue(
        &self,
        entries: Vec<Entry>,
        turn: Option<Turn>,
        spare: bool,
    ) -> Result<Receipt, Stopped> {
        let outcome = self
            .submit(Work::Append {
                entries,
                retry_of: None,
                turn,
                spare,
            })
            .await?;
        Ok(appended(outcome))
    }

    /// Queues a destination's progress; it is committed with the next group.
    /// The receipt resolves to an empty list.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn progress(&self, progress: Progress) -> Result<Receipt, Stopped> {
        let outcome = self.submit(Work::Progress(progress)).await?;
        Ok(appended(outcome))
    }

    /// Follows the last committed position.
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.committed.clone()
    }

    /// The newest committed records after `after`, of all destinations and none, as
    /// far as they are in memory: at most `count` of them and about `bytes`. Cheap;
    /// never reads from the disk.
    pub fn newest(&self, after: Position, count: usize, bytes: usize) -> Newest {
        self.tail.newest(after, count, bytes)
    }

    /// Lets settled records stay until somebody who is no destination has read them.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// How values lie in the databases of the data directory.
    pub const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The store's account of itself, at most a moment old. Cheap.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// The number of a destination that the journal knows.
    pub fn destination_id(&self, name: &str) -> Option<DestinationId> {
        let status = self.status.borrow();
        status
            .destinations
            .iter()
            .find(|d| &*d.name == name)
            .map(|d| d.id)
    }

    /// A reader of its own connection, for one destination's task.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn reader(&self) -> Result<Reader, Error> {
        Reader::open(self)
    }

    /// Lists quarantine and dead letters, on a connection of its own.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub fn listing(&self) -> Result<Listing, Error> {
        Listing::of_database(&self.database, &self.seal)
    }

    /// Removes messages from quarantine; says how many were there.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn discard_quarantined(&self, ids: Vec<u64>) -> Result<u64, Stopped> {
        self.change(Change::DiscardQuarantined(ids)).await
    }

    /// Appends what a quarantined message was decoded to at last, and removes
    /// it from quarantine, in one transaction. `None` when it is not in
    /// quarantine any more: nothing was appended. When there is no room it stays.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn retry_quarantined(
        &self,
        id: u64,
        entries: Vec<Entry>,
    ) -> Result<Option<Vec<Appended>>, Stopped> {
        let work = Work::Append {
            entries,
            retry_of: Some(id),
            turn: None,
            spare: false,
        };
        match self.submit(work).await?.await {
            Ok(Outcome::Appended(appended)) => Ok(Some(appended)),
            Ok(Outcome::Changed(_)) => Ok(None),
            Ok(_) | Err(_) => Err(Stopped),
        }
    }

    /// Puts dead letters back to be tried again from the first attempt, in
    /// order; says how many were there. Damaged records stay.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn redrive(&self, ids: Vec<u64>) -> Result<u64, Stopped> {
        self.change(Change::Redrive(ids)).await
    }

    /// Removes dead letters; they stay counted as dead. Says how many were there.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn discard_dead(&self, ids: Vec<u64>) -> Result<u64, Stopped> {
        self.change(Change::DiscardDead(ids)).await
    }

    /// Lets the journal know which destinations the configuration names now: what is new
    /// gets a number, and what is no longer named keeps what it has. Of those that are
    /// new, `from_kept` begin with what is kept, as [`fill`](Self::fill) says; the others
    /// at the end. False when there would be too many; then nothing has changed.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn configure(
        &self,
        names: Vec<Arc<str>>,
        from_kept: Vec<Arc<str>>,
    ) -> Result<bool, Stopped> {
        let change = Change::Configure { names, from_kept };
        Ok(self.change(change).await? > 0)
    }

    /// Gives new destinations what they want of what is kept and was stored so far, a
    /// chunk with each commit; what is stored from here on is to be routed to them as to
    /// others. Until somebody says this they wait, and what is kept stays.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn fill(&self, wanted: Wanted) -> Result<(), Stopped> {
        self.change(Change::Fill(wanted)).await.map(drop)
    }

    /// Says how a destination is run, from now on and across restarts. False when there
    /// is none of that name.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn set_mode(&self, name: &str, mode: Mode) -> Result<bool, Stopped> {
        let Some(id) = self.destination_id(name) else {
            return Ok(false);
        };
        Ok(self.change(Change::SetMode(id, mode)).await? > 0)
    }

    /// Waits until a destination has been given what was kept before it was known; gives
    /// back where its cursor is then, and what it has spent of its budget. `None` where
    /// nobody knows it, or the store ended.
    pub async fn filled(&self, id: DestinationId) -> Option<(Position, Spent)> {
        let mut status = self.status.clone();
        let filled = |status: &Arc<Status>| {
            let mut all = status.destinations.iter();
            all.all(|d| d.id != id || !d.filling)
        };
        let status = status.wait_for(filled).await.ok()?;
        let known = status.destinations.iter().find(|d| d.id == id)?;
        Some((known.cursor, known.spent))
    }

    /// Waits until something was given up that is not told upstream, and nothing more is.
    pub async fn gaps_ended(&self) {
        let mut status = self.status.clone();
        let ended = |status: &Arc<Status>| status.gaps > 0 && !status.shedding;
        if status.wait_for(ended).await.is_err() {
            // The store ended: so there is nothing to wait for, and nobody to tell it.
            std::future::pending().await
        }
    }

    /// Forgets a destination that the configuration does not name, with its
    /// backlog, retries and dead letters. False when there is none of that
    /// name, or it is in use.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn forget_destination(&self, name: Arc<str>) -> Result<bool, Stopped> {
        Ok(self.change(Change::Forget(name)).await? > 0)
    }

    /// Resolves when the store has ended: to the failure, or to `None` after an
    /// orderly end.
    pub async fn closed(&self) -> Option<Failure> {
        let mut life = self.life.clone();
        match life
            .wait_for(|life| *life != Life::Running)
            .await
            .as_deref()
        {
            Ok(Life::Failed(failure)) => Some(failure.clone()),
            Ok(_) => None,
            Err(_) => Some(Failure("its writer ended unexpectedly".into())),
        }
    }

    /// Changes tables beside the journal's own. Resolves when that is on disk.
    ///
    /// # Errors
    /// When there is no room, or the store has stopped.
    pub async fn edit<E: Edit>(&self, edit: E) -> Result<E::Answer, NotEdited> {
        match self.submit(Work::Edit(Box::new(edit))).await?.await {
            Ok(Outcome::Edited(answer)) => match answer.downcast() {
                Ok(answer) => Ok(*answer),
                Err(_) => Err(NotEdited::Stopped),
            },
            Ok(Outcome::Full) => Err(NotEdited::Full),
            Ok(Outcome::Failed) => Err(NotEdited::Failed),
            Ok(_) | Err(_) => Err(NotEdited::Stopped),
        }
    }

    async fn change(&self, change: Change) -> Result<u64, Stopped> {
        match self.submit(Work::Change(change)).await?.await {
            Ok(Outcome::Changed(count)) => Ok(count),
            Ok(_) | Err(_) => Err(Stopped),
        }
    }

    async fn submit(&self, work: Work) -> Result<oneshot::Receiver<Outcome>, Stopped> {
        let kib = u32::try_from(work.cost_bytes() / 1_024 + 1)
            .unwrap_or(QUEUE_KIB)
            .min(QUEUE_KIB);
        let room = self
            .room
            .clone()
            .acquire_many_owned(kib)
            .await
            .map_err(|_| Stopped)?;
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            work,
            reply,
            room: Some(room),
        };
        self.jobs.send(job).await.map_err(|_| Stopped)?;
        Ok(outcome)
    }
}

fn appended(outcome: oneshot::Receiver<Outcome>) -> Receipt {
    Box::pin(async move {
        match outcome.await {
            Ok(Outcome::Appended(appended)) => Ok(appended),
            Ok(Outcome::Changed(_)) => Ok(Vec::new()),
            Ok(_) | Err(_) => Err(Stopped),
        }
    })
}
