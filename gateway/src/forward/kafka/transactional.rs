//! A batch is a transaction, and a new start of the gateway makes no copy.
//!
//! A copy after a kill comes of a batch that was committed while our cursor was not. So
//! before a transaction is committed, what it has and where its last record is are written
//! down and synced ([`noted`]). At the next start, or with the next producer, the old
//! transaction is ended first: the coordinator does that when it is asked for the same
//! `transactional.id` (`InitProducerId`), and from then on nobody can end it in another way.
//! Then the topic is asked whether committed records have the one that was written down
//! ([`there`]): a transaction is whole, so one record tells of all of them. What was
//! committed is answered as taken when it comes again, and is not sent.
//!
//! A transaction is committed only when every record of it was taken. One that is refused
//! ends it: nothing of it is seen, and its halves go as transactions of their own until the
//! record to blame stands alone ([`halving`]).

mod noted;
mod there;

use std::{
    pin::Pin,
    sync::{Arc, Mutex as Lock, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use krafka::{
    CloseOptions, KrafkaError,
    error::ErrorCode,
    producer::{DeliveryHandle, TransactionState, TransactionalProducer},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use self::noted::{Noted, Proof};
use super::{
    CLOCK_UNSET, CLOSE_WITHIN, Config, Transactions, record,
    session::{self, Patience},
    verdict::Verdict,
};
use crate::{
    clock::Clock,
    forward::{
        batch::{Batch, Item},
        destination::{Destination, Error, Limits, Outcome, Outcomes},
        halving::{self, Post, Reply},
        refusals::Refusals,
    },
};

/// How long the coordinator keeps a transaction open, at least and at most: brokers allow a
/// quarter of an hour by default.
const OPEN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));
/// A transaction that begins right after another finds it not quite ended, and tries again
/// after so long.
const AGAIN: Duration = Duration::from_millis(10);
/// Why a transaction ended that had records of unknown places.
const NO_OFFSET: &str = "the brokers do not say where the records are";

/// The Kafka destination with transactions.
#[derive(Debug)]
pub(super) struct Transactional {
    config: Config,
    id: String,
    clock: Arc<dyn Clock>,
    line: Mutex<Line>,
    noted: Arc<Lock<Noted>>,
    refusals: Lock<Refusals>,
    /// When another producer last had this one's place.
    fenced: Lock<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Line {
    session: Option<Session>,
    patience: Patience,
}

#[derive(Debug)]
struct Session {
    client: krafka::Kafka,
    producer: TransactionalProducer,
}

/// Why a transaction was not committed.
#[derive(Debug)]
enum Failure {
    /// It was ended, or ends with its producer, for this reason.
    Ended(KrafkaError),
    /// It was ended by us.
    Waits(String),
    /// It may have been committed: known when the producer, or the next one, has asked.
    InDoubt(KrafkaError),
}

impl Transactional {
    pub(super) fn new(config: Config, transactions: Transactions, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            id: transactions.id,
            clock,
            line: Mutex::default(),
            noted: Arc::new(Lock::new(Noted::new(transactions.notes))),
            refusals: Lock::default(),
            fenced: Lock::default(),
        }
    }

    async fn deliver(&self, batch: Batch) -> Outcomes {
        if self.clock.now().is_unset() {
            return Err(Error::unavailable(CLOCK_UNSET.to_owned()));
        }
        self.ready().await?;
        let mut known: Vec<Option<Outcome>> = {
            let noted = lock(&self.noted);
            let of = |item| self.known(&noted, item);
            batch.items.iter().map(of).collect()
        };
        let open = batch.items.iter().zip(&known);
        let open: Vec<Item> = open
            .filter(|(_, known)| known.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        if !open.is_empty() {
            let rest = Batch { items: open.into() };
            let rest = halving::deliver(self, &rest).await?;
            let places = known.iter_mut().filter(|known| known.is_none());
            for (place, outcome) in places.zip(rest) {
                *place = Some(outcome);
            }
        }
        let outcomes: Vec<Outcome> = known.into_iter().flatten().collect();
        let taken = batch.items.iter().zip(&outcomes);
        let taken = taken.filter(|(_, outcome)| **outcome == Outcome::Acknowledged);
        lock(&self.noted).settled(taken.map(|(item, _)| item));
        Ok(outcomes)
    }

    /// What is known of an event without sending it.
    fn known(&self, noted: &Noted, item: &Item) -> Option<Outcome> {
        if noted.was_committed(item) {
            return Some(Outcome::Acknowledged);
        }
        self.config.too_large_event(item).map(Outcome::Permanent)
    }

    /// There is a producer, and no transaction of which it is not known whether it was
    /// committed.
    async fn ready(&self) -> Result<(), Error> {
        let mut line = self.line.lock().await;
        let Line { session, patience } = &mut *line;
        if let Some(of) = session
            && self.doubt().await?.is_some()
            && !self.commit_again(of).await?
        {
            end(session).await;
        }
        if session.is_some() {
            return Ok(());
        }
        let begun = self.begin(patience).await?;
        if let Some(proof) = self.doubt().await? {
            let Session { client, producer } = &begun;
            match there::is_there(client, producer, &self.config, &proof).await {
                Ok(was_committed) => lock(&self.noted).resolve(was_committed),
                // Nothing goes on until that is known.
                Err(error) => {
                    end(&mut Some(begun)).await;
                    return Err(error);
                }
            }
        }
        *session = Some(begun);
        Ok(())
    }

    /// Asks the coordinator once more to commit what it was asked to commit; whether the
    /// producer can say.
    async fn commit_again(&self, session: &Session) -> Result<bool, Error> {
        if session.producer.state() != TransactionState::CommitUnknown {
            return Ok(false);
        }
        match Box::pin(session.producer.commit()).await {
            Ok(()) => lock(&self.noted).resolve(true),
            Err(error)
                if session.producer.state() == TransactionState::CommitUnknown
                    && error.is_retriable() =>
            {
                return Err(in_doubt(&error));
            }
            // The next producer ends it, and looks what became of it.
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// A producer whose transactions of before are ended.
    async fn begin(&self, patience: &mut Patience) -> Result<Session, Error> {
        let config = &self.config;
        let begun = async {
            let client = Box::pin(session::client(config).connect()).await?;
            let settings = session::producer(&client, config)
                .delivery_timeout(config.timeout * 2)
                .transaction_timeout(self.open_max())
                .retry_backoff(AGAIN);
            let producer = Box::pin(settings.build_transactional(&self.id)).await?;
            Ok::<_, KrafkaError>(Session { client, producer })
        };
        let Ok(begun) = timeout(config.timeout, Box::pin(begun)).await else {
            return Err(Error::unavailable(session::NOT_IN_TIME.to_owned()));
        };
        let connected = async {
            let session = begun?;
            Box::pin(session.producer.partitions_for(&config.topic)).await?;
            Ok(session)
        };
        let session = Box::pin(connected)
            .await
            .map_err(|error| patience.not_begun(&error))?;
        patience.begun();
        Ok(session)
    }

    /// How long the coordinator keeps a transaction open.
    fn open_max(&self) -> Duration {
        (self.config.timeout * 3).clamp(OPEN.0, OPEN.1)
    }

    /// The transaction of which it is not known whether it was committed.
    async fn doubt(&self) -> Result<Option<Proof>, Error> {
        self.blocking(|noted| {
            noted.open()?;
            Ok(noted.doubt())
        })
        .await
    }

    /// Work that waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Noted) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let noted = self.noted.clone();
        match tokio::task::spawn_blocking(move || work(&mut lock(&noted))).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Error::unavailable(error.to_string())),
            Err(error) => Err(Error::unavailable(format!("note a transaction: {error}"))),
        }
    }

    /// One transaction: all of it or nothing.
    async fn transaction(&self, session: &Session, part: &Batch) -> Result<(), Failure> {
        let producer = &session.producer;
        producer.begin().map_err(Failure::Ended)?;
        let proof = match self.hand_over(producer, part).await {
            Ok(proof) => proof,
            Err(failure) => {
                return Err(match self.abort(producer).await {
                    // What brokers only refused the coordinator gives the reason for.
                    Err(error) if is_fenced(&error) => Failure::Ended(error),
                    _ => failure,
                });
            }
        };
        let batch = part.clone();
        let noted = self.blocking(move |noted| noted.write(&batch, proof)).await;
        if let Err(error) = noted {
            // What is not ended so the next producer ends.
            drop(self.abort(producer).await);
            return Err(Failure::Waits(error.to_string()));
        }
        match Box::pin(producer.commit()).await {
            Ok(()) => {
                lock(&self.noted).committed();
                Ok(())
            }
            Err(error) => match producer.state() {
                TransactionState::Open if self.abort(producer).await.is_ok() => {
                    lock(&self.noted).resolve(false);
                    Err(Failure::Ended(error))
                }
                TransactionState::CommitUnknown => Err(Failure::InDoubt(error)),
                // The next producer ends it, and looks what became of it.
                _ => Err(Failure::Ended(error)),
            },
        }
    }

    /// Sends all of it; where its last record is.
    async fn hand_over(
        &self,
        producer: &TransactionalProducer,
        part: &Batch,
    ) -> Result<Proof, Failure> {
        let deadline = Instant::now() + self.config.timeout;
        let mut handles = Vec::with_capacity(part.items.len());
        for record in record::of_events(&part.items, &self.config.topic) {
            match timeout_at(deadline, Box::pin(producer.enqueue(record))).await {
                Ok(Ok(handle)) => handles.push(handle),
                Ok(Err(error)) => return Err(worst(error, handles)),
                Err(_) => return Err(Failure::Waits("no room for records in time".to_owned())),
            }
        }
        // Only begun: the answers are waited for one by one.
        drop(producer.flush().now_or_never());
        let mut proof = None;
        let mut handles = handles.into_iter();
        for item in &*part.items {
            let Some(handle) = handles.next() else {
                break;
            };
            match timeout_at(deadline, handle).await {
                Ok(Ok(place)) => proof = Proof::of(item, &place).or(proof),
                Ok(Err(error)) => return Err(worst(error, handles)),
                Err(_) => return Err(Failure::Waits("no acknowledgement in time".to_owned())),
            }
        }
        proof.ok_or_else(|| Failure::Waits(NO_OFFSET.to_owned()))
    }

    /// Ends the transaction. Where that fails the producer has to be replaced, and the next
    /// one ends it.
    async fn abort(&self, producer: &TransactionalProducer) -> Result<(), KrafkaError> {
        match timeout(self.config.timeout, Box::pin(producer.abort())).await {
            Ok(ended) => ended,
            Err(_) => Err(KrafkaError::timeout("end a transaction")),
        }
    }

    /// What a failure means for the destination.
    fn failed(&self, failure: Failure) -> Result<Reply, Error> {
        let error = match failure {
            Failure::Waits(reason) => return Err(Error::unavailable(reason)),
            Failure::InDoubt(error) => return Err(in_doubt(&error)),
            Failure::Ended(error) => error,
        };
        if is_fenced(&error) {
            // Once says little: the coordinator also ends what is open for too long by the
            // same means, and forgets who was quiet for days.
            let before = lock(&self.fenced).replace(Instant::now());
            if before.is_none_or(|at| at.elapsed() > self.open_max()) {
                return Err(Error::unavailable(error.to_string()));
            }
            return Err(Error::Misconfigured(format!(
                "another producer has taken the transactional id `{}`: does a second gateway \
                 run with a copy of this one's data? ({error})",
                self.id
            )));
        }
        match Verdict::of(&error) {
            Verdict::Blame(reason) | Verdict::TooLarge(reason) => Ok(Reply::Refused(reason)),
            Verdict::Misconfigured(reason) => Err(Error::Misconfigured(reason)),
            verdict => Err(Error::unavailable(verdict.reason().to_owned())),
        }
    }
}

impl Post for Transactional {
    async fn post(&self, part: &Batch) -> Result<Reply, Error> {
        let mut line = self.line.lock().await;
        let Some(session) = &line.session else {
            return Err(Error::unavailable("no producer".to_owned()));
        };
        let done = Box::pin(self.transaction(session, part)).await;
        if session.producer.state() != TransactionState::Ready
            && session.producer.state() != TransactionState::CommitUnknown
        {
            end(&mut line.session).await;
        }
        match done {
            Ok(()) => Ok(Reply::taken(part.items.len())),
            Err(failure) => self.failed(failure),
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        lock(&self.refusals)
    }
}

impl Destination for Transactional {
    fn limits(&self) -> Limits {
        self.config.limits()
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let mut line = self.line.lock().await;
            end(&mut line.session).await;
        })
    }
}

/// This session is over; the next one ends what it left open.
async fn end(session: &mut Option<Session>) {
    if let Some(session) = session.take() {
        let within = CloseOptions::new().timeout(CLOSE_WITHIN);
        if let Err(error) = Box::pin(session.producer.close_with(within)).await {
            tracing::debug!(%error, "the producer did not end in order");
        }
    }
}

/// The first failure, or one that says more: when one record fails, the others of its
/// transaction fail for that alone.
fn worst(first: KrafkaError, others: impl IntoIterator<Item = DeliveryHandle>) -> Failure {
    let known = others.into_iter().filter_map(|one| one.now_or_never());
    let mut worst = first;
    for error in known.filter_map(Result::err) {
        if rank(&error) > rank(&worst) {
            worst = error;
        }
    }
    Failure::Ended(worst)
}

fn rank(error: &KrafkaError) -> u8 {
    match Verdict::of(error) {
        _ if is_fenced(error) => 2,
        Verdict::Kept | Verdict::Open(_) | Verdict::Lost(_) => 0,
        Verdict::Misconfigured(_) => 1,
        Verdict::Blame(_) | Verdict::TooLarge(_) => 3,
    }
}

/// Whether a producer that came later has this one's place.
const fn is_fenced(error: &KrafkaError) -> bool {
    matches!(
        error,
        KrafkaError::Fenced { .. }
            | KrafkaError::Broker {
                code: ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch,
                ..
            }
    )
}

fn in_doubt(error: &KrafkaError) -> Error {
    Error::unavailable(format!(
        "whether the last transaction was committed is asked again: {error}"
    ))
}

/// Nothing that holds these locks panics, so a poisoned one is as good.
fn lock<T>(mutex: &Lock<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
