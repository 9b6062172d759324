//! An HTTP endpoint that takes `CloudEvents` batches.

use std::time::Duration;

use super::Secret;

/// How batches are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to.
    pub url: String,
    /// Compress bodies.
    pub gzip: bool,
    /// From connecting to the last byte of the reply.
    pub timeout: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
    /// Records in a batch, at most.
    pub batch_records: usize,
    /// Bytes of stored records in a batch, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// Headers added to every request.
    pub headers: Vec<(String, Secret)>,
}

impl Config {
    /// The configured defaults, posting to `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            gzip: true,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            batch_records: 500,
            batch_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            headers: Vec::new(),
        }
    }
}

impl Config {
    pub(super) fn check(&self) -> Result<(), super::Error> {
        Ok(())
    }
}
pub(super) struct Http;
impl Http {
    pub(super) fn new(_: Config) -> Result<Self, super::Error> {
        Ok(Self)
    }
}
impl super::destination::Destination for Http {
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
