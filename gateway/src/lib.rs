//! An edge telemetry gateway. Data enters at one end and leaves at the other:
//!
//! ```text
//! device ─MQTT─▶ broker ─▶ ingest ─▶ normalise ─▶ dedup key ─▶ store ─▶ forward ─▶ destinations
//!                  ◀── PUBACK, only after commit ───────────────┘
//! ```

pub mod actions;
pub mod admin;
pub mod app;
pub mod archive;
mod aside;
pub mod audit;
#[cfg(feature = "http")]
mod auth_service;
pub mod backoff;
pub mod backtest;
pub mod boots;
pub mod class;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dedup;
#[cfg(feature = "demo")]
pub mod demo;
pub mod destinations;
pub mod dictionary;
pub mod encryption;
pub mod event;
pub mod events;
pub mod fleet;
pub mod forward;
mod gaps;
pub mod gateway_id;
pub mod hours;
pub mod http;
pub mod ingest;
pub mod instance_key;
pub mod learn;
pub mod metrics;
#[cfg(feature = "mqtt")]
pub mod mqtt;
pub mod normalise;
pub mod observer;
mod pace;
pub mod query;
mod rebirth;
pub mod record;
mod reload;
#[cfg(feature = "mqtt")]
pub mod remote;
pub mod rulebook;
pub mod rules;
pub mod running;
pub mod signal;
pub mod status;
pub mod store;
mod tail;
pub mod tasks;
pub mod telemetry;
#[cfg(any(
    feature = "http",
    feature = "kafka",
    feature = "mqtt",
    feature = "nats",
    feature = "postgres",
    feature = "s3"
))]
pub mod tls;
#[cfg(any(feature = "kafka", feature = "nats"))]
pub mod upstream;
