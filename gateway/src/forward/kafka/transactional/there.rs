//! Whether committed records of the topic have one that was written in a transaction.
//!
//! The transaction was ended before this is asked, so the answer does not change any more:
//! the record is among the committed ones, or what is read there is behind it.

use std::time::Duration;

use krafka::{
    ConsumerRecord, KrafkaError,
    consumer::{AutoOffsetReset, Consumer, IsolationLevel},
};
use tokio::time::{Instant, timeout};

use super::{super::Config, noted::Proof};
use crate::{
    event::message::KEY_PROPERTY,
    forward::{
        destination::Error,
        kafka::verdict::{self, Verdict},
    },
};

/// How long a question waits at most before it is looked how far the answers are.
const POLL: Duration = Duration::from_millis(500);
/// Bytes of an answer, about; a larger record comes by itself.
const FETCH_BYTES: i32 = 64 * 1024;

/// Whether the transaction of this record was committed. Where that cannot be known any
/// more, because the topic has dropped it since or is another one, it is said to be not.
///
/// # Errors
/// When there is no answer in time.
pub(super) async fn is_there(
    client: &krafka::Kafka,
    config: &Config,
    proof: &Proof,
) -> Result<bool, Error> {
    let asked = timeout(config.timeout, Box::pin(ask(client, config, proof))).await;
    let answered = match asked {
        Ok(answered) => answered,
        Err(_) => Ok(None),
    };
    match answered {
        Ok(Some(is_there)) => Ok(is_there),
        Ok(None) => Err(Error::unavailable(
            "whether the last transaction was committed is not known yet: the topic shows no \
             committed records as far as it came, perhaps while another producer's transaction \
             is open"
                .to_owned(),
        )),
        Err(error) if is_gone(&error, config, proof) => {
            tracing::warn!(
                topic = proof.topic,
                partition = proof.partition,
                offset = proof.offset,
                "the topic does not have the place of the last transaction any more: what it \
                 had goes again, and may be there twice"
            );
            Ok(false)
        }
        Err(error) => Err(match Verdict::of(&error) {
            Verdict::Misconfigured(reason) => Error::Misconfigured(format!(
                "whether the last transaction was committed cannot be read from the topic: {reason}"
            )),
            verdict => Error::unavailable(verdict.reason().to_owned()),
        }),
    }
}

/// Whether there is no such place any more: another topic is configured since, or this one
/// has dropped it.
fn is_gone(error: &KrafkaError, config: &Config, proof: &Proof) -> bool {
    matches!(error, KrafkaError::NoOffset { .. })
        || proof.topic != config.topic && verdict::is_unknown_topic(error)
}

/// `None` where the time is over.
async fn ask(
    client: &krafka::Kafka,
    config: &Config,
    proof: &Proof,
) -> Result<Option<bool>, KrafkaError> {
    let consumer = client
        .consumer_without_group()
        .isolation_level(IsolationLevel::ReadCommitted)
        .auto_offset_reset(AutoOffsetReset::None)
        .max_poll_records(1)
        .fetch_max_bytes(FETCH_BYTES)
        .max_partition_fetch_bytes(FETCH_BYTES)
        .metrics_push(false);
    let consumer = Box::pin(consumer.build()).await?;
    let answer = read(&consumer, config, proof).await;
    Box::pin(consumer.close()).await?;
    answer
}

async fn read(
    consumer: &Consumer,
    config: &Config,
    proof: &Proof,
) -> Result<Option<bool>, KrafkaError> {
    let (topic, partition) = (&proof.topic, proof.partition);
    let deadline = Instant::now() + config.timeout;
    Box::pin(consumer.assign(topic, vec![partition])).await?;
    consumer.seek(topic, partition, proof.offset).await?;
    while Instant::now() < deadline {
        let records = Box::pin(consumer.poll(POLL.min(config.timeout))).await?;
        if let Some(first) = records.first() {
            return Ok(Some(is_it(first, proof)));
        }
        // What is passed over is no committed record.
        let reached = consumer.fetch_position(topic, partition).await;
        if reached.is_some_and(|offset| offset > proof.offset) {
            return Ok(Some(false));
        }
    }
    Ok(None)
}

fn is_it(record: &ConsumerRecord, proof: &Proof) -> bool {
    let of_key = |(name, value): &(String, Option<bytes::Bytes>)| {
        let key = value.as_deref().unwrap_or_default();
        name == KEY_PROPERTY && key == proof.key.as_bytes()
    };
    record.offset == proof.offset && record.headers.iter().any(of_key)
}
