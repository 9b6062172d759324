//! One line per change, for whoever has to say later who did what.
//!
//! Tracing events of the target `penstock::audit`, as the broker's are. Each request
//! that changes something has a line with who asked, for what, and what came of it. Who was turned away has one too, of those at most a few a
//! second: strangers cause them. No token is ever in one.

use std::net::SocketAddr;

use axum::http::{Method, StatusCode};
use penstock_broker::Quiet;

use super::access::Caller;

/// Lines a second of those who were turned away, strangers and known ones.
const REFUSED_LINES: u32 = 20;
/// Characters of a path that a line shows.
const SHOWN_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Audit {
    strangers: Quiet,
    known: Quiet,
}

/// What was asked for, and from where.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// As it came, with the question: what is given up stands there.
    pub(super) path: String,
    pub(super) address: Option<SocketAddr>,
}

impl Audit {
    pub(super) const fn new() -> Self {
        Self {
            strangers: Quiet::of(REFUSED_LINES),
            known: Quiet::of(REFUSED_LINES),
        }
    }

    /// Somebody was turned away: nobody known, or of a lesser role.
    pub(super) fn refused(&self, asked: &Asked, caller: Option<&Caller>) {
        // A flood of strangers hides nobody who is known.
        let quiet = match caller {
            Some(_) => &self.known,
            None => &self.strangers,
        };
        if let Some(held_back) = quiet.pass() {
            tracing::info!(
                target: "penstock::audit",
                action = "http",
                allowed = false,
                token = caller.map(Caller::name),
                role = caller.map(|caller| caller.role().word()),
                method = %asked.method,
                path = shown(&asked.path),
                address = asked.address.map(tracing::field::display),
                held_back,
                "a request over HTTP was turned away"
            );
        }
    }
}

/// A request that changes something. Its line is written when it is done, or when it was
/// given up, because the asker went away: what it asked for may have been done then.
#[derive(Debug)]
pub(super) struct Change {
    asked: Asked,
    caller: Caller,
    status: Option<StatusCode>,
}

impl Change {
    pub(super) const fn begin(asked: Asked, caller: Caller) -> Self {
        Self {
            asked,
            caller,
            status: None,
        }
    }

    /// What was answered.
    pub(super) fn done(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Self {
            asked,
            caller,
            status,
        } = self;
        tracing::info!(
            target: "penstock::audit",
            action = "http",
            allowed = *status != Some(StatusCode::FORBIDDEN),
            token = caller.name(),
            role = caller.role().word(),
            method = %asked.method,
            path = shown(&asked.path),
            status = status.map(|status| status.as_u16()),
            address = asked.address.map(tracing::field::display),
            "a change over HTTP"
        );
    }
}

/// The beginning of a text that a client chose.
fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN_MAX);
    end.map_or(text, |(end, _)| &text[..end])
}
