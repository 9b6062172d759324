//! What others know of the read side, and ask of it.

use std::{path::Path, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{Error, Reader};
use crate::{record::Position, store};

/// Questions that are answered at a time; others wait.
pub(super) const QUESTIONS_MAX: usize = 4;
/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a question may wait for a position.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);

/// What the feed is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum State {
    /// There is none.
    Off,
    /// It follows the journal.
    Following,
    /// It makes projections of what the journal has, from the beginning.
    Rebuilding,
    /// It waits, and why.
    Paused(Arc<str>),
}

/// The account of the read side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// Positions that were never seen here, because they left the journal before.
    pub missed: u64,
    /// How often it was built anew since the start.
    pub rebuilt: u64,
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
    pub(super) missed: u64,
    pub(super) rebuilt: u64,
}

/// The way to ask: cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) dir: Arc<Path>,
    pub(super) store: store::Handle,
    pub(super) said: watch::Receiver<Said>,
    pub(super) rebuild: mpsc::Sender<oneshot::Sender<()>>,
    pub(super) places: Arc<Semaphore>,
    pub(super) bytes_max: u64,
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
            missed: said.missed,
            rebuilt: said.rebuilt,
        }
    }

    /// Builds everything anew; returns once that has begun.
    ///
    /// # Errors
    /// When there is no read side.
    pub async fn rebuild(&self) -> Result<(), Error> {
        if self.said.borrow().state == State::Off {
            return Err(Error::Off);
        }
        let (begun, done) = oneshot::channel();
        self.rebuild.send(begun).await.map_err(|_| Error::Off)?;
        done.await.map_err(|_| Error::Off)
    }

    /// Waits until answers reflect a position, with a bound.
    ///
    /// # Errors
    /// When they still do not; the position that they reflect is said.
    pub async fn wait_for(&self, position: Position) -> Result<(), Error> {
        if self.said.borrow().state == State::Off {
            return Err(Error::Off);
        }
        let mut said = self.said.clone();
        let reached = said.wait_for(|said| said.position >= position);
        if let Ok(Ok(_)) = tokio::time::timeout(WAIT_MAX, reached).await {
            return Ok(());
        }
        let at = self.said.borrow().position;
        Err(Error::Behind { at, position })
    }

    /// Asks on a thread that may block; a question that takes too long is ended.
    ///
    /// # Errors
    /// What `question` says, or that it took too long.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Reader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.said.borrow().state == State::Off {
            return Err(Error::Off);
        }
        let place = self.places.clone().acquire_owned().await;
        let (dir, store) = (self.dir.clone(), self.store.clone());
        let (interrupt, interrupted) = oneshot::channel();
        let answer = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut reader = Reader::open(&dir, store.listing()?)?;
            if interrupt.send(reader.interrupt()).is_err() {
                return Err(Error::TooLong);
            }
            question(&mut reader)
        });
        tokio::pin!(answer);
        let ended = match tokio::time::timeout(ANSWER_TIME_MAX, &mut answer).await {
            Ok(ended) => ended,
            Err(_) => {
                if let Ok(interrupt) = interrupted.await {
                    interrupt.interrupt();
                }
                return Err(Error::TooLong);
            }
        };
        match ended {
            Ok(answer) => {
                if let Err(error) = &answer
                    && error.means_corruption()
                {
                    // One that waits already is as good.
                    drop(self.rebuild.try_send(oneshot::channel().0));
                }
                answer
            }
            Err(error) => {
                tracing::error!(%error, "a question to the read side failed");
                Err(Error::Asked(
                    "the question could not be answered".to_owned(),
                ))
            }
        }
    }
}
