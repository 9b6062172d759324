//! `JetStream`: publishes are pipelined, and every one waits for its acknowledgement.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{self, stream},
};
use bytes::Bytes;

use crate::{Args, TEMPLATES, Took, Watch};

/// Publishes without acknowledgement, at most: the gateway's own `in_flight`.
const IN_FLIGHT: usize = 1_000;

struct Template {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

pub(crate) async fn run(args: &Args) -> Result<Took> {
    let client = async_nats::connect(&args.server).await?;
    let context = jetstream::new(client);
    let templates = templates(&context, args).await?;
    let stream = stream::Config {
        name: args.to.clone(),
        subjects: vec![format!("{}.>", args.to)],
        duplicate_window: std::time::Duration::from_secs(600),
        ..stream::Config::default()
    };
    context.create_stream(stream).await?;
    let mut acks = VecDeque::with_capacity(IN_FLIGHT);
    let watch = Watch::start()?;
    for (id, template) in (0..args.count).zip(templates.iter().cycle()) {
        let mut headers = template.headers.clone();
        // As long as an idempotency key, and never the same.
        headers.insert(NATS_MESSAGE_ID, format!("{id:032x}").as_str());
        headers.insert(NATS_EXPECTED_STREAM, args.to.as_str());
        let (subject, payload) = (template.subject.clone(), template.payload.clone());
        let ack = context
            .publish_with_headers(subject, headers, payload)
            .await?;
        acks.push_back(ack);
        if acks.len() == IN_FLIGHT
            && let Some(first) = acks.pop_front()
        {
            first.await?;
        }
    }
    for ack in acks {
        ack.await?;
    }
    watch.stop()
}

async fn templates(context: &jetstream::Context, args: &Args) -> Result<Vec<Template>> {
    let from = context.get_stream(&args.from).await?;
    let mut templates = Vec::with_capacity(TEMPLATES);
    for sequence in (1..).take(TEMPLATES) {
        let message = from.get_raw_message(sequence).await?;
        let (_, rest) = message.subject.split_once('.').context("a subject")?;
        templates.push(Template {
            subject: format!("{}.{rest}", args.to),
            headers: message.headers,
            payload: message.payload,
        });
    }
    Ok(templates)
}
