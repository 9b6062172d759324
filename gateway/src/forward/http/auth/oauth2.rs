//! Asks for a token: one POST of a form, answered with JSON.

use std::time::Duration;

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Token, basic, bearer};
use crate::{
    event::{Timestamp, percent_encode},
    forward::{
        Secret,
        http::{Error, away, config::sensitive, reply},
    },
};

/// A token of which nobody says how long it is good.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// A token is not used in the last part of its time: so much, or a tenth of it.
const MARGIN: Duration = Duration::from_secs(60);
/// No token is kept longer.
const GOOD_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How much of an answer's words is shown.
const SHOWN: usize = 200;

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oauth2 {
    /// The token endpoint.
    pub token_url: String,
    /// Who we are there.
    pub client_id: String,
    /// What proves it.
    pub client_secret: Secret,
    /// What the token is to allow, in words of the service, separated by spaces.
    pub scope: Option<String>,
    /// Whom the token is for, where the service asks that.
    pub audience: Option<String>,
    /// Whether id and secret are in the form rather than in a header.
    pub in_form: bool,
}

/// What the service answers (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    /// Seconds; some services write them as text.
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// What it answers otherwise (section 5.2).
#[derive(Deserialize)]
struct Denied {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

impl Oauth2 {
    pub(super) fn check(&self) -> Result<(), String> {
        self.url().map(drop)
    }

    fn url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.token_url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.ok_or_else(|| "oauth2.token_url: a URL begins with http:// or https://".to_owned())
    }

    /// A new token.
    pub(super) async fn ask(&self, client: &Client, now: Timestamp) -> Result<Token, Error> {
        let url = self.url().map_err(Error::Misconfigured)?;
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(self.form());
        if !self.in_form {
            // Both are encoded before they are put together (section 2.3.1).
            let encoded = |text: &str| {
                let mut encoded = String::new();
                percent_encode(text, &mut encoded);
                encoded
            };
            let id = encoded(&self.client_id);
            let secret = encoded(self.client_secret.expose());
            let header = sensitive(&format!("Basic {}", basic(&id, &secret)));
            request = request.header(AUTHORIZATION, header.expect("base64 can be in a header"));
        }
        let asked = Instant::now();
        let mut response = request
            .send()
            .await
            .map_err(|error| of_service(away(error)))?;
        let status = response.status();
        let retry_after = reply::retry_after(response.headers(), now);
        let body = body(&mut response).await.map_err(of_service)?;
        if status == StatusCode::OK {
            return granted(&body, asked);
        }
        let reason = format!("the token service: {}", self.denied(status, &body));
        Err(match status.as_u16() {
            408 | 429 | 500..=599 => Error::Unavailable {
                reason,
                retry_after,
            },
            _ => Error::Misconfigured(reason),
        })
    }

    /// What is asked for.
    fn form(&self) -> String {
        let mut form = Url::parse("http://form/").expect("a constant URL");
        {
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "client_credentials");
            if let Some(scope) = &self.scope {
                pairs.append_pair("scope", scope);
            }
            if let Some(audience) = &self.audience {
                pairs.append_pair("audience", audience);
            }
            if self.in_form {
                pairs.append_pair("client_id", &self.client_id);
                pairs.append_pair("client_secret", self.client_secret.expose());
            }
        }
        form.query().unwrap_or_default().to_owned()
    }

    /// Why there is no token, in the words of the service; never what was sent to it.
    fn denied(&self, status: StatusCode, body: &[u8]) -> String {
        let Ok(denied) = serde_json::from_slice::<Denied>(body) else {
            return status.to_string();
        };
        let said = match denied.error_description {
            Some(description) => format!("{}: {description}", denied.error),
            None => denied.error,
        };
        let said: String = said
            .replace(self.client_secret.expose(), "***")
            .replace(char::is_control, " ")
            .chars()
            .take(SHOWN)
            .collect();
        format!("{status}: {said}")
    }
}

fn of_service(error: Error) -> Error {
    let reason = format!("the token service: {error}");
    match error {
        Error::Misconfigured(_) => Error::Misconfigured(reason),
        _ => Error::unavailable(reason),
    }
}

async fn body(response: &mut Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(away)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Error::unavailable("an answer without end".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn granted(body: &[u8], asked: Instant) -> Result<Token, Error> {
    let wrong = |what: &str| Error::Misconfigured(format!("the token service: {what}"));
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|_| wrong("200 OK, with something else than a token"))?;
    let kind = granted.token_type.as_deref().unwrap_or("bearer");
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(wrong("a token of another type than bearer"));
    }
    let header = bearer(&granted.access_token).filter(|_| !granted.access_token.is_empty());
    Ok(Token {
        header: header.ok_or_else(|| wrong("a token that a header cannot have"))?,
        until: asked + good_for(granted.expires_in.as_ref()),
        word: granted.access_token,
    })
}

/// How long a token is used.
fn good_for(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = expires_in.and_then(|expires_in| match expires_in {
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    });
    let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let life = seconds.map_or(GOOD_FOR, |seconds| {
        Duration::from_secs_f64(seconds.min(GOOD_FOR_MAX.as_secs_f64()))
    });
    life.saturating_sub(MARGIN.min(life / 10))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_not_used_at_the_end_of_its_time() {
        for (expires_in, expect) in [
            (json!(3600), 3540.0),
            (json!("3600"), 3540.0),
            (json!(100), 90.0),
            (json!(0), 0.0),
            (json!(1e300), 86_340.0),
            (json!(-5), 270.0),
            (json!("soon"), 270.0),
            (json!(null), 270.0),
        ] {
            let good = good_for(Some(&expires_in)).as_secs_f64();
            assert!((good - expect).abs() < 0.001, "{expires_in}: {good}");
        }
    }

    #[test]
    fn a_token_is_a_bearer_token_that_a_header_can_have() {
        let wrong = |body: &str| match granted(body.as_bytes(), Instant::now()) {
            Err(Error::Misconfigured(reason)) => reason,
            _ => panic!("{body} is a token"),
        };
        assert!(wrong("<html>").contains("something else"));
        assert!(wrong(r#"{"access_token":"t","token_type":"mac"}"#).contains("another type"));
        assert!(wrong(r#"{"access_token":"a\nb"}"#).contains("a header cannot have"));
        assert!(wrong(r#"{"access_token":""}"#).contains("a header cannot have"));
        let token = granted(
            br#"{"access_token":"t","token_type":"Bearer"}"#,
            Instant::now(),
        );
        assert!(token.is_ok_and(|token| token.header == "Bearer t"));
    }

    #[test]
    fn the_service_is_asked_in_its_own_words_and_quoted_without_the_secret() {
        let oauth2 = Oauth2 {
            token_url: "https://id.example/token".to_owned(),
            client_id: "plant&7".to_owned(),
            client_secret: Secret::from("s e=cret"),
            scope: Some("a b".to_owned()),
            audience: Some("https://lake".to_owned()),
            in_form: true,
        };
        assert_eq!(
            oauth2.form(),
            "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Flake\
             &client_id=plant%267&client_secret=s+e%3Dcret"
        );
        let said = br#"{"error":"invalid_client","error_description":"s e=cret is wrong\n"}"#;
        assert_eq!(
            oauth2.denied(StatusCode::UNAUTHORIZED, said),
            "401 Unauthorized: invalid_client: *** is wrong "
        );
        assert_eq!(
            oauth2.denied(StatusCode::FORBIDDEN, b"s e=cret"),
            "403 Forbidden"
        );
    }
}
