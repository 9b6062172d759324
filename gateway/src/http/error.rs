//! Errors, towards the operator at start and towards clients as problem details (RFC 9457).

use std::net::SocketAddr;

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use penstock_broker::listener::tls;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::access::Role;
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
    /// It may not listen beyond this machine like that.
    #[error("HTTP on {0}, which is beyond this machine: {1}")]
    BeyondLoopback(SocketAddr, Objection),
    /// A certificate cannot be used.
    #[error("http.tls: {0}")]
    Tls(#[from] tls::Error),
}

/// Why the HTTP server may not listen beyond this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Nobody is asked who they are.
    #[error(
        "nobody is asked who they are; set token or [[http.token]], or set \
         allow_anonymous = true to let anyone in"
    )]
    NobodyIsAsked,
    /// Tokens would go over the network as they are.
    #[error(
        "tokens would go over the network in the clear; set [http.tls], or set \
         allow_plaintext = true where something in front encrypts"
    )]
    InTheClear,
}

/// What went wrong, as RFC 9457 says it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// What the status means.
    title: &'static str,
    /// The status of the answer.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// What was wrong this time.
    detail: String,
    /// The methods that there are.
    #[serde(skip)]
    allow: Option<String>,
}

fn number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or_default(),
            status,
            detail: detail.into(),
            allow: None,
        }
    }

    /// Who asks did not say a token that is known.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "say a token of [http]: as a bearer token, or as a password",
        )
    }

    /// Who asks may not do as much.
    pub(super) fn forbidden(has: Role, needed: Role) -> Self {
        let (has, needed) = (has.word(), needed.word());
        Self::new(
            StatusCode::FORBIDDEN,
            format!("this takes the role {needed}, and the token has {has}"),
        )
    }

    /// There is no such path.
    pub(super) fn nothing_there(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {path}; /api/v1/openapi.json says what there is"),
        )
    }

    /// The path has other methods.
    pub(super) fn method(method: &Method, allow: String) -> Self {
        let detail = format!("there is no {method} here, but {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        }
    }

    pub(super) fn not_found(what: &str, id: u64) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {what} with number {id}"),
        )
    }

    /// Whether it is about who asks.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self.status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::UNSUPPORTED_MEDIA_TYPE
                | StatusCode::MISDIRECTED_REQUEST
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let allow = self.allow.take();
        let allow = allow.and_then(|methods| HeaderValue::try_from(methods).ok());
        let mut response = (self.status, Json(&self)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(allow) = allow {
            headers.insert(header::ALLOW, allow);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // Browsers know how to ask for a password.
            let challenge = HeaderValue::from_static("Basic realm=\"penstock\", Bearer");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
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
