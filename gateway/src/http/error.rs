//! Errors, towards the operator at start and towards clients as problem details (RFC 9457).

use std::net::SocketAddr;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::store;

/// Why the HTTP server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen for HTTP on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Nobody is asked who they are, so only this machine may ask.
    #[error(
        "HTTP on {0} would answer anybody who reaches it: listen on 127.0.0.1, \
         set [http] token, or say allow_anonymous = true"
    )]
    BeyondLoopback(SocketAddr),
}

/// An answer that says what went wrong.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
        }
    }

    /// Who asks did not say the token.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "say the token of [http]: as a bearer token, or as a password",
        )
    }

    pub(super) fn not_found(what: &str, id: u64) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {what} with number {id}"),
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            Json(body),
        )
            .into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // Browsers know how to ask for a password.
            let challenge = HeaderValue::from_static("Basic realm=\"penstock\", Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        tracing::error!(%error, "the store could not answer a request");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the store could not answer",
        )
    }
}

impl From<store::Stopped> for Problem {
    fn from(stopped: store::Stopped) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, stopped.to_string())
    }
}
