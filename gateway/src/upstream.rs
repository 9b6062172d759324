//! Commands from a stream: of NATS `JetStream`, or a topic of Apache Kafka.
//!
//! ```text
//! stream ─ durable consumer ─▶ Upstream ─▶ admission (as by MQTT) ─▶ journal
//!    ◀──────── acknowledged, only after the commit ────────────────────┘
//! ```
//!
//! A message becomes one on the topic of `[commands] orders`, and goes the way of those:
//! what is no command that may be is quarantined. It is the same command each time it
//! comes: its key is what its sender said in a header, or in the message, or else its place
//! in the stream.

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use penstock_broker::{Admission, Client, Local, Properties, Publish, QoS, Verdict};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, event::message::KEY_PROPERTY, fleet::Topics, gateway_id::GatewayId};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why no commands come.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Where commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What it is called here.
    pub name: Arc<str>,
    /// What has them.
    pub source: Source,
}

/// What has commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A stream of NATS `JetStream`.
    #[cfg(feature = "nats")]
    Nats(Box<nats::Config>),
    /// A topic of Apache Kafka.
    #[cfg(feature = "kafka")]
    Kafka(Box<kafka::Config>),
}

/// Takes commands from a stream.
pub struct Upstream {
    name: Arc<str>,
    source: Source,
    gateway: String,
    topics: Topics,
    client: Client,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
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
            gateway: format!("penstock-{}", gateway.as_str()),
            topics,
            name: config.name,
            source: config.source,
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
                    tracing::warn!(upstream = %self.name, reason = %error, "no commands come from there");
                    said = error;
                }
                sleep(backoff.next_delay()).await;
            }
        })
        .await;
    }

    /// Takes commands until something is wrong, and says what.
    async fn serve(&self, taken: &mut u64) -> String {
        let ended = match &self.source {
            #[cfg(feature = "nats")]
            Source::Nats(config) => Box::pin(nats::take_all(self, config, taken)).await,
            #[cfg(feature = "kafka")]
            Source::Kafka(config) => Box::pin(kafka::take_all(self, config, taken)).await,
        };
        match ended {
            Ok(()) => "the stream has ended".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// The name under which a stream knows what was taken: one that was given, or that of
    /// this gateway, so that two of them do not share.
    fn ours(&self, given: Option<&str>) -> String {
        given.map_or_else(|| self.gateway.clone(), str::to_owned)
    }

    /// Resolves once a message is settled for good.
    ///
    /// # Errors
    /// Where it is not known whether it is on disk: it comes again.
    async fn settle(&self, publish: Publish) -> Result<(), Fault> {
        match self.client.publish(vec![publish]).await[..] {
            [Verdict::Lost] | [] => Err("the journal takes nothing".into()),
            _ => Ok(()),
        }
    }

    /// The message as a client of this broker would send it. `said` is the key that its
    /// sender gave it beside what it says, and `place` is its key where nobody did.
    fn order(&self, device: &str, payload: Bytes, said: Option<String>, place: String) -> Publish {
        let key = match said {
            Some(key) => Some(key),
            None if has_key(&payload) => None,
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
            payload,
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
