//! The embedded MQTT broker: owns the protocol, keeps nothing for good.
//!
//! ```text
//! socket ─▶ listener ─▶ session ─▶ Admission (the gateway) ─▶ Receipt ─▶ PUBACK / PUBREC
//!                          ▲                                     │
//!                          └──── live fan-out (embedded) ◀───────┘ after the receipt
//! ```

mod admission;
mod config;
mod embedded;
mod fanout;
mod filters;
mod listener;
mod metrics;
mod packet;
mod publish;
mod quiet;
mod registry;
mod session;
mod topic;

pub use admission::{Admission, Admitted, Receipt, Verdict};
pub use config::{Config, Error};
pub use listener::{Broker, Handle};
pub use metrics::Metrics;
pub use publish::{Properties, Protocol, Publish, Publisher, QoS};
