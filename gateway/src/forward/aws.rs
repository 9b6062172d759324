//! What every destination at Amazon has in common: whose account, and what an error means.
//!
//! Credentials come from the configuration, or else from the standard chain: environment,
//! profile files, web identity, container, instance. The service's own client makes no
//! second attempt: what goes again, when, and behind what is the engine's to decide.
//!
//! | answer | meaning |
//! |---|---|
//! | 429; a code of throttling | slow down |
//! | validation, invalid argument, 413 | something in the request is to blame |
//! | 5xx, no answer, an answer that cannot be read | away: whether it was done is not known |
//! | no credentials; any other 4xx | needs a person |

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, profile::ProfileFileCredentialsProvider,
    retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_kinesis::{
    config::{Credentials, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use super::{Secret, destination::Error};

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

/// Why a request was not done as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Too much at the moment.
    Throttled,
    /// Something in the request is to blame.
    Refused(String),
    /// Whether it was done is not known.
    Unavailable(String),
    /// A person must change something.
    Misconfigured(String),
}

/// What an error of the client means.
pub(super) fn fault<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => of_answer(
            service.raw().status().as_u16(),
            service.err().code().unwrap_or("no code"),
            service.err().message().unwrap_or("no message"),
        ),
        SdkError::TimeoutError(_) => Fault::Unavailable("no answer in time".to_owned()),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            Fault::Unavailable(format!("an answer ({status}) that cannot be read"))
        }
        other => of_sending(&causes(other)),
    }
}

fn of_answer(status: u16, code: &str, message: &str) -> Fault {
    const THROTTLING: [&str; 8] = [
        "KMSThrottlingException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    ];
    const TO_BLAME: [&str; 3] = [
        "InvalidArgumentException",
        "SerializationException",
        "ValidationException",
    ];
    let reason = || format!("{code}: {message}");
    match status {
        429 => Fault::Throttled,
        _ if THROTTLING.contains(&code) => Fault::Throttled,
        _ if TO_BLAME.contains(&code) => Fault::Refused(reason()),
        413 => Fault::Refused(reason()),
        500.. => Fault::Unavailable(reason()),
        _ if matches!(code, "InternalFailure" | "ServiceUnavailable") => {
            Fault::Unavailable(reason())
        }
        _ => Fault::Misconfigured(reason()),
    }
}

/// A request that was not sent, or that broke: the wire's fault, but for credentials.
fn of_sending(causes: &str) -> Fault {
    match causes.contains("credentials") {
        true => Fault::Misconfigured(causes.to_owned()),
        false => Fault::Unavailable(causes.to_owned()),
    }
}

/// What each layer says, without saying anything twice.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_states_say_who_has_to_do_something() {
        let check = |status, code, expect: fn(String) -> Fault| {
            let told = format!("{code}: because");
            assert_eq!(of_answer(status, code, "because"), expect(told), "{code}");
        };
        check(400, "ResourceNotFoundException", Fault::Misconfigured);
        check(400, "AccessDeniedException", Fault::Misconfigured);
        check(400, "ExpiredTokenException", Fault::Misconfigured);
        check(400, "KMSDisabledException", Fault::Misconfigured);
        check(403, "InvalidSignatureException", Fault::Misconfigured);
        check(400, "ValidationException", Fault::Refused);
        check(400, "InvalidArgumentException", Fault::Refused);
        check(413, "RequestEntityTooLarge", Fault::Refused);
        check(500, "InternalFailure", Fault::Unavailable);
        check(503, "anything", Fault::Unavailable);
        check(400, "ThrottlingException", |_| Fault::Throttled);
        check(400, "KMSThrottlingException", |_| Fault::Throttled);
        check(429, "anything", |_| Fault::Throttled);
        check(400, "ProvisionedThroughputExceededException", |_| {
            Fault::Throttled
        });
    }
}
