//! What can be configured of an HTTP destination.

use std::time::Duration;

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

pub use super::{
    answers::{Answers, Meaning},
    auth::{Auth, Oauth2},
    client::Proxy,
    form::Form,
    signature::Signature,
    template::{Between, Template},
};
use crate::{
    forward::{Error, Secret},
    tls::Files,
};

/// How events are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to.
    pub url: String,
    /// What events look like.
    pub form: Form,
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
    /// Requests at a time, where each has one event; one per partition key in any case.
    pub in_flight: usize,
    /// Headers added to every request.
    pub headers: Vec<(String, Secret)>,
    /// Who we are.
    pub auth: Auth,
    /// Certificates.
    pub tls: Files,
    /// How bodies are signed, if they are.
    pub signature: Option<Signature>,
    /// What answers mean.
    pub answers: Answers,
    /// The way there.
    pub proxy: Proxy,
}

impl Config {
    /// The configured defaults, posting to `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            form: Form::Batch,
            gzip: true,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            batch_records: 500,
            batch_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            in_flight: 8,
            headers: Vec::new(),
            auth: Auth::None,
            tls: Files::default(),
            signature: None,
            answers: Answers::default(),
            proxy: Proxy::Environment,
        }
    }

    /// Says what cannot work, without touching anything outside.
    ///
    /// # Errors
    /// With what is wrong.
    pub(in crate::forward) fn check(&self) -> Result<(), Error> {
        self.target()?;
        let headers = self.header_map()?;
        let authorization = reqwest::header::AUTHORIZATION;
        if self.auth != Auth::None && headers.contains_key(authorization) {
            let wrong = "headers: Authorization is made of user, token or oauth2";
            return Err(Error::Config(wrong.to_owned()));
        }
        self.auth.check().map_err(Error::Config)?;
        if let Some(signature) = &self.signature {
            signature.check().map_err(Error::Config)?;
        }
        let proxy = self.proxy.check();
        proxy.map_err(|what| Error::Config(format!("proxy: {what}")))
    }

    pub(super) fn target(&self) -> Result<Url, Error> {
        let url = Url::parse(&self.url)
            .map_err(|error| Error::Config(format!("url `{}`: {error}", self.url)))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            let wrong = format!("url `{}` must begin with http:// or https://", self.url);
            return Err(Error::Config(wrong));
        }
        Ok(url)
    }

    pub(super) fn header_map(&self) -> Result<HeaderMap, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |what: &str| Error::Config(format!("header `{name}`: {what}"));
            let header: HeaderName = name.parse().map_err(|_| wrong("not a header's name"))?;
            let value = sensitive(value.expose())
                .ok_or_else(|| wrong("its value has characters that a header cannot have"))?;
            map.insert(header, value);
        }
        Ok(map)
    }

    /// Words that no reason may show, even where an endpoint sends them back.
    pub(super) fn secrets(&self) -> Vec<String> {
        let mut secrets = self.auth.secrets();
        for (_, value) in &self.headers {
            let value = value.expose();
            secrets.push(value.to_owned());
            // What stands behind `Bearer` and the like is the secret.
            secrets.extend(value.split_once(' ').map(|(_, word)| word.to_owned()));
        }
        if let Some(signature) = &self.signature {
            secrets.push(signature.secret.expose().to_owned());
        }
        // What is very short hides nothing, and would garble the words.
        secrets.retain(|secret| secret.len() > 3);
        secrets
    }
}

/// A header's value that is not shown; `None` if a header cannot have it.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
