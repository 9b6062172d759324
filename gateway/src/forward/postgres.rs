//! A table of PostgreSQL, TimescaleDB included.
//!
//! A batch is one `INSERT` of all its rows, and so one transaction: it is there as a whole
//! or not at all. What makes a row unique is the key of its delivery, and `ON CONFLICT DO
//! NOTHING` leaves a row alone that is there already: whatever is sent again, after a lost
//! answer or a kill, each event is there once.
//!
//! What the rows are says [`rows`], the table and the statement [`schema`], what an error
//! means [`verdict`]. A statement that fails because of a row says not of which: the batch
//! is halved until the record that is to blame stands alone ([`halving`]).

mod config;
mod rows;
mod schema;
mod session;
mod tls;
mod verdict;

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{error::Elapsed, timeout};

use self::{rows::Columns, schema::Schema, session::Session, verdict::Verdict};
use super::{
    batch::Batch,
    destination::{Destination, Error, Limits, Outcomes},
    halving::{self, Post, Reply},
    refusals::Refusals,
};

pub use config::{Config, Layout, Server, Table};

/// How long the end waits for the server to hear of it.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Rows of large events find room where batches are small.
const ROWS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The PostgreSQL destination.
#[derive(Debug)]
pub(super) struct Postgres {
    config: Config,
    schema: Schema,
    session: tokio::sync::Mutex<Option<Session>>,
    refusals: Mutex<Refusals>,
}

impl Postgres {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self {
            schema: Schema::of(&config),
            config,
            session: tokio::sync::Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    /// What the rows of a statement take at most, about: measurements repeat what their
    /// event says once.
    fn rows_bytes_max(&self) -> usize {
        ROWS_BYTES_MAX.saturating_add(self.config.batch_bytes.saturating_mul(8))
    }

    /// Inserts it over the connection of before, or a new one.
    async fn insert(&self, part: &Batch) -> Result<Reply, Error> {
        let (items, layout) = (part.items.clone(), self.config.layout);
        let bytes_max = self.rows_bytes_max();
        // Rows are made of much JSON.
        let made = tokio::task::spawn_blocking(move || rows::of(&items, layout, bytes_max));
        let columns = match made.await {
            Ok(Ok(columns)) => columns,
            Ok(Err(error)) => return Ok(Reply::Refused(error.to_string())),
            Err(error) => return Err(Error::unavailable(format!("make rows: {error}"))),
        };
        let mut slot = self.session.lock().await;
        // Whatever ends this early leaves no connection behind that is in the middle of
        // something.
        let mut session = match slot.take() {
            Some(session) => session.alive().await,
            None => None,
        };
        let verdict = match self.insert_over(&mut session, &columns).await {
            Ok(()) => {
                *slot = session;
                return Ok(Reply::taken(part.items.len()));
            }
            Err(verdict) => verdict,
        };
        match verdict {
            Verdict::Refused(reason) => {
                // The statement was undone, and the connection is as good as before.
                *slot = session;
                Ok(Reply::Refused(reason))
            }
            // Undone as well. Half of it may be quick enough; a single record is not to blame.
            Verdict::Slow(reason) if part.items.len() > 1 => {
                *slot = session;
                Ok(Reply::Refused(reason))
            }
            Verdict::Misconfigured(reason) => Err(Error::Misconfigured(reason)),
            Verdict::Slow(reason) | Verdict::Unavailable(reason) => Err(Error::unavailable(reason)),
        }
    }
}

impl Postgres {
    /// Inserts rows over a connection, which is made where there is none. Each of the two has
    /// its time: what the server says of a statement that took too long comes sooner than
    /// that, however long connecting took.
    async fn insert_over(
        &self,
        session: &mut Option<Session>,
        columns: &Columns,
    ) -> Result<(), Verdict> {
        let session = match session {
            Some(session) => session,
            none => {
                let begun = Box::pin(Session::begin(&self.config, &self.schema));
                let begun = timeout(self.config.timeout, begun).await;
                none.insert(in_time(begun)?)
            }
        };
        let inserted = Box::pin(session.insert(self.schema.insert(), columns));
        in_time(timeout(self.config.timeout, inserted).await)
    }
}

fn in_time<T>(done: Result<Result<T, Verdict>, Elapsed>) -> Result<T, Verdict> {
    done.unwrap_or_else(|_| Err(Verdict::Unavailable("no answer in time".to_owned())))
}

impl Post for Postgres {
    async fn post(&self, part: &Batch) -> Result<Reply, Error> {
        self.insert(part).await
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // Nothing that holds the lock panics, so a poisoned one is as good.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Destination for Postgres {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self.config.batch_records.max(1),
            batch_bytes: self.config.batch_bytes.max(1),
            linger: self.config.linger,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(async move { halving::deliver(self, &batch).await })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if let Some(session) = self.session.lock().await.take()
                && timeout(CLOSE_WITHIN, session.end()).await.is_err()
            {
                tracing::debug!("the server did not hear in time that its connection ends");
            }
        })
    }
}

#[cfg(test)]
mod tests;
