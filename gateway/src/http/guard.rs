//! Lets in who may ask, for what the API has, and keeps out the rest.
//!
//! In one place, before every handler: whether the operation exists, who asks, whether
//! their role is enough, and whether a web page of another origin could have caused it. A
//! page may make a browser send requests to loopback, and may point a name of its own at
//! 127.0.0.1 (DNS rebinding). What changes something is written to the audit log.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::to_bytes,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    access::{Access, Caller},
    audit::{Asked, Audit, Change},
    error::Problem,
    etag,
    operations::{For, Operations},
    server::Peer,
};

/// What an extractor says is wrong is short.
const SAID_BYTES_MAX: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Guard {
    /// The operator opened the port to others, who know the box by other names.
    pub(super) any_host: bool,
    /// There is TLS, so nobody has to say a token in the clear.
    pub(super) encrypts: bool,
    pub(super) access: Access,
    pub(super) operations: Operations,
    pub(super) audit: Audit,
}

/// Answers in the place of the handler where the request is not let in.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().to_string(),
        address: peer.map(|peer| peer.address),
    };
    let header = request.headers().get(header::AUTHORIZATION);
    let caller = guard.access.who(header.and_then(|it| it.to_str().ok()));
    if let Err(problem) = guard.admit(&request, caller.as_ref()) {
        if problem.is_refusal() {
            guard.audit.refused(&asked, caller.as_ref());
        }
        return problem.into_response();
    }
    if let Some(caller) = &caller {
        request.extensions_mut().insert(caller.clone());
    }
    let has = request.headers().get(header::IF_NONE_MATCH).cloned();
    // Written also where the asker goes away before it is answered.
    let change = match reads(&asked.method) {
        true => None,
        false => caller.map(|caller| Change::begin(asked.clone(), caller)),
    };
    let response = uniform(next.run(request).await).await;
    if let Some(mut change) = change {
        change.done(response.status());
    }
    match asked.method {
        Method::GET => etag::tagged(has, response).await,
        _ => response,
    }
}

impl Guard {
    fn admit(&self, request: &Request, caller: Option<&Caller>) -> Result<(), Problem> {
        let header = |name: HeaderName| request.headers().get(name)?.to_str().ok();
        // Said by browsers alone, of a request that a page elsewhere has caused.
        if header(HeaderName::from_static("sec-fetch-site")) == Some("cross-site") {
            let what = "a page of another origin may not ask";
            return Err(Problem::new(StatusCode::FORBIDDEN, what));
        }
        if !self.any_host && !header(header::HOST).is_some_and(is_loopback) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "ask for localhost or a loopback address",
            ));
        }
        let path = request.extensions().get::<MatchedPath>();
        let path = path.map(MatchedPath::as_str);
        let whom_for = path.and_then(|path| self.operations.find(path, request.method().as_str()));
        let method = |path| Problem::method(request.method(), self.operations.methods(path));
        match (path, whom_for) {
            (_, Some(For::Everybody)) => return Ok(()),
            (Some(path), None) if self.operations.is_open(path) => return Err(method(path)),
            _ => {}
        }
        // A command's key has been made for this start, and the gateway has proved that it
        // knows it.
        let peer = request.extensions().get::<Peer>();
        let is_plain = self.encrypts && !peer.is_some_and(|peer| peer.is_encrypted);
        if is_plain && !caller.is_some_and(Caller::is_command) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "ask with https://",
            ));
        }
        let caller = caller.ok_or_else(Problem::unauthorized)?;
        match (path, whom_for) {
            (None, _) => return Err(Problem::nothing_there(request.uri().path())),
            (Some(path), None) => return Err(method(path)),
            (Some(_), Some(For::Everybody)) => {}
            (Some(_), Some(For::Role(role))) => caller.needs(role)?,
        }
        // A page cannot send this content type, or an authorization of its own, to another
        // origin without the server's consent (CORS), which is never given.
        let json =
            header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        match reads(request.method()) || json || caller.is_bearer() {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "requests that change something need content-type: application/json, or a bearer token",
            )),
        }
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Makes a problem of what extractors say in plain text.
async fn uniform(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !is_plain {
        return response;
    }
    let said = to_bytes(response.into_body(), SAID_BYTES_MAX).await;
    let said = said.unwrap_or_default();
    Problem::new(status, String::from_utf8_lossy(&said)).into_response()
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
