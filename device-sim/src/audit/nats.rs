//! What arrived in a JetStream stream, in stream order, one message at a time.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, ReplayPolicy, pull},
};
use futures_util::StreamExt as _;

use super::{arrival::Arrival, ledger::Ledger};

/// A server that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often a consumer is asked for: a cluster that is choosing a leader does not answer,
/// not even once it has one.
const TRIES_MAX: u32 = 4;

/// Reads the stream up to the message that was its last when the reading began.
///
/// # Errors
/// When the server or the stream cannot be reached, or goes away in between.
pub(super) async fn read(url: &str, stream: &str, ledger: &mut Ledger) -> anyhow::Result<()> {
    let client = tokio::time::timeout(SILENCE_MAX, async_nats::connect(url))
        .await
        .context("the server does not answer")
        .and_then(|connected| connected.context("not connected"))
        .with_context(|| format!("NATS at {url}"))?;
    let mut source = jetstream::new(client)
        .get_stream(stream)
        .await
        .with_context(|| format!("stream {stream}"))?;
    let state = source
        .info()
        .await
        .with_context(|| format!("stream {stream}"))?
        .state
        .clone();
    if state.messages == 0 {
        return Ok(());
    }
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        replay_policy: ReplayPolicy::Instant,
        ..Default::default()
    };
    let mut tries = TRIES_MAX;
    let consumer = loop {
        tries -= 1;
        match source.create_consumer(config.clone()).await {
            Ok(consumer) => break consumer,
            Err(_) if tries > 0 => {}
            Err(error) => return Err(error).context("cannot read the stream"),
        }
    };
    let mut messages = consumer
        .messages()
        .await
        .context("cannot read the stream")?;
    let mut previous = 0;
    loop {
        let message = tokio::time::timeout(SILENCE_MAX, messages.next())
            .await
            .with_context(|| {
                format!(
                    "the stream is silent after message {previous} of {}",
                    state.last_sequence
                )
            })?;
        let Some(message) = message else {
            bail!(
                "the stream ended after message {previous} of {}",
                state.last_sequence
            );
        };
        let message = message.context("cannot read the stream")?;
        let sequence = message
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        ensure!(
            sequence > previous,
            "the server delivered message {sequence} after {previous}"
        );
        previous = sequence;
        match serde_json::from_slice::<Arrival<'_>>(&message.payload) {
            Ok(arrival) => {
                if arrival.identity(|id| ledger.arrived(id)).is_none() {
                    ledger.unidentified();
                }
            }
            Err(error) => ledger.unreadable(|| format!("message {sequence}: {error}")),
        }
        if sequence >= state.last_sequence {
            return Ok(());
        }
    }
}
