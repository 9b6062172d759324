//! The bucket: signed requests, one object each.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, error::CredentialsError},
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use md5::{Digest as _, Md5};
use reqwest::{
    Client, Method,
    header::{HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::sync::{Mutex, OnceCell};

use super::{Config, answer, body::media_type};
use crate::{
    clock::Clock,
    event::Timestamp,
    forward::{destination::Error, format::Format},
};

/// Credentials that do not say when they end are asked for again after this.
const CREDENTIALS_FOR: Duration = Duration::from_secs(300);
/// Those that do, so long before.
const CREDENTIALS_BEFORE: Duration = Duration::from_secs(60);
/// What the slowest link takes in a second.
const BYTES_A_SECOND: usize = 8 * 1024;
/// Bytes of an answer that are looked at, at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    /// Made at the first batch: finding credentials takes time, and may fail.
    way: OnceCell<Way>,
    /// Those in use, and until when.
    credentials: Mutex<Option<(Credentials, SystemTime)>>,
}

/// What the bucket says of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    There,
    NotThere,
    /// We may not ask.
    Denied,
}

/// How to get there.
#[derive(Debug)]
struct Way {
    account: SdkConfig,
    http: Client,
    region: String,
    /// Addresses begin with this and end with the name.
    address: String,
}

impl Bucket {
    pub(super) fn new(config: Arc<Config>, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            way: OnceCell::new(),
            credentials: Mutex::default(),
        }
    }

    /// Finds region and credentials, if that was not done yet.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        self.way().await.map(|_| ())
    }

    async fn way(&self) -> Result<&Way, Error> {
        let made = self.way.get_or_try_init(|| async {
            let account = self.config.account.load().await?;
            let region = account
                .region()
                .map(ToString::to_string)
                .unwrap_or_default();
            Ok::<_, Error>(Way {
                http: client(&self.config).map_err(Error::Misconfigured)?,
                address: address(&self.config, &region),
                account,
                region,
            })
        });
        made.await
    }

    /// Puts an object; one that is there under this name is replaced.
    pub(super) async fn put(&self, name: &str, format: Format, body: Vec<u8>) -> Result<(), Error> {
        let digest = BASE64_STANDARD.encode(Md5::digest(&body));
        let mut headers = vec![
            ("content-md5".to_owned(), digest),
            ("content-type".to_owned(), media_type(format).to_owned()),
        ];
        let more = self.config.headers.iter();
        headers.extend(more.map(|(name, value)| (name.clone(), value.expose().to_owned())));
        let answer = self.ask(Method::PUT, name, &headers, body).await?;
        match answer.status().is_success() {
            true => Ok(()),
            false => {
                let status = answer.status().as_u16();
                Err(self.refused(status, &text(answer).await).await)
            }
        }
    }

    /// Whether an object is there. An answer to `HEAD` has no code, and 403 and 404 have many
    /// reasons: only `GET` tells which.
    pub(super) async fn has(&self, name: &str) -> Result<Found, Error> {
        const OF_ANY_REQUEST: [&str; 3] = [
            "x-amz-expected-bucket-owner",
            "x-amz-request-payer",
            "x-amz-server-side-encryption-customer-",
        ];
        let more = self.config.headers.iter();
        let mut headers: Vec<(String, String)> = more
            .filter(|(name, _)| OF_ANY_REQUEST.iter().any(|of| name.starts_with(of)))
            .map(|(name, value)| (name.clone(), value.expose().to_owned()))
            .collect();
        let answer = self.ask(Method::HEAD, name, &headers, Vec::new()).await?;
        if answer.status().is_success() {
            return Ok(Found::There);
        }
        headers.push(("range".to_owned(), "bytes=0-0".to_owned()));
        let answer = self.ask(Method::GET, name, &headers, Vec::new()).await?;
        let status = answer.status().as_u16();
        if matches!(status, 200..=299 | 416) {
            return Ok(Found::There);
        }
        let body = text(answer).await;
        match (status, answer::code(&body)) {
            (404, Some("NoSuchKey")) => Ok(Found::NotThere),
            (403, Some("AccessDenied")) => Ok(Found::Denied),
            _ => Err(self.refused(status, &body).await),
        }
    }

    async fn refused(&self, status: u16, body: &str) -> Error {
        if matches!(status, 400 | 401 | 403) {
            // They may have been taken back, or changed.
            *self.credentials.lock().await = None;
        }
        let may_change = self.config.account.keys.is_none();
        match answer::code(body) {
            Some("ExpiredToken" | "TokenRefreshRequired") if may_change => {
                Error::unavailable("credentials ran out; asks for new ones".to_owned())
            }
            _ => answer::refused(status, body),
        }
    }

    async fn ask(
        &self,
        method: Method,
        name: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
    ) -> Result<reqwest::Response, Error> {
        let way = self.way().await?;
        let url = format!("{}{}", way.address, encoded(name));
        let identity = self.credentials(way).await?.into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let unfit = |error: &dyn std::error::Error| Error::Misconfigured(format!("sign: {error}"));
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&way.region)
            .name("s3")
            .time(system_time(self.clock.now()))
            .settings(settings)
            .build()
            .map_err(|error| unfit(&error))?
            .into();
        let plain = headers.iter().map(|(name, value)| (&**name, &**value));
        let signable =
            SignableRequest::new(method.as_str(), &*url, plain, SignableBody::Bytes(&body));
        let signed = signable.and_then(|signable| sign(signable, &parameters));
        let (signed, _) = signed.map_err(|error| unfit(&error))?.into_parts();
        // A slow link takes its time for a large body.
        let body_takes = Duration::from_secs((body.len() / BYTES_A_SECOND) as u64);
        let timeout = self.config.account.timeout + body_takes;
        let mut request = way.http.request(method, &url).timeout(timeout);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in signed.headers() {
            request = request.header(name, value);
        }
        let sent = request.body(body).send().await;
        sent.map_err(|error| Error::unavailable(said(&error)))
    }

    /// One question at a time: those that wait for it get its answer.
    async fn credentials(&self, way: &Way) -> Result<Credentials, Error> {
        let mut slot = self.credentials.lock().await;
        let now = system_time(self.clock.now());
        if let Some((known, until)) = &*slot
            && now < *until
        {
            return Ok(known.clone());
        }
        let provider = way.account.credentials_provider().ok_or_else(|| {
            Error::Misconfigured(
                "no credentials: none is configured, and none was found".to_owned(),
            )
        })?;
        let asked = Box::pin(provider.provide_credentials());
        let found = tokio::time::timeout(self.config.account.timeout, asked).await;
        let found = found.map_err(|_| Error::unavailable("no credentials in time".to_owned()))?;
        let found = found.map_err(|error| {
            let causes = crate::forward::aws::causes(&error);
            let reason = format!("no credentials: {causes}");
            match error {
                CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
                    Error::unavailable(reason)
                }
                _ => Error::Misconfigured(reason),
            }
        })?;
        let until = found.expiry().map(|end| end - CREDENTIALS_BEFORE);
        let until = until.unwrap_or(now + CREDENTIALS_FOR);
        *slot = Some((found.clone(), until));
        Ok(found)
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    let millis = u64::try_from(at.as_millis()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// Where objects are: in the path of the endpoint, or at a host of the bucket's own.
fn address(config: &Config, region: &str) -> String {
    let bucket = &config.bucket;
    let domain = match region.starts_with("cn-") {
        true => "amazonaws.com.cn",
        false => "amazonaws.com",
    };
    let endpoint = match &config.account.endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://s3.{region}.{domain}"),
    };
    // No certificate fits a host with dots of the bucket's.
    match endpoint.split_once("://") {
        Some((scheme, host)) if !config.path_style && !bucket.contains('.') => {
            format!("{scheme}://{bucket}.{host}/")
        }
        _ => format!("{endpoint}/{bucket}/"),
    }
}

/// A name as part of an address.
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 16);
    for byte in name.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// What a put may carry besides what it has of its own.
pub(super) fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    const OWN: [&str; 12] = [
        "authorization",
        "content-length",
        "content-md5",
        "content-type",
        "expect",
        "host",
        "if-match",
        "if-none-match",
        "transfer-encoding",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    ];
    if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
        return Err("is no header");
    }
    match OWN.contains(&name) {
        true => Err("is set by the gateway itself"),
        false => Ok(()),
    }
}

fn client(config: &Config) -> Result<Client, String> {
    crate::tls::install_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
        .timeout(config.account.timeout)
        .connect_timeout(config.account.connect_timeout)
        .redirect(Policy::none())
        .pool_max_idle_per_host(config.in_flight);
    if !config.tls.is_empty() {
        let mut tls = config.tls.client()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        builder = builder.tls_backend_preconfigured(tls);
    }
    let build = builder.build();
    build.map_err(|error| format!("http client: {}", error.without_url()))
}

/// The beginning of an answer.
async fn text(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn said(error: &reqwest::Error) -> String {
    match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => crate::forward::aws::causes(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_at_a_host_of_the_buckets_own_or_in_the_path() {
        let of = |bucket: &str, endpoint: Option<&str>, path_style| {
            let mut config = Config::new(bucket, "plans".into());
            config.account.endpoint = endpoint.map(ToOwned::to_owned);
            config.path_style = path_style;
            address(&config, "eu-central-1")
        };
        assert_eq!(
            of("lake", None, false),
            "https://lake.s3.eu-central-1.amazonaws.com/"
        );
        assert_eq!(
            of("my.lake", None, false),
            "https://s3.eu-central-1.amazonaws.com/my.lake/"
        );
        assert_eq!(
            of("lake", Some("http://10.0.0.5:9000/"), true),
            "http://10.0.0.5:9000/lake/"
        );
    }

    #[test]
    fn a_name_is_encoded_but_for_its_slashes() {
        assert_eq!(encoded("a/b=1/ü%2F.gz"), "a/b%3D1/%C3%BC%252F.gz");
    }
}
