//! Asks the operator's own service over HTTP who a client is.
//!
//! One POST with a JSON object per question; the answer is a JSON object too:
//! `docs/security.md` has both. 401 and 403 are a no. Anything else but 200, an
//! answer that cannot be read, or none in time is no answer, and then the client is
//! not let in. How many questions are asked at a time, and which answers are
//! remembered, is for the broker. Redirects are not followed: a password goes to the
//! place that was configured and to no other.

use std::{fmt, sync::Once, time::Duration};

use penstock_broker::{
    acl::Rules,
    auth::hook::{Allowed, Answer, Asking, Hook, Question},
};
use reqwest::{
    Client, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde::{Deserialize, Serialize};

use crate::config::auth::Service as Config;

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest that an answer is remembered.
const REMEMBER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The question on the wire.
#[derive(Debug, Serialize)]
struct Asked<'q> {
    client_id: &'q str,
    username: Option<&'q str>,
    password: Option<&'q str>,
    /// Instead of `password`, where that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_base64: Option<String>,
    address: String,
    listener: &'q str,
    certificate_subject: Option<&'q str>,
}

/// The answer on the wire.
#[derive(Debug, Deserialize)]
struct Answered {
    allow: bool,
    user: Option<String>,
    device: Option<String>,
    acl: Option<serde_json::Value>,
    #[serde(default)]
    cache_secs: u64,
}

/// The way to the service.
pub(crate) struct AuthService {
    client: Client,
    url: Url,
}

/// The address may have a secret in it, and headers do.
impl fmt::Debug for AuthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

impl AuthService {
    /// Prepares to ask.
    ///
    /// # Errors
    /// When the URL or a header cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An error means that there is one already, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let url = Url::parse(config.url.expose()).map_err(|error| format!("url: {error}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let header: HeaderName = name
                .parse()
                .map_err(|_| format!("header `{name}`: not a header's name"))?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
                format!("header `{name}`: its value has characters that a header cannot have")
            })?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let client = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .redirect(Policy::none())
            // Passwords go where the configuration says, not where the environment does.
            .no_proxy()
            .build()
            .map_err(|error| format!("http client: {error}"))?;
        Ok(Self { client, url })
    }

    async fn post(&self, question: &Question) -> Result<Answer, String> {
        use base64::Engine as _;

        let password = question.password.as_deref();
        let text = password.and_then(|password| std::str::from_utf8(password).ok());
        let bytes = password.filter(|_| text.is_none());
        let asked = Asked {
            client_id: &question.client_id,
            username: question.username.as_deref(),
            password: text,
            password_base64: bytes.map(|b| base64::engine::general_purpose::STANDARD.encode(b)),
            address: question.address.to_string(),
            listener: &question.listener,
            certificate_subject: question.certificate.as_deref(),
        };
        let body = serde_json::to_vec(&asked).map_err(|error| error.to_string())?;
        let sent = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .body(body)
            .send();
        let mut reply = sent.await.map_err(|error| why(&error))?;
        match reply.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Answer {
                    allowed: None,
                    remember: Duration::ZERO,
                });
            }
            status => return Err(format!("it answers {status}")),
        }
        let mut body = Vec::new();
        while let Some(part) = reply.chunk().await.map_err(|error| why(&error))? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&part);
        }
        read(&body)
    }
}

/// Without the URL, which may have a secret in it.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "it cannot be reached".to_owned()
    } else {
        "the connection to it broke".to_owned()
    }
}

fn read(body: &[u8]) -> Result<Answer, String> {
    let answered: Answered = serde_json::from_slice(body)
        .map_err(|error| format!("its answer cannot be read: {error}"))?;
    let remember = Duration::from_secs(answered.cache_secs).min(REMEMBER_MAX);
    if !answered.allow {
        return Ok(Answer {
            allowed: None,
            remember,
        });
    }
    let name = |name: Option<String>| match name {
        Some(name) if name.is_empty() || name.contains(char::is_control) => {
            Err("its answer has a name that is none".to_owned())
        }
        name => Ok(name.map(Into::into)),
    };
    let rules = answered.acl.as_ref().map(Rules::from_json).transpose();
    let rules = rules.map_err(|error| format!("the acl of its answer: {error}"))?;
    Ok(Answer {
        allowed: Some(Allowed {
            user: name(answered.user)?,
            device: name(answered.device)?,
            rules: rules.map(Into::into),
        }),
        remember,
    })
}

impl Hook for AuthService {
    fn ask<'a>(&'a self, question: &'a Question) -> Asking<'a> {
        Box::pin(self.post(question))
    }
}

#[cfg(test)]
mod tests;
