//! Changes of tables beside the journal's own, decided in the transaction that writes
//! them, together with the events that tell of them: either all of it is on disk, or
//! nothing is. The store knows neither what the tables say nor what is decided.

use std::{any::Any, fmt::Debug};

use rusqlite::Connection;

use super::{NewEvent, Stopped, Turn};
use crate::event::Timestamp;

/// A change that is decided by what the tables say when its turn comes.
pub trait Edit: Debug + Send + Sync + 'static {
    /// What whoever asked for it hears.
    type Answer: Send + 'static;

    /// Decides, and writes. Called on the writer's thread, within its transaction; once
    /// more from the beginning when that could not be committed, so it depends on nothing
    /// but itself, the tables and `now`. Must be short, and must not end the transaction.
    ///
    /// # Errors
    /// When SQLite says no; nothing of the transaction happens then.
    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>>;

    /// About what it adds to the database, at most, with its events. An edit of zero bytes
    /// makes room or takes none: it finds room while the journal is full.
    fn cost_bytes(&self) -> usize;

    /// Whether nobody waits for it: it takes room only while there is plenty, and nothing
    /// gives way to it.
    fn is_spare(&self) -> bool {
        false
    }

    /// It is on disk; called once, on the writer's thread, also where whoever asked is gone.
    fn kept(&self, _answer: &Self::Answer) {}

    /// The turn of the connection that it comes of, if its place among what that publishes
    /// matters: it is turned away where something of this turn was before.
    fn turn(&self) -> Option<&Turn> {
        None
    }
}

/// What was decided.
#[derive(Debug)]
pub struct Edited<A> {
    /// What whoever asked hears, once it is on disk.
    pub answer: A,
    /// What tells of it.
    pub events: Vec<NewEvent>,
    /// Whether a table was changed.
    pub changed: bool,
    /// The events are copies of others in the journal, each for one destination: they
    /// leave as soon as that has settled them.
    pub are_copies: bool,
    /// What the events tell of, one of each, where they tell of what was given up: the
    /// device, and how much of it.
    pub told: Vec<(String, u64)>,
}

impl<A> Edited<A> {
    /// Nothing was changed.
    pub const fn nothing(answer: A) -> Self {
        Self {
            answer,
            events: Vec::new(),
            changed: false,
            are_copies: false,
            told: Vec::new(),
        }
    }

    /// A table was changed, and these events tell of it.
    pub const fn change(answer: A, events: Vec<NewEvent>) -> Self {
        Self {
            answer,
            events,
            changed: true,
            are_copies: false,
            told: Vec::new(),
        }
    }

    /// Counts of what was given up were taken away, and these events tell of them.
    pub const fn tells(answer: A, events: Vec<NewEvent>, told: Vec<(String, u64)>) -> Self {
        Self {
            answer,
            events,
            changed: true,
            are_copies: false,
            told,
        }
    }

    /// A table was changed, and copies are to be sent.
    pub const fn copies(answer: A, events: Vec<NewEvent>) -> Self {
        Self {
            answer,
            events,
            changed: true,
            are_copies: true,
            told: Vec::new(),
        }
    }
}

/// Why an edit was not made. Nothing of it was, or, after [`NotEdited::Stopped`], nobody
/// knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotEdited {
    /// There is no room.
    #[error("the journal is full")]
    Full,
    /// A table is not as it should be.
    #[error("a table of the journal is damaged")]
    Failed,
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}

impl From<Stopped> for NotEdited {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// An edit whose answer may be of any type.
pub(super) trait AnyEdit: Debug + Send + Sync {
    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<AnyAnswer>>;
    fn cost_bytes(&self) -> usize;
    fn is_spare(&self) -> bool;
    fn kept(&self, answer: &AnyAnswer);
    fn turn(&self) -> Option<&Turn>;
}

pub(super) type AnyAnswer = Box<dyn Any + Send>;

impl<E: Edit> AnyEdit for E {
    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<AnyAnswer>> {
        let Edited {
            answer,
            events,
            changed,
            are_copies,
            told,
        } = Edit::apply(self, tables, now)?;
        Ok(Edited {
            answer: Box::new(answer),
            events,
            changed,
            are_copies,
            told,
        })
    }

    fn cost_bytes(&self) -> usize {
        Edit::cost_bytes(self)
    }

    fn is_spare(&self) -> bool {
        Edit::is_spare(self)
    }

    fn kept(&self, answer: &AnyAnswer) {
        if let Some(answer) = answer.downcast_ref() {
            Edit::kept(self, answer);
        }
    }

    fn turn(&self) -> Option<&Turn> {
        Edit::turn(self)
    }
}
