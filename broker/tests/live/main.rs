//! The broker over real sockets, byte for byte, with a gateway that the test holds.

#![allow(clippy::unwrap_used, reason = "a test that fails is to say where")]
#![allow(
    clippy::async_yields_async,
    reason = "an admission resolves to a receipt"
)]

mod auth;
mod clients;
mod durable;
mod full_disk;
mod hostile;
mod killers;
mod limits;
mod local;
mod operating;
mod publishing;
mod rates;
mod resuming;
mod retaining;
mod sessions;
mod subscribing;
mod support;
mod transports;
