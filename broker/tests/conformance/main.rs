//! What MQTT 3.1.1 and 5 demand of a server, from their normative statements: each
//! test names the clauses that it checks.
//!
//! Both versions over real sockets with packets by hand, so that a client library's
//! idea of the protocol cannot hide ours.

#![allow(clippy::unwrap_used, reason = "a test that fails is to say where")]
#![allow(
    clippy::async_yields_async,
    reason = "an admission resolves to a receipt"
)]

mod connect;
mod flow;
mod messages;
mod retained;
mod session;
mod shared;
mod subscribe;
#[allow(dead_code, reason = "the other tests of the broker need all of it")]
#[path = "../live/support.rs"]
mod support;
mod will;
mod wire;
