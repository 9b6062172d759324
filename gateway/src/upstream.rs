//! Commands from a NATS JetStream stream.
//!
//! ```text
//! stream ─ durable consumer ─▶ Upstream ─▶ admission (as by MQTT) ─▶ journal
//!    ◀──────── acknowledged, only after the commit ────────────────────┘
//! ```
//!
//! A message becomes one on the topic of `[commands] orders`, and goes the way of those:
//! what is no command that may be is quarantined. It is the same command each time it
//! comes: its key is what its sender said (`Idempotency-Key`, `Nats-Msg-Id`), or else its
//! place in the stream. Messages are taken one after the other, in the order of the stream.

use std::{sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, pull},
    },
};
use futures_util::StreamExt as _;
use penstock_broker::{Admission, Client, Local, Properties, Publish, QoS, Verdict};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    event::message::KEY_PROPERTY,
    fleet::Topics,
    forward::nats::{self, Login},
    gateway_id::GatewayId,
    tls::Files,
};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Messages that the server sends before the first of them is acknowledged.
const IN_FLIGHT: i64 = 256;
/// After so long without an acknowledgement the server sends a message again.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// What stands for the device in a subject.
const DEVICE: &str = "{device}";

/// Where commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What it is called here.
    pub name: Arc<str>,
    /// Server addresses, such as `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The stream that has them.
    pub stream: String,
    /// Their subjects; with `{device}` as one token of it.
    pub subject: String,
    /// The name of our consumer there: what it was given is ours. Without one it has the
    /// name of this gateway, so that two of them do not share.
    pub consumer: Option<String>,
    /// Who we are.
    pub login: Login,
    /// Certificates; they count where a server's address begins with `tls://`.
    pub tls: Files,
}

/// What is wrong with a subject, if something is.
pub(crate) fn subject_objection(subject: &str) -> Option<&'static str> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let is_fine = tokens.iter().filter(|token| **token == DEVICE).count() == 1
        && tokens.iter().all(|token| {
            *token == DEVICE
                || !token.is_empty()
                    && !token.contains(['*', '>', '{', '}'])
                    && !token.contains(char::is_whitespace)
        });
    (!is_fine).then_some(
        "a subject of commands has {device} as one of its tokens, as \"orders.{device}\" has, \
         and no wildcards",
    )
}

/// Takes commands from a stream.
pub struct Upstream {
    config: Config,
    consumer: String,
    topics: Topics,
    client: Client,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.config.name)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Prepares; connects to nothing yet.
    pub fn new(
        config: Config,
        gateway: &GatewayId,
        topics: Topics,
        local: &Local,
        admission: Arc<dyn Admission>,
    ) -> Self {
        let client_id: Arc<str> = format!("upstream:{}", config.name).into();
        let origin = Some(config.name.clone());
        Self {
            client: local.client(admission, client_id, origin),
            consumer: config
                .consumer
                .clone()
                .unwrap_or_else(|| format!("penstock-{}", gateway.as_str())),
            topics,
            config,
        }
    }

    /// Connects, and connects again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
            let mut said = String::new();
            loop {
                let mut taken = 0_u64;
                let error = self.serve(&mut taken).await;
                if taken > 0 {
                    backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
                    said.clear();
                }
                if said != error {
                    tracing::warn!(upstream = %self.config.name, reason = %error, "no commands come from there");
                    said = error;
                }
                sleep(backoff.next_delay()).await;
            }
        })
        .await;
    }

    /// Takes commands until something is wrong, and says what.
    async fn serve(&self, taken: &mut u64) -> String {
        match Box::pin(self.take_all(taken)).await {
            Ok(()) => "the stream has ended".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    async fn take_all(
        &self,
        taken: &mut u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let config = &self.config;
        let is_tls = config
            .servers
            .iter()
            .any(|server| server.starts_with("tls://"));
        let options = nats::options(&config.login, is_tls.then_some(&config.tls))?;
        let client = options.connect(&config.servers[..]).await?;
        let stream = jetstream::new(client).get_stream(&config.stream).await?;
        // A stream that is made anew counts from the beginning.
        let made = stream.cached_info().created.unix_timestamp();
        let filter = config.subject.replace(DEVICE, "*");
        let ours = pull::Config {
            durable_name: Some(self.consumer.clone()),
            filter_subject: filter.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: IN_FLIGHT,
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&self.consumer, ours).await?;
        let theirs = &consumer.cached_info().config;
        if theirs.filter_subject != filter || theirs.ack_policy != AckPolicy::Explicit {
            let what = format!(
                "the consumer {} is another one: its filter is {:?}; give ours another name, or \
                 remove that one",
                self.consumer, theirs.filter_subject
            );
            return Err(what.into());
        }
        tracing::info!(upstream = %config.name, stream = %config.stream, "commands may come");
        let mut messages = consumer.messages().await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let sequence = message.info()?.stream_sequence;
            let place = format!("{}:{made}:{sequence}", config.name);
            let publish = self.publish(&message, place);
            match self.client.publish(vec![publish]).await[..] {
                // Whether it is on disk is not known: it comes again.
                [Verdict::Lost] | [] => return Err("the journal takes nothing".into()),
                _ => message.ack().await?,
            }
            *taken += 1;
        }
        Ok(())
    }

    /// The message as a client of this broker would send it.
    /// `place` is its key, where nobody gave it one.
    fn publish(&self, message: &jetstream::Message, place: String) -> Publish {
        let mut subject = message.subject.split('.');
        let token = self
            .config
            .subject
            .split('.')
            .position(|token| token == DEVICE);
        let device = token.and_then(|at| subject.nth(at)).unwrap_or_default();
        let said = message.headers.as_ref().and_then(said_key);
        let key = match said {
            Some(key) => Some(key),
            None if has_key(&message.payload) => None,
            None => Some(place),
        };
        let properties = Properties {
            user: key
                .map(|key| (KEY_PROPERTY.into(), key.into()))
                .into_iter()
                .collect(),
            ..Properties::default()
        };
        Publish {
            topic: self.topics.order(device).unwrap_or_default().into(),
            payload: message.payload.clone(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: Some(Arc::new(properties)),
            delivery: None,
        }
    }
}

/// Whether a command says its key itself.
fn has_key(payload: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Keyed {
        key: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Keyed>(payload).is_ok_and(|keyed| keyed.key.is_some())
}

/// The key that the sender of a message gave it.
fn said_key(headers: &HeaderMap) -> Option<String> {
    let said = ["Idempotency-Key", "Nats-Msg-Id"];
    let said = said.iter().find_map(|name| headers.get(*name))?;
    Some(said.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_the_device_as_a_token() {
        for (subject, fine) in [
            ("orders.{device}", true),
            ("site.{device}.orders", true),
            ("{device}", true),
            ("orders", false),
            ("orders.*", false),
            ("orders.x{device}", false),
            ("orders.{device}.>", false),
            ("orders..{device}", false),
            ("{device}.{device}", false),
        ] {
            assert_eq!(subject_objection(subject).is_none(), fine, "{subject}");
        }
    }
}
