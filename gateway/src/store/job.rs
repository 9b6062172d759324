//! What the writer is asked to do. Everything that changes the journal is one
//! of these, so that one thread owns every write.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    edit::{AnyAnswer, AnyEdit},
    entry::{Appended, Entry},
    mode::{Mode, Wanted},
    progress::Progress,
    turn::Turn,
};
use crate::record::DestinationId;

/// A piece of work with the way back.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// Its share of the queue's bytes, given back when the job is dropped.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) enum Work {
    Append {
        entries: Vec<Entry>,
        retry_of: Option<u64>,
        turn: Option<Turn>,
        /// What nobody waits for: it takes room only while there is plenty, and nothing
        /// gives way to it.
        spare: bool,
    },
    Progress(Progress),
    Change(Change),
    /// A change of other tables.
    Edit(Box<dyn AnyEdit>),
    /// Finish what is queued, then close.
    Close,
}

/// An administrator's change.
#[derive(Debug)]
pub(super) enum Change {
    DiscardQuarantined(Vec<u64>),
    Redrive(Vec<u64>),
    DiscardDead(Vec<u64>),
    Forget(Arc<str>),
    /// The configuration names these destinations now, and of those that are new these
    /// begin with what is kept.
    Configure {
        names: Vec<Arc<str>>,
        from_kept: Vec<Arc<str>>,
    },
    SetMode(DestinationId, Mode),
    /// New destinations are to be given what they want of what is kept.
    Fill(Wanted),
}

/// What became of a job, durable by the time it is said.
#[derive(Debug)]
pub(super) enum Outcome {
    Appended(Vec<Appended>),
    Changed(u64),
    Edited(AnyAnswer),
    /// There was no room for an edit.
    Full,
    /// The edit failed, and nothing else did.
    Failed,
}

impl Work {
    /// Entries, as the writer counts them towards a commit.
    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.len(),
            _ => 1,
        }
    }

    /// About what it holds in memory.
    pub(super) fn cost_bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(Entry::cost_bytes).sum(),
            Self::Progress(progress) => {
                let retry = progress
                    .retry
                    .iter()
                    .map(|r| r.record.body.len() + r.reason.len());
                let dead = progress
                    .dead
                    .iter()
                    .map(|d| d.record.body.len() + d.reason.len());
                retry.chain(dead).map(|bytes| bytes + 64).sum()
            }
            Self::Edit(edit) => edit.cost_bytes(),
            Self::Change(_) | Self::Close => 0,
        }
    }
}
