//! An edge telemetry gateway. Data enters at one end and leaves at the other:
//!
//! ```text
//! device ─MQTT─▶ broker ─▶ ingest ─▶ normalise ─▶ dedup key ─▶ store ─▶ forward ─▶ destinations
//!                  ◀── PUBACK, only after commit ───────────────┘
//! ```

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod dedup;
pub mod event;
pub mod forward;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod normalise;
pub mod observer;
pub mod record;
pub mod signal;
pub mod status;
pub mod store;
pub mod tasks;
pub mod telemetry;
