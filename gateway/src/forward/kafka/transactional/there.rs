//! Whether committed records of the topic have one that was written in a transaction.
//!
//! The transaction was ended before this is asked, so the answer does not change any more:
//! the record is among the committed ones, or what is read there is behind it.

use std::time::Duration;

use krafka::{
    ConsumerRecord, KrafkaError,
    consumer::{AutoOffsetReset, Consumer, IsolationLevel},
    producer::TransactionalProducer,
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
    producer: &TransactionalProducer,
    config: &Config,
    proof: &Proof,
) -> Result<bool, Error> {
    let asked = ask(client, producer, config, proof);
    let answered = match timeout(config.timeout * 2, Box::pin(asked)).await {
        Ok(answered) => answered,
        Err(_) => Err(KrafkaError::timeout("ask for the last transaction")),
    };
    let answer = answered.map_err(|error| match Verdict::of(&error) {
        Verdict::Misconfigured(reason) => Error::Misconfigured(format!("{CANNOT_READ}: {reason}")),
        verdict => Error::unavailable(verdict.reason().to_owned()),
    })?;
    match answer {
        Answer::There => Ok(true),
        Answer::NotThere => Ok(false),
        Answer::Gone => {
            tracing::warn!(
                topic = proof.topic,
                partition = proof.partition,
                offset = proof.offset,
                "the topic does not have the place of the last transaction any more: what it \
                 had goes again, and may be there twice"
            );
            Ok(false)
        }
        Answer::Hidden => Err(Error::unavailable(
            "whether the last transaction was committed is not known yet: another producer's \
             transaction is open in the topic"
                .to_owned(),
        )),
        Answer::Refused => Err(Error::Misconfigured(format!(
            "{CANNOT_READ}: is there a right to read `{}`?",
            proof.topic
        ))),
    }
}

const CANNOT_READ: &str =
    "whether the last transaction was committed cannot be read from the topic";

/// What is at the place.
enum Answer {
    There,
    NotThere,
    /// There is no such place any more.
    Gone,
    /// It is behind what is shown to those who read what is committed.
    Hidden,
    /// It is in front of that, and is not shown to us.
    Refused,
}

async fn ask(
    client: &krafka::Kafka,
    producer: &TransactionalProducer,
    config: &Config,
    proof: &Proof,
) -> Result<Answer, KrafkaError> {
    match Box::pin(producer.partitions_for(&proof.topic)).await {
        Ok(all) if all.iter().any(|one| one.partition == proof.partition) => {}
        Ok(_) => return Ok(Answer::Gone),
        // Another topic is configured since.
        Err(error) if proof.topic != config.topic && verdict::is_unknown_topic(&error) => {
            return Ok(Answer::Gone);
        }
        Err(error) => return Err(error),
    }
    let all = reader(client, IsolationLevel::ReadUncommitted).await?;
    let borders = borders(&all, proof).await;
    Box::pin(all.close()).await?;
    let (first, end) = borders?;
    // It was acknowledged by all in sync: below the end if it is there.
    if !(first..end).contains(&proof.offset) {
        return Ok(Answer::Gone);
    }
    let committed = reader(client, IsolationLevel::ReadCommitted).await?;
    let answer = read(&committed, config, proof).await;
    Box::pin(committed.close()).await?;
    answer
}

async fn reader(client: &krafka::Kafka, level: IsolationLevel) -> Result<Consumer, KrafkaError> {
    let settings = client
        .consumer_without_group()
        .isolation_level(level)
        .auto_offset_reset(AutoOffsetReset::None)
        .max_poll_records(1)
        .fetch_max_bytes(FETCH_BYTES)
        .max_partition_fetch_bytes(FETCH_BYTES)
        .metrics_push(false);
    Box::pin(settings.build()).await
}

/// The first offset that is shown, and the one behind the last.
async fn borders(consumer: &Consumer, proof: &Proof) -> Result<(i64, i64), KrafkaError> {
    Box::pin(consumer.fetch_watermarks(&proof.topic, proof.partition)).await
}

async fn read(consumer: &Consumer, config: &Config, proof: &Proof) -> Result<Answer, KrafkaError> {
    let (topic, partition) = (&proof.topic, proof.partition);
    let deadline = Instant::now() + config.timeout;
    Box::pin(consumer.assign(topic, vec![partition])).await?;
    consumer.seek(topic, partition, proof.offset).await?;
    while Instant::now() < deadline {
        let records = match Box::pin(consumer.poll(POLL.min(config.timeout))).await {
            Ok(records) => records,
            Err(KrafkaError::NoOffset { .. }) => return Ok(Answer::Gone),
            Err(error) => return Err(error),
        };
        if let Some(first) = records.first() {
            return Ok(match is_it(first, proof) {
                true => Answer::There,
                false => Answer::NotThere,
            });
        }
        // What is passed over is no committed record.
        let reached = consumer.fetch_position(topic, partition).await;
        if reached.is_some_and(|offset| offset > proof.offset) {
            return Ok(Answer::NotThere);
        }
    }
    let (_, end) = borders(consumer, proof).await?;
    Ok(match end > proof.offset {
        true => Answer::Refused,
        false => Answer::Hidden,
    })
}

fn is_it(record: &ConsumerRecord, proof: &Proof) -> bool {
    let of_key = |(name, value): &(String, Option<bytes::Bytes>)| {
        let key = value.as_deref().unwrap_or_default();
        name == KEY_PROPERTY && key == proof.key.as_bytes()
    };
    record.offset == proof.offset && record.headers.iter().any(of_key)
}
