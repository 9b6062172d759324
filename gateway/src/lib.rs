//! An edge telemetry gateway. Data enters at one end and leaves at the other:
//!
//! ```text
//! device ─MQTT─▶ broker ─▶ ingest ─▶ normalise ─▶ dedup key ─▶ store ─▶ forward ─▶ destinations
//!                  ◀── PUBACK, only after commit ───────────────┘
//! ```

pub mod backoff;
pub mod clock;
pub mod dedup;
pub mod event;
pub mod forward;
pub mod ingest;
pub mod normalise;
pub mod record;
pub mod store;
