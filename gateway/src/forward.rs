//! The way out: one task per destination reads after its cursor, sends, and
//! records what was settled.
//!
//! A cursor passes only records that are settled: acknowledged by the
//! destination, waiting in the journal's retry list, or a dead letter. Whatever
//! dies in between is sent again, under the same idempotency keys. Records with
//! the same partition key leave in the order in which they were committed.
//! Nothing here knows how events come in.

mod adapt;
#[cfg(any(feature = "aws-requests", feature = "kafka"))]
mod ahead;
#[cfg(feature = "aws")]
pub mod aws;
pub mod batch;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod breaker;
pub mod destination;
#[cfg(test)]
mod docs;
mod engine;
#[cfg(feature = "eventbridge")]
pub mod eventbridge;
pub mod file;
mod flight;
pub mod format;
#[cfg(any(feature = "http", feature = "kafka", feature = "postgres"))]
mod halving;
#[cfg(feature = "http")]
pub mod http;
pub mod journal;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kinesis")]
pub mod kinesis;
mod load;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(any(feature = "kafka", feature = "s3"))]
mod notes;
#[cfg(feature = "opensearch")]
pub mod opensearch;
pub mod pace;
mod pending;
pub mod place;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(
    feature = "aws-requests",
    feature = "http",
    feature = "kafka",
    feature = "mqtt",
    feature = "postgres"
))]
mod refusals;
mod repair;
#[cfg(feature = "s3")]
pub mod s3;
mod secret;
#[cfg(feature = "sns")]
pub mod sns;
#[cfg(feature = "sqs")]
pub mod sqs;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod waiting;
mod window;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use self::{destination::Destination, engine::Engine, place::Place};
use crate::{
    boots::Boots,
    class::Classes,
    clock::Clock,
    event::Timestamp,
    record::{DestinationId, LIVE, URGENT},
    store,
};

#[cfg(any(feature = "kafka", feature = "mqtt"))]
use crate::gateway_id::GatewayId;

pub use place::Way;
use repair::Repairing;
pub use secret::Secret;
pub use status::{Handle, State, Status, Waits};

/// One destination as configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name; the journal keeps its cursor under it.
    pub name: Arc<str>,
    /// Where events go.
    pub kind: Kind,
    /// Delay after the first failure; doubles from there.
    pub retry_first: Duration,
    /// Longest delay between attempts.
    pub retry_max: Duration,
    /// Attempts at a record that fails by itself before it becomes a dead letter.
    pub attempts_max: u32,
    /// What it gets first, where the journal does not know it yet.
    pub start: Start,
    /// How fast it is fed, and when.
    pub pacing: pace::Config,
    /// What of it goes by a lane whatever budget and hours say.
    pub urgent: Classes,
    /// What comes goes by a lane of its own while what has waited goes out.
    pub live: Option<Live>,
    /// Whose lane it is; it has `urgent` or `live` from there, by which it is one.
    pub lane_of: Option<Arc<str>>,
}

/// A lane for what comes while what has waited goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Of a hundred bytes that go out, how many are its own while the rest has some to send,
    /// too.
    pub share: u8,
    /// How far behind the rest is then.
    pub after: Duration,
}

impl Live {
    /// `live_after` where not configured.
    pub const AFTER: Duration = Duration::from_secs(30);
}

/// Forgets what a destination of this name has written down below `data_dir` about what it
/// sent: one that is made anew under the same name has sent nothing. Before the journal
/// forgets it, so that no crash in between leaves it to another. Blocking.
///
/// # Errors
/// When it cannot be deleted.
pub fn forget_notes(data_dir: &Path, name: &str) -> std::io::Result<()> {
    match std::fs::remove_dir_all(notes_of_kafka(data_dir, name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a destination with transactions has them, whether or not this build has it.
pub(crate) fn notes_of_kafka(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("kafka").join(name)
}

/// What a new destination gets first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// What comes from now on.
    #[default]
    Now,
    /// The oldest event that is kept.
    Oldest,
    /// The oldest that is kept and was received at this instant or later.
    Since(Timestamp),
}

impl Config {
    /// `retry_first` where not configured.
    pub const RETRY_FIRST: Duration = Duration::from_millis(200);
    /// `retry_max` where not configured.
    pub const RETRY_MAX: Duration = Duration::from_secs(30);
    /// `attempts_max` where not configured.
    pub const ATTEMPTS_MAX: u32 = 20;

    /// Its lanes, each a destination of its own at the same place: for what is urgent, for
    /// which neither the budget nor the hours count, and for what comes while the rest is
    /// behind.
    pub fn lanes(&self) -> Vec<Self> {
        let urgent = (self.urgent != Classes::NONE).then(|| Self {
            live: None,
            pacing: self.pacing.without_hours(),
            ..self.lane(URGENT)
        });
        let live = self.live.map(|_| Self {
            urgent: Classes::NONE,
            ..self.lane(LIVE)
        });
        match self.lane_of {
            Some(_) => Vec::new(),
            None => urgent.into_iter().chain(live).collect(),
        }
    }

    fn lane(&self, end: &str) -> Self {
        let mut lane = Self {
            name: format!("{}{end}", self.name).into(),
            lane_of: Some(self.name.clone()),
            ..self.clone()
        };
        // What one writes down of what it sent is not for another.
        let name = &*lane.name;
        match &mut lane.kind {
            #[cfg(feature = "kafka")]
            Kind::Kafka(config) => {
                if let Some(one) = &mut config.transactions {
                    one.notes.set_file_name(name);
                }
            }
            #[cfg(feature = "s3")]
            Kind::S3(config) => config.plans.set_file_name(name),
            _ => {}
        }
        lane
    }

    /// The place where it is, by the name that the configuration has for it.
    pub const fn place(&self) -> &Arc<str> {
        match &self.lane_of {
            Some(of) => of,
            None => &self.name,
        }
    }

    /// Which way to its place it is.
    pub const fn way(&self) -> Way {
        match (&self.lane_of, &self.live) {
            (None, _) => Way::Rest,
            (Some(_), Some(_)) => Way::Live,
            (Some(_), None) => Way::Urgent,
        }
    }

    /// The same, knowing who this gateway is.
    #[must_use]
    #[cfg(any(feature = "kafka", feature = "mqtt"))]
    pub fn of_gateway(mut self, gateway: &GatewayId) -> Self {
        match &mut self.kind {
            #[cfg(feature = "kafka")]
            Kind::Kafka(config) => {
                let id = gateway.client_id("kafka", &self.name);
                config.transactions = config.transactions.take().map(|one| one.known_as(id));
            }
            #[cfg(feature = "mqtt")]
            Kind::Mqtt(config) => config.gateway = Some(gateway.clone()),
            _ => {}
        }
        self
    }

    /// Says what cannot work, without touching anything outside.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::File(_) => Ok(()),
            #[cfg(feature = "http")]
            Kind::Http(config) => config.check(),
            #[cfg(feature = "kafka")]
            Kind::Kafka(config) => config.check(),
            #[cfg(feature = "kinesis")]
            Kind::Kinesis(config) => config.check(),
            #[cfg(feature = "sqs")]
            Kind::Sqs(config) => config.check(),
            #[cfg(feature = "sns")]
            Kind::Sns(config) => config.check(),
            #[cfg(feature = "eventbridge")]
            Kind::EventBridge(config) => config.check(),
            #[cfg(feature = "s3")]
            Kind::S3(config) => config.check(),
            #[cfg(feature = "nats")]
            Kind::Nats(config) => config.check(),
            #[cfg(feature = "mqtt")]
            Kind::Mqtt(config) => config.check(),
            #[cfg(feature = "opensearch")]
            Kind::OpenSearch(config) => config.check(),
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => config.check(),
        }
    }

    /// Whether it gets messages as they came, and so each message once.
    pub const fn sends_originals(&self) -> bool {
        match &self.kind {
            #[cfg(feature = "mqtt")]
            Kind::Mqtt(config) => matches!(config.payload, mqtt::Payload::Original),
            _ => false,
        }
    }

    /// Says what cannot be set up, beyond what [`check`](Self::check) says: files of
    /// certificates that cannot be read, for example.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn try_out(&self, clock: &Arc<dyn Clock>) -> Result<(), Error> {
        self.destination(clock).map(drop)
    }

    fn destination(&self, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Destination>, Error> {
        Ok(match &self.kind {
            Kind::File(config) => Arc::new(file::File::new(config.clone(), clock.clone())),
            #[cfg(feature = "http")]
            Kind::Http(config) => Arc::new(http::Http::new((**config).clone(), clock.clone())?),
            #[cfg(feature = "kafka")]
            Kind::Kafka(config) => kafka::destination(config.clone(), clock.clone())?,
            #[cfg(feature = "kinesis")]
            Kind::Kinesis(config) => Arc::new(kinesis::Kinesis::new(config.clone())?),
            #[cfg(feature = "sqs")]
            Kind::Sqs(config) => Arc::new(sqs::Sqs::new(config.clone())?),
            #[cfg(feature = "sns")]
            Kind::Sns(config) => Arc::new(sns::Sns::new(config.clone())?),
            #[cfg(feature = "eventbridge")]
            Kind::EventBridge(config) => Arc::new(eventbridge::EventBridge::new(config.clone())?),
            #[cfg(feature = "s3")]
            Kind::S3(config) => Arc::new(s3::S3::new((**config).clone(), clock.clone())?),
            #[cfg(feature = "nats")]
            Kind::Nats(config) => Arc::new(nats::Nats::new(config.clone(), self.retry_max)?),
            #[cfg(feature = "mqtt")]
            Kind::Mqtt(config) => Arc::new(mqtt::Mqtt::new(self.name.clone(), config.clone())?),
            #[cfg(feature = "opensearch")]
            Kind::OpenSearch(config) => Arc::new(opensearch::OpenSearch::new(
                (**config).clone(),
                clock.clone(),
            )?),
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => Arc::new(postgres::Postgres::new(config.clone())?),
        })
    }
}

/// Where events go.
#[derive(Debug, Clone)]
pub enum Kind {
    /// NDJSON files in a directory.
    File(file::Config),
    /// An HTTP endpoint.
    #[cfg(feature = "http")]
    Http(Box<http::Config>),
    /// A topic of Apache Kafka.
    #[cfg(feature = "kafka")]
    Kafka(kafka::Config),
    /// An Amazon Kinesis data stream.
    #[cfg(feature = "kinesis")]
    Kinesis(kinesis::Config),
    /// An Amazon SQS queue.
    #[cfg(feature = "sqs")]
    Sqs(sqs::Config),
    /// An Amazon SNS topic.
    #[cfg(feature = "sns")]
    Sns(sns::Config),
    /// An Amazon EventBridge event bus.
    #[cfg(feature = "eventbridge")]
    EventBridge(eventbridge::Config),
    /// Objects in a bucket of Amazon S3, or of a server like it.
    #[cfg(feature = "s3")]
    S3(Box<s3::Config>),
    /// A NATS JetStream stream.
    #[cfg(feature = "nats")]
    Nats(nats::Config),
    /// Another MQTT broker.
    #[cfg(feature = "mqtt")]
    Mqtt(mqtt::Config),
    /// Indices of OpenSearch or Elasticsearch.
    #[cfg(feature = "opensearch")]
    OpenSearch(Box<opensearch::Config>),
    /// A table of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(postgres::Config),
}

impl Kind {
    /// How long a batch may wait to fill.
    pub const fn linger(&self) -> Duration {
        match self {
            Self::File(_) => Duration::ZERO,
            #[cfg(feature = "http")]
            Self::Http(config) => config.linger,
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => config.linger,
            #[cfg(feature = "kinesis")]
            Self::Kinesis(config) => config.linger,
            #[cfg(feature = "sqs")]
            Self::Sqs(config) => config.batching.linger,
            #[cfg(feature = "sns")]
            Self::Sns(config) => config.batching.linger,
            #[cfg(feature = "eventbridge")]
            Self::EventBridge(config) => config.batching.linger,
            #[cfg(feature = "s3")]
            Self::S3(config) => config.linger,
            #[cfg(feature = "nats")]
            Self::Nats(_) => Duration::ZERO,
            #[cfg(feature = "mqtt")]
            Self::Mqtt(_) => Duration::ZERO,
            #[cfg(feature = "opensearch")]
            Self::OpenSearch(config) => config.http.linger,
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => config.linger,
        }
    }
}

/// Why forwarding to a destination ended, or cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal takes no more progress.
    #[error(transparent)]
    Stopped(#[from] store::Stopped),
    /// The journal's reader died.
    #[error("read the journal: {0}")]
    Reader(String),
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
}

/// A destination with all that it needs and that may be missing: what is left is to say
/// where it stands.
pub struct Made {
    config: Config,
    destination: Arc<dyn Destination>,
    pages: store::Reader,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Made").field(&self.config.name).finish()
    }
}

impl Made {
    /// Makes it. Connects to nothing yet: a destination that is away does not keep the
    /// gateway from starting.
    ///
    /// # Errors
    /// When the configuration cannot work, or the journal cannot be read.
    pub fn new(
        config: &Config,
        journal: &store::Handle,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let pages = journal.reader();
        Ok(Self {
            destination: config.destination(clock)?,
            pages: pages.map_err(|error| Error::Reader(error.to_string()))?,
            config: config.clone(),
        })
    }

    /// Its name.
    pub const fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Where it is: see [`Config::place`].
    pub const fn place(&self) -> &Arc<str> {
        self.config.place()
    }
}

/// Delivers the records of one destination.
pub struct Forwarder {
    engine: Engine<store::Handle, Repairing<store::Reader>>,
    id: DestinationId,
    journal: store::Handle,
    handle: Handle,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Prepares delivery of what the journal has for it, to a place that others may lead to.
    pub fn new(
        made: Made,
        known: &store::DestinationStatus,
        place: &Arc<Place>,
        journal: store::Handle,
        boots: Arc<Boots>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let handle = Handle::default();
        let Made {
            config,
            destination,
            pages,
        } = made;
        let (id, cursor) = (known.id, known.cursor);
        let engine = Engine::new(engine::Parts {
            at: place.join(&config, id, known.spent),
            name: config.name,
            id,
            cursor,
            destination,
            retrying: engine::Retrying {
                first: config.retry_first,
                max: config.retry_max,
                attempts_max: config.attempts_max,
            },
            journal: Arc::new(journal.clone()),
            pages: Repairing { pages, boots },
            clock,
            status: handle.clone(),
            mode: handle.mode(),
            pacing: config.pacing,
        });
        Self {
            engine,
            id,
            journal,
            handle,
        }
    }

    /// Tells where the destination stands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Bounds the end after a shutdown, where ten seconds would be too long: what
    /// is in flight gets half of it, then progress is recorded and the
    /// destination closed. Leave some of the whole grace period to others.
    #[must_use]
    pub fn end_within(mut self, end_max: Duration) -> Self {
        self.engine.end_within(end_max.min(engine::END_MAX));
        self
    }

    /// Delivers until `shutdown`; then lets what is in flight land, for a few
    /// seconds at most, and records what was settled.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        // A new one is given first what it gets of what is kept.
        let filled = shutdown.run_until_cancelled(self.journal.filled(self.id));
        match filled.await {
            None => return Ok(()),
            Some(None) => return Err(store::Stopped.into()),
            Some(Some((cursor, spent))) => self.engine.begin_at(cursor, spent),
        }
        self.engine.run(shutdown).await
    }
}
