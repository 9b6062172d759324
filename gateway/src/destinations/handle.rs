//! How the destinations that run are changed: from the configuration, and by operators.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    forward,
    record::{DESTINATIONS_MAX, is_own},
    rules::Rule,
    store::{self, Mode},
};

/// What is to be in force.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Every destination that runs.
    pub(crate) destinations: Vec<forward::Config>,
    /// The names that the journal is to keep places for.
    pub(crate) names: Vec<Arc<str>>,
    /// Those of them that begin with what is kept, where they are new.
    pub(crate) from_kept: Vec<Arc<str>>,
    /// Those that are new, or are configured otherwise than those that run.
    pub(crate) changed: BTreeSet<Arc<str>>,
    /// Every rule.
    pub(crate) rules: Vec<Rule>,
}

/// What can be asked of the task.
#[derive(Debug)]
pub(super) enum Ask {
    Apply(Box<Wish>, oneshot::Sender<anyhow::Result<()>>),
    SetMode(Arc<str>, Mode, oneshot::Sender<Result<(), Refusal>>),
    Remove {
        name: Arc<str>,
        discard: bool,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
}

/// Why a destination is not run otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The journal knows none of that name.
    #[error("there is no destination {0:?}")]
    Unknown(Arc<str>),
    /// Only what the configuration names runs.
    #[error("the configuration does not name {0:?}: it does not run, and what it has waits")]
    Unconfigured(Arc<str>),
    /// It would take events again.
    #[error("{0:?} is draining: paused it would be given events again; resume it first")]
    Draining(Arc<str>),
    /// It would be back at the next start.
    #[error("the configuration names {0:?}: take its [[destination]] out of the file first")]
    Configured(Arc<str>),
    /// Something would be given up.
    #[error(
        "{waiting} events wait for {name:?}, and {dead} of its dead letters are kept: \
         discard them in words, or configure it again to have them delivered"
    )]
    Waiting {
        /// Whose.
        name: Arc<str>,
        /// Events that it has not got.
        waiting: u64,
        /// Dead letters.
        dead: u64,
    },
    /// What it has written down of what it sent could not be deleted.
    #[error("what {name:?} has written down could not be deleted, and it stays: {reason}")]
    Notes {
        /// Whose.
        name: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The gateway ends.
    #[error("the gateway ends")]
    Ending,
}

/// Asks for changes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    asked: mpsc::Sender<Ask>,
    store: store::Handle,
    clock: Arc<dyn Clock>,
}

impl Handle {
    pub(super) const fn new(
        asked: mpsc::Sender<Ask>,
        store: store::Handle,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            asked,
            store,
            clock,
        }
    }

    /// Says why destinations cannot be put in force, without touching anything: those that
    /// changed are made once on trial, and the journal must have numbers for those that
    /// are new.
    ///
    /// # Errors
    /// With what is wrong, for a person.
    pub(crate) fn check(&self, wish: &Wish) -> anyhow::Result<()> {
        for config in &wish.destinations {
            if wish.changed.contains(&config.name) {
                config
                    .try_out(&self.clock)
                    .with_context(|| format!("destination {}", config.name))?;
            }
        }
        let status = self.store.status();
        let known = |name: &&Arc<str>| status.destinations.iter().any(|d| d.name == **name);
        // One of our own does without a number where there is none.
        let new = wish
            .names
            .iter()
            .filter(|name| !known(name) && !is_own(name));
        let new = new.count();
        if status.destinations.len() + new > DESTINATIONS_MAX {
            return Err(store::Error::TooManyDestinations.into());
        }
        Ok(())
    }

    /// Puts destinations and rules in force that were [checked](Self::check); when it
    /// fails, the reason is for a person.
    pub(crate) async fn apply(&self, wish: Wish) -> anyhow::Result<()> {
        let (done, outcome) = oneshot::channel();
        self.ask(Ask::Apply(Box::new(wish), done)).await?;
        outcome.await.map_err(|_| Refusal::Ending)?
    }

    /// Says how a destination is run, from now on and across restarts.
    ///
    /// # Errors
    /// When there is none of that name that runs.
    pub async fn set_mode(&self, name: &str, mode: Mode) -> Result<(), Refusal> {
        let (done, outcome) = oneshot::channel();
        self.ask(Ask::SetMode(name.into(), mode, done)).await?;
        outcome.await.map_err(|_| Refusal::Ending)?
    }

    /// Forgets a destination that the configuration no longer names; `discard` gives up
    /// what it has.
    ///
    /// # Errors
    /// When it is configured, or has something that was not given up.
    pub async fn remove(&self, name: &str, discard: bool) -> Result<(), Refusal> {
        let (done, outcome) = oneshot::channel();
        let name = name.into();
        self.ask(Ask::Remove {
            name,
            discard,
            done,
        })
        .await?;
        outcome.await.map_err(|_| Refusal::Ending)?
    }

    async fn ask(&self, ask: Ask) -> Result<(), Refusal> {
        self.asked.send(ask).await.map_err(|_| Refusal::Ending)
    }
}
