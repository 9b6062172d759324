//! Kafka: an idempotent producer with the settings of the gateway's, and everything handed
//! over as soon as there is room.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context as _, Result, ensure};
use krafka::{
    Compression, Kafka, Record,
    consumer::{AutoOffsetReset, IsolationLevel},
};

use crate::{Args, TEMPLATES, Took, Watch};

/// As the gateway has them by default.
const BATCH_BYTES: usize = 900 * 1024;
const REQUEST_BYTES: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// Records without answer, at most: more than there is room for in the buffer.
const IN_FLIGHT: usize = 100_000;

pub(crate) async fn run(args: &Args) -> Result<Took> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Box::pin(Kafka::builder(&args.server).connect()).await?;
    let templates = templates(&client, args).await?;
    let producer = client
        .producer()
        .compression(Compression::Lz4)
        .batch_size(BATCH_BYTES)
        .max_request_size(REQUEST_BYTES)
        .buffer_memory(BUFFER_BYTES)
        .metrics_push(false);
    let producer = Box::pin(producer.build()).await?;
    Box::pin(producer.partitions_for(&args.to)).await?;
    let mut answers = VecDeque::new();
    let watch = Watch::start()?;
    for (_, template) in (0..args.count).zip(templates.iter().cycle()) {
        answers.push_back(producer.enqueue(template.clone()).await?);
        if answers.len() == IN_FLIGHT
            && let Some(first) = answers.pop_front()
        {
            drop(first.await?);
        }
    }
    Box::pin(producer.flush()).await?;
    for answer in answers {
        drop(answer.await?);
    }
    let took = watch.stop()?;
    Box::pin(producer.close()).await?;
    Ok(took)
}

async fn templates(client: &Kafka, args: &Args) -> Result<Vec<Record>> {
    let consumer = client
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadCommitted);
    let consumer = Box::pin(consumer.build()).await?;
    Box::pin(consumer.subscribe([&args.from])).await?;
    let mut templates = Vec::with_capacity(TEMPLATES);
    while templates.len() < TEMPLATES {
        let found = Box::pin(consumer.poll(Duration::from_secs(10))).await?;
        ensure!(!found.is_empty(), "the topic has too few records");
        for record in found {
            let value = record.value.context("a record has a value")?;
            let mut copy = Record::new(&args.to, value).key(record.key.context("and a key")?);
            copy.headers = record.headers;
            templates.push(copy);
        }
    }
    Box::pin(consumer.close()).await?;
    Ok(templates)
}
