//! A NATS JetStream stream.

use std::time::Duration;

use super::Secret;

/// How events are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Server addresses, such as `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// The stream that keeps the events.
    pub stream: String,
    /// The subject of an event; `{site}`, `{device}` and `{type}` are filled in.
    pub subject: String,
    /// Create the stream if it is missing.
    pub create_stream: bool,
    /// How long a created stream remembers message ids.
    pub duplicate_window: Duration,
    /// Where a created stream keeps its messages.
    pub storage: Storage,
    /// Copies that a created stream keeps.
    pub replicas: usize,
    /// Publishes without acknowledgement, at most.
    pub in_flight: usize,
    /// How long to wait for an acknowledgement.
    pub timeout: Duration,
    /// User name.
    pub user: Option<String>,
    /// Password that goes with the user name.
    pub password: Option<Secret>,
    /// Token, instead of user and password.
    pub token: Option<Secret>,
}

/// Where a stream keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory; gone when the server restarts.
    Memory,
}

impl Config {
    /// The configured defaults, publishing to `stream`.
    pub fn new(servers: Vec<String>, stream: impl Into<String>) -> Self {
        Self {
            servers,
            stream: stream.into(),
            subject: "telemetry.{site}.{device}.{type}".to_owned(),
            create_stream: true,
            duplicate_window: Duration::from_secs(600),
            storage: Storage::File,
            replicas: 1,
            in_flight: 1000,
            timeout: Duration::from_secs(10),
            user: None,
            password: None,
            token: None,
        }
    }
}

impl Config {
    pub(super) fn check(&self) -> Result<(), super::Error> {
        Ok(())
    }
}
pub(super) struct Nats;
impl Nats {
    pub(super) fn new(_: Config) -> Result<Self, super::Error> {
        Ok(Self)
    }
}
impl super::destination::Destination for Nats {
    fn limits(&self) -> super::destination::Limits {
        unimplemented!()
    }
    fn send(
        &self,
        _: super::batch::Batch,
    ) -> std::pin::Pin<Box<dyn Future<Output = super::destination::Outcomes> + Send + '_>> {
        unimplemented!()
    }
}
