//! The journal: the only meeting place between what comes in and what goes out.
//!
//! # Promises
//! - A receipt resolves only after its group is on disk (write-ahead log,
//!   `synchronous = FULL`). A group is kept whole or not at all.
//! - An event whose key was kept before, within the dedup window, is not kept again.
//! - Positions only grow and are never given twice.
//! - Every routed event is counted once for each destination: delivered, waiting,
//!   expired, evicted, damaged or dead. Nothing leaves without a count: what the rules
//!   send nowhere is held until it is too old or half of the room is used, and counted too.
//! - What is given up by class while room is short, as configured, is counted in the commit
//!   that acknowledges it, and told upstream by an event.
//! - At most one process writes: a lock in the data directory.
//! - When there is no room, whole groups are turned away (`push-back`) or the
//!   oldest events make room and are counted (`drop-oldest`); a full disk needs
//!   no restart. A damaged file is set aside, salvaged and reported; it does not
//!   keep the gateway from starting.
//!
//! It does not promise that a destination gets an event once: it keeps the cursor
//! that the destination's task reports.
//!
//! # On disk
//! `journal.db` is SQLite; `migrations/*.sql` has the tables. Beside it lie
//! `journal.db-wal` and `-shm`, `lock`, `journal.promises` (what the next start
//! compares with, see `promises`) and `journal.reserve` (room to give back when
//! the disk is full, see `room`). Damaged files are named `journal.db.damaged-<n>`;
//! `journal.db.salvage` is a fresh one under construction. What events and messages say may
//! be sealed (`sealed`).
//!
//! # Inside
//! One thread owns every write (`writer`); readers have connections of their
//! own ([`Reader`], [`Listing`]). The newest records are also in memory (`tail`).

mod account;
mod accounts;
mod append;
mod audit;
pub(crate) mod carve;
mod change;
mod checkpoint;
mod column;
mod config;
mod copies;
mod dead_letter;
mod devices;
mod edit;
mod entry;
mod fill;
mod frame;
mod gap;
mod handle;
mod history;
mod hold;
mod housekeeping;
mod job;
mod kept;
mod listing;
mod lock;
mod making;
mod mode;
mod numbering;
mod open;
mod progress;
mod promises;
mod quarantine;
mod reader;
mod recover;
mod remember;
mod rescue;
mod reseal;
mod retention;
mod room;
mod salvage;
mod scan;
mod schema;
mod sealed;
mod settle;
mod shed;
mod stage;
mod standing;
mod state;
mod status;
mod step;
mod tail;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
mod verify;
mod writer;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle};

use penstock_broker::seal::KeyError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    clock::Clock,
    dedup::window::{Limits, Window},
};

pub use accounts::{AccountOf, Accounts, Beginning, Snapshot};
pub use audit::Audit;
pub use config::{Config, OnFull};
pub(crate) use copies::standing as copies_standing;
pub use devices::{Devices, Waiting};
pub use edit::{Edit, Edited, NotEdited};
pub use entry::{Appended, Entry, NewEvent, NewOriginal, NewQuarantine, Receipt, Stopped};
pub use gap::Gap;
pub(crate) use gap::take as take_gaps;
pub use handle::{Failure, Handle};
pub use history::HistoryPage;
pub use hold::Hold;
pub use kept::{Kept, KeptPage};
pub use listing::{DeadLetter, Listing, Quarantined};
pub use mode::{Mode, Wanted};
pub use open::{Promise, Report};
pub use progress::{Dead, Progress, Retry, Spent};
pub use reader::{Page, Reader};
pub use reseal::{reseal, tally as tally_sealed};
pub use salvage::Salvaged;
pub(crate) use salvage::open_as_evidence;
pub(crate) use scan::{is_about_the_row, scan};
pub(crate) use sealed::seal_body;
pub use shed::{Keep, RELEASE, Shed, Sheddable};
pub use standing::{DeadOf, Fate, Standing, Standings};
pub use status::{DestinationStatus, Nowhere, Status};
pub use tail::Newest;
pub use tally::{Damaged, Dropped, Ending, Given, TakenBack, Tally};
pub use turn::Turn;
pub use verify::{Stats, VerifyReport, stats, verify};

use handle::Life;
use housekeeping::Duties;
use job::{Job, Work};
use writer::Writer;

/// The database's name in the data directory.
pub const DATABASE: &str = "journal.db";

/// An open journal, before its writer runs.
#[derive(Debug)]
pub struct Store {
    writer: Writer,
    handle: Handle,
    lock: lock::Lock,
}

/// A journal with its writer at work.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the journal in `config.dir`; creates it where there is none. A
    /// damaged one is set aside and salvaged. Blocking.
    ///
    /// # Errors
    /// When another gateway uses the directory, the journal was written by a
    /// later version, or the disk says no.
    pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<(Self, Report), Error> {
        std::fs::create_dir_all(&config.dir)?;
        let lock = lock::Lock::take(&config.dir)?;
        let mut opened = open::open(&config)?;
        if let Some(at) = opened.state.wall {
            clock.has_been(at);
        }
        let steps = step::Steps::new(&mut opened.state, clock.now(), clock.monotonic());

        let (jobs, jobs_received) = mpsc::channel(handle::QUEUE_GROUPS);
        let (committed, committed_seen) = watch::channel(opened.state.position);
        let (life, life_seen) = watch::channel(Life::Running);
        let window = Window::new(Limits {
            age: config.dedup_age,
            count: config.dedup_count,
            memory_bytes: config.dedup_memory_bytes,
        });
        if window.short_of_memory() {
            tracing::warn!(
                keys_max = config.dedup_count,
                keys = window.capacity(),
                "dedup window shortened by memory budget"
            );
        }
        let mut account = account::Account::new(opened.names, opened.set_aside);
        account.look(&opened.connection, &opened.state)?;
        let status = account.status(&opened.state, &opened.room, &window, false);
        let (status, status_seen) = watch::channel(Arc::new(status));
        let tail = Arc::new(tail::Tail::new(opened.state.position, tail::TAIL_BYTES));
        let noticed = Arc::<reader::Noticed>::default();
        let hold = Arc::<Hold>::default();
        let handle = Handle {
            jobs,
            room: Arc::new(Semaphore::new(handle::QUEUE_KIB as usize)),
            committed: committed_seen,
            status: status_seen,
            life: life_seen,
            tail: tail.clone(),
            noticed: noticed.clone(),
            hold: hold.clone(),
            database: Arc::new(config.dir.join(DATABASE)),
            seal: config.seal.clone(),
        };
        let writer = Writer {
            connection: opened.connection,
            jobs: jobs_received,
            clock,
            steps,
            state: opened.state,
            window,
            shedding: shed::Shedding::new(&config.shed),
            max_age: config.max_age,
            keep_delivered: config.keep_delivered,
            checkpoints: checkpoint::Checkpoints::new(config.max_bytes),
            room: opened.room,
            promises: opened.promises,
            tail,
            noticed,
            hold,
            account,
            committed,
            status,
            life,
            wanted: None,
            seal: config.seal,
            duties: Duties::default(),
        };
        Ok((
            Self {
                writer,
                handle,
                lock,
            },
            opened.report,
        ))
    }

    /// The way in; jobs wait in its queue until the writer runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Starts the writer on a thread of its own. Before it takes its first job
    /// it reads the keys of the dedup window back; appends wait in the queue
    /// meanwhile.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn run(self) -> Result<Running, Error> {
        let Self {
            writer,
            handle,
            lock,
        } = self;
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                writer.run();
                drop(lock);
            })?;
        Ok(Running {
            handle,
            thread: Some(thread),
        })
    }
}

impl Running {
    /// The way in.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Commits what is queued, checkpoints, closes, and waits for the thread's end.
    ///
    /// # Errors
    /// When the writer had given up.
    pub async fn shutdown(mut self) -> Result<(), Failure> {
        let (reply, done) = oneshot::channel();
        if self
            .handle
            .jobs
            .send(Job {
                work: Work::Close,
                reply,
                room: None,
            })
            .await
            .is_ok()
        {
            // The answer comes with the last commit; the end is what is waited for.
            drop(done.await);
        }
        let failure = self.handle.closed().await;
        if let Some(thread) = self.thread.take()
            && !matches!(
                tokio::task::spawn_blocking(move || thread.join()).await,
                Ok(Ok(()))
            )
        {
            return Err(Failure("its writer ended unexpectedly".into()));
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite said no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The database's structure is not whole.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// One gateway per directory.
    #[error("another gateway{by} is using {}", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Which process, where it is known.
        by: String,
    },
    /// Never touch what a later version wrote.
    #[error(
        "the journal was written by a later version of penstock (format {found}, this one knows {known})"
    )]
    LaterVersion {
        /// Its format.
        found: u32,
        /// The latest format known.
        known: u32,
    },
    /// It is sealed with a key that is not given.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Route masks have so many bits.
    #[error(
        "the journal knows {} destinations already; forget one that is no longer used",
        crate::record::DESTINATIONS_MAX
    )]
    TooManyDestinations,
}

impl Error {
    /// Whether the file is to be set aside.
    fn means_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TooBig};
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => {
                // A flipped byte can also make a row gigantic, or text of a number.
                matches!(
                    error.sqlite_error_code(),
                    Some(DatabaseCorrupt | NotADatabase | TooBig)
                ) || scan::is_about_the_row(error)
            }
            _ => false,
        }
    }

    /// Whether the disk has no room.
    fn means_full(&self) -> bool {
        use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
        match self {
            Self::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure))
            }
            Self::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
