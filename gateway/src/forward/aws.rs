//! What every destination at Amazon has in common: whose account, how a batch becomes
//! requests, and what an answer means.
//!
//! Credentials come from the configuration, or else from the standard chain: environment,
//! profile files, web identity, container, instance. The service's own client makes no
//! second attempt: what goes again, when, and behind what is the engine's to decide.

#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
mod batching;
#[cfg(feature = "aws-requests")]
mod doubt;
#[cfg(feature = "aws-requests")]
mod fault;
#[cfg(any(feature = "sns", feature = "sqs"))]
pub mod message;
#[cfg(any(feature = "kinesis", feature = "sns", feature = "sqs"))]
mod pace;
#[cfg(feature = "aws-requests")]
mod requests;
#[cfg(feature = "aws-requests")]
mod sending;
#[cfg(test)]
#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
pub(super) mod testing;
#[cfg(feature = "aws-requests")]
mod unit;

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, profile::ProfileFileCredentialsProvider,
    retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::Credentials;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use super::{Secret, destination::Error};

#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
pub use batching::Batching;
#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
pub(super) use fault::of_entry;
#[cfg(feature = "aws-requests")]
pub(super) use fault::{Fault, fault};
#[cfg(any(feature = "kinesis", feature = "sns", feature = "sqs"))]
pub(super) use pace::Paces;
#[cfg(feature = "aws-requests")]
pub(super) use requests::{Answer, Limits, Requests, Service};
#[cfg(feature = "aws-requests")]
pub(super) use unit::{Texts, TooLarge, Unit};

/// For how long a FIFO queue or topic knows the identity of a message.
pub const DEDUPLICATES_FOR: Duration = Duration::from_secs(300);

/// What is kept of the order of a partition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of it.
    Strict,
    /// It is lost among records of one request, where some are refused.
    Relaxed,
}

/// Whose account, where, and how long to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The region, where the standard chain is not to find it.
    pub region: Option<String>,
    /// Another address than the region's own.
    pub endpoint: Option<String>,
    /// The profile of the shared files that has credentials and region.
    pub profile: Option<String>,
    /// Credentials, instead of those of the standard chain.
    pub keys: Option<Keys>,
    /// From connecting to the last byte of the answer.
    pub timeout: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Its public half.
    pub id: String,
    /// Its secret half.
    pub secret: Secret,
    /// What goes with a temporary one.
    pub token: Option<Secret>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            profile: None,
            keys: None,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

impl Account {
    /// Finds region and credentials; the latter are asked for anew before they expire.
    ///
    /// # Errors
    /// Where no region can be found.
    pub(super) async fn load(&self) -> Result<SdkConfig, Error> {
        let http = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(self.timeout)
            .connect_timeout(self.connect_timeout)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = &self.profile {
            let of_profile = ProfileFileCredentialsProvider::builder().profile_name(profile);
            loader = loader
                .profile_name(profile)
                .credentials_provider(of_profile.build());
        }
        if let Some(keys) = &self.keys {
            let token = keys.token.as_ref().map(|token| token.expose().to_owned());
            let (id, secret) = (keys.id.as_str(), keys.secret.expose());
            loader = loader.credentials_provider(Credentials::new(
                id,
                secret,
                token,
                None,
                "configuration",
            ));
        }
        let loaded = Box::pin(loader.load()).await;
        match loaded.region() {
            Some(_) => Ok(loaded),
            None => Err(Error::Misconfigured(
                "no region: set `region`, AWS_REGION, or one in the profile".to_owned(),
            )),
        }
    }
}

/// The beginning of what a service says: some repeat a request of ours in it.
pub(super) fn in_short(message: &str) -> String {
    const CHARS: usize = 300;
    let line = message.lines().next().unwrap_or_default();
    line.chars().take(CHARS).collect()
}

/// What each layer says, without saying anything twice.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let says = cause.to_string();
        if !said.contains(&says) {
            said = format!("{said}: {says}");
        }
        next = cause.source();
    }
    said
}
