//! How a producer begins, and what it means when it does not.

use std::time::Duration;

use krafka::{KafkaBuilder, KrafkaError, producer::ProducerBuilder};
use tokio::time::Instant;

use super::{Config, security, verdict, verdict::Verdict};
use crate::forward::destination::Error;

/// What the producer holds at most. A batch of large records finds room too.
const BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// How long a topic may be unknown before somebody has to make it: brokers that have just
/// started do not know all of theirs.
pub(super) const NO_TOPIC_PATIENCE: Duration = Duration::from_secs(60);
/// Why there is no producer yet.
pub(super) const NOT_IN_TIME: &str = "the brokers did not let a producer begin in time";

/// A client of these brokers, not connected yet.
pub(super) fn client(config: &Config) -> KafkaBuilder {
    let client = krafka::Kafka::builder(config.brokers.join(","))
        .client_id(&config.client_id)
        .request_timeout(config.timeout)
        .connect_timeout(config.connect_timeout);
    match security::of(config.tls.as_ref(), config.login.as_ref()) {
        Some(security) => client.security(security),
        None => client,
    }
}

/// What every producer of ours is like.
pub(super) fn producer(client: &krafka::Kafka, config: &Config) -> ProducerBuilder {
    client
        .producer()
        .compression(config.compression)
        .batch_size(config.batch_bytes)
        .max_request_size(config.request_bytes_max())
        // It is flushed when all that goes together was handed over.
        .linger(config.timeout)
        .buffer_memory(BUFFER_BYTES)
        .max_block(config.timeout)
        .metrics_push(false)
}

/// Since when no broker has known the topic.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// It began.
    pub(super) const fn begun(&mut self) {
        self.since = None;
    }

    /// It did not; what that means.
    pub(super) fn not_begun(&mut self, error: &KrafkaError) -> Error {
        let is_unknown = verdict::is_unknown_topic(error);
        self.since = is_unknown.then(|| self.since.unwrap_or_else(Instant::now));
        let is_patient = self
            .since
            .is_some_and(|since| since.elapsed() < NO_TOPIC_PATIENCE);
        match Verdict::of(error) {
            verdict if is_patient => Error::unavailable(verdict.reason().to_owned()),
            Verdict::Misconfigured(reason) | Verdict::Blame(reason) => Error::Misconfigured(reason),
            verdict => Error::unavailable(verdict.reason().to_owned()),
        }
    }
}
