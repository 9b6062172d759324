//! Keeps out who does not know the token, and web pages of other origins. A page may make a browser send requests
//! to loopback, and may point a name of its own at 127.0.0.1 (DNS rebinding).

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderName, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::Problem;
use crate::forward::Secret;

/// How strict to be.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// The operator opened the port to others, who know the box by other names.
    pub(super) any_host: bool,
    /// What has to be known.
    pub(super) token: Option<Token>,
    /// What commands of this machine say instead of it.
    pub(super) key: Token,
}

/// A token, hashed: comparing hashes takes the same time wherever they differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token(blake3::Hash);

impl Token {
    pub(super) fn new(token: &Secret) -> Self {
        Self(blake3::hash(token.expose().as_bytes()))
    }

    /// Whether an Authorization header has it: as a bearer token, or as the password
    /// of any user, which is how browsers ask for one.
    fn is_in(&self, header: &str) -> bool {
        use base64::Engine as _;

        let Some((scheme, rest)) = header.split_once(' ') else {
            return false;
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return blake3::hash(rest.trim().as_bytes()) == self.0;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim());
        scheme.eq_ignore_ascii_case("basic")
            && decoded.is_ok_and(|decoded| {
                let mut parts = decoded.splitn(2, |byte| *byte == b':');
                parts.next();
                parts
                    .next()
                    .is_some_and(|password| blake3::hash(password) == self.0)
            })
    }
}

/// Refuses a request that a foreign page could have caused.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.objection(&request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

impl Guard {
    fn objection(&self, request: &Request) -> Option<Problem> {
        let header = |name: HeaderName| request.headers().get(name)?.to_str().ok();
        if !self.any_host && !header(header::HOST).is_some_and(is_loopback) {
            return Some(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "ask for localhost or a loopback address",
            ));
        }
        let public = matches!(
            request.uri().path(),
            "/healthz" | "/readyz" | "/api/v1/instance"
        );
        if let Some(token) = &self.token
            && !public
            && !header(header::AUTHORIZATION)
                .is_some_and(|said| token.is_in(said) || self.key.is_in(said))
        {
            return Some(Problem::unauthorized());
        }
        // A page cannot send this content type to another origin without the
        // server's consent (CORS), which is never given.
        let json =
            header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        (!reads && !json).then(|| {
            Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "requests that change something need content-type: application/json",
            )
        })
    }
}

/// Whether a Host header names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_let_in() {
        let check = |host: &str, expect: bool| assert_eq!(is_loopback(host), expect, "{host:?}");
        check("localhost:8080", true);
        check("LOCALHOST", true);
        check("127.0.0.1:8080", true);
        check("127.1.2.3", true);
        check("[::1]:8080", true);
        check("evil.example:8080", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example", false);
        check("192.0.2.1:8080", false);
        check("[", false);
        check("", false);
    }
}
