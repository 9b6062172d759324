//! Commands from a topic of Apache Kafka.
//!
//! A record is a command for the device that its key names. Records of a partition are taken
//! in their order, one after the other, and how far that is goes to the consumer group after
//! they are settled here: what comes again after a crash is known by its key.

use std::{collections::BTreeMap, time::Duration};

use krafka::{
    KafkaBuilder,
    consumer::{
        AutoOffsetReset, Consumer, ConsumerRecord, IsolationLevel, OffsetAndMetadata,
        TopicPartition,
    },
};
use penstock_broker::Publish;

use super::{Fault, Upstream};
use crate::forward::kafka::{Login, Tls, security};

/// Records that are taken before it is said how far that is.
const RECORDS_MAX: i32 = 256;
/// Bytes of one answer, and of one partition in it; one larger record comes alone.
const FETCH_BYTES: i32 = 1 << 20;
/// Bytes that a compressed batch may come to.
const INFLATED_BYTES_MAX: usize = 16 << 20;
/// How long a broker may wait for records before it answers that there are none.
const WAIT: Duration = Duration::from_secs(5);
/// For an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// For connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The header with the key that the sender gave a command; in any case.
const KEY_HEADER: &str = "idempotency-key";
/// A device that nobody has: a record without a key is for it.
const NOBODY: &str = ".";

/// Where such commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HOST:PORT` of brokers that tell where the others are.
    pub brokers: Vec<String>,
    /// The topic that has them.
    pub topic: String,
    /// The consumer group: what it was given is ours. Without one it has the name of this
    /// gateway, so that two of them do not share.
    pub group: Option<String>,
    /// Encrypts, if it is there.
    pub tls: Option<Tls>,
    /// Who we are, if anybody asks.
    pub login: Option<Login>,
}

/// Takes commands until something is wrong.
pub(super) async fn take_all(
    upstream: &Upstream,
    config: &Config,
    taken: &mut u64,
) -> Result<(), Fault> {
    let consumer = connect(upstream, config).await?;
    // A topic that is made anew counts from the beginning.
    let id = topic_id(&consumer, config).await?;
    let made = uuid::Uuid::from_bytes(id).simple();
    consumer.subscribe([&config.topic]).await?;
    tracing::info!(upstream = %upstream.name, topic = %config.topic, "commands may come");
    loop {
        let records = consumer.poll(WAIT).await?;
        if !records.is_empty() && topic_id(&consumer, config).await? != id {
            return Err("the topic was made anew".into());
        }
        let mut done = BTreeMap::new();
        for record in &records {
            let place = format!(
                "{}:{made}:{}:{}",
                upstream.name, record.partition, record.offset
            );
            upstream.settle(publish(upstream, record, place)).await?;
            done.insert(record.partition, (record.offset + 1, record.leader_epoch));
            *taken += 1;
        }
        if done.is_empty() {
            continue;
        }
        let offsets = done.into_iter().map(|(partition, (offset, epoch))| {
            let next = match epoch {
                Some(epoch) => OffsetAndMetadata::with_epoch(offset, epoch),
                None => OffsetAndMetadata::new(offset),
            };
            (TopicPartition::new(config.topic.clone(), partition), next)
        });
        consumer.commit_offsets(offsets).await?;
    }
}

/// What tells the topic from one of its name that was there before.
async fn topic_id(consumer: &Consumer, config: &Config) -> Result<[u8; 16], Fault> {
    let known = consumer.fetch_metadata(Some(&config.topic)).await?;
    let topic = known.topics.into_iter().next();
    let topic = topic.ok_or_else(|| format!("there is no topic {:?}", config.topic))?;
    Ok(topic.topic_id)
}

async fn connect(upstream: &Upstream, config: &Config) -> Result<Consumer, Fault> {
    let mut client: KafkaBuilder = krafka::Kafka::builder(config.brokers.join(","))
        .client_id(&*upstream.gateway)
        .request_timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .allow_auto_create_topics(false);
    if let Some(known) = security::of(config.tls.as_ref(), config.login.as_ref()) {
        client = client.security(known);
    }
    let client = Box::pin(client.connect()).await?;
    let consumer = client
        .consumer(upstream.ours(config.group.as_deref()))
        // Whoever comes back after a crash is not waited for first.
        .group_instance_id(format!("{}-{}", upstream.gateway, upstream.name))
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(RECORDS_MAX)
        .max_buffered_records(RECORDS_MAX)
        .fetch_max_bytes(FETCH_BYTES)
        .max_partition_fetch_bytes(FETCH_BYTES)
        .max_decompressed_size(INFLATED_BYTES_MAX)
        .fetch_max_wait(WAIT)
        .metrics_push(false);
    Ok(Box::pin(consumer.build()).await?)
}

/// `place` is its key, where nobody gave it one.
fn publish(upstream: &Upstream, record: &ConsumerRecord, place: String) -> Publish {
    let device = record
        .key
        .as_deref()
        .and_then(|key| str::from_utf8(key).ok());
    let device = device.filter(|device| !device.is_empty());
    let mut headers = record.headers.iter();
    let said = headers.find(|(name, _)| name.eq_ignore_ascii_case(KEY_HEADER));
    let said = said.and_then(|(_, value)| String::from_utf8(value.as_ref()?.to_vec()).ok());
    let payload = record.value.clone().unwrap_or_default();
    upstream.order(device.unwrap_or(NOBODY), payload, said, place)
}
