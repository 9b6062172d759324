//! How long a question may run: not after who asked has left, not for ever, and not for
//! long while the log of `read.db` waits for it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, InterruptHandle};

use super::{Error, log::Cramped};

/// How long an answer may take.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long one may take while nothing can be written because of it.
const CRAMPED_TIME_MAX: Duration = Duration::from_secs(2);
/// It is looked at after so many steps of a statement: some tens of microseconds.
const STEPS: i32 = 1_000;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Patience(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    limit: Duration,
    left: AtomicBool,
    cramped: Cramped,
    /// What runs.
    running: Mutex<Option<Interrupt>>,
}

struct Interrupt(InterruptHandle);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Ends the question when it is dropped.
#[derive(Debug)]
pub(super) struct Leaves(Patience);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.0.left.store(true, Relaxed);
        // Between two statements it goes unheard; then the mark is seen.
        if let Some(running) = &*self.0.running() {
            running.0.interrupt();
        }
    }
}

impl Patience {
    /// Of a question that is asked now, and may take so long.
    pub(super) fn new(limit: Duration, cramped: Cramped) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            limit,
            left: AtomicBool::new(false),
            cramped,
            running: Mutex::new(None),
        }))
    }

    /// The statements of a connection are ended when it is over.
    pub(super) fn guard(&self, connection: &mut Connection) -> Result<(), Error> {
        let patience = self.clone();
        connection.progress_handler(STEPS, Some(move || patience.is_over()))?;
        *self.running() = Some(Interrupt(connection.get_interrupt_handle()));
        self.check()
    }

    /// The question was answered.
    pub(super) fn end(&self) {
        *self.running() = None;
    }

    /// Whoever asks keeps this for as long as he waits.
    pub(super) fn leaves(&self) -> Leaves {
        Leaves(self.clone())
    }

    /// Between two statements.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.is_over() {
            true => Err(Error::TooLong),
            false => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        let limit = match self.0.cramped.get() {
            true => CRAMPED_TIME_MAX,
            false => self.0.limit,
        };
        self.0.left.load(Relaxed) || self.0.began.elapsed() > limit
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Interrupt>> {
        let running = self.0.running.lock();
        running.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
                           SELECT count(*) FROM n";

    type Asked = Result<i64, rusqlite::Error>;

    fn ask_endlessly(patience: &Patience) -> Asked {
        let mut connection = Connection::open_in_memory().unwrap();
        patience.guard(&mut connection).unwrap();
        connection.query_row(ENDLESS, [], |row| row.get(0))
    }

    /// Asks an endless question on a thread; it has to end by itself.
    fn is_interrupted(question: impl FnOnce() -> Asked + Send + 'static) {
        let (end, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || end.send(question()));
        let answer = ended.recv_timeout(Duration::from_secs(60));
        let error = answer.expect("the question goes on").unwrap_err();
        assert!(Error::from(error).means_interruption());
    }

    #[test]
    fn a_question_ends_when_who_asked_it_leaves() {
        let patience = Patience::new(Duration::from_hours(1), Cramped::default());
        let leaves = patience.leaves();
        let asked = patience.clone();
        let waiting = patience.clone();
        std::thread::spawn(move || {
            while waiting.running().is_none() {
                std::thread::yield_now();
            }
            drop(leaves);
        });
        is_interrupted(move || ask_endlessly(&asked));
        assert!(matches!(patience.check(), Err(Error::TooLong)));
    }

    #[test]
    fn a_statement_that_begins_after_who_asked_has_left_ends() {
        let patience = Patience::new(Duration::from_hours(1), Cramped::default());
        let mut connection = Connection::open_in_memory().unwrap();
        patience.guard(&mut connection).unwrap();
        // No statement runs that could be interrupted.
        drop(patience.leaves());
        is_interrupted(move || connection.query_row(ENDLESS, [], |row| row.get(0)));
    }

    #[test]
    fn a_question_that_keeps_the_log_from_being_emptied_has_less_time() {
        let cramped = Cramped::default();
        let mut patience = Patience::new(ANSWER_TIME_MAX, cramped.clone());
        let inner = Arc::get_mut(&mut patience.0).unwrap();
        inner.began = inner.began.checked_sub(CRAMPED_TIME_MAX).unwrap();
        assert!(patience.check().is_ok());
        cramped.set(true);
        assert!(matches!(patience.check(), Err(Error::TooLong)));
    }
}
