//! The embedded MQTT broker: owns the protocol, and what outlives a connection.
//!
//! ```text
//! socket ─▶ listener ─▶ session ─▶ Admission (the gateway) ─▶ Receipt ─▶ PUBACK / PUBREC
//!                          ▲                                     │
//!                          └──── fanout ◀── embedded ◀───────────┘ after the receipt
//! ```
//!
//! MQTT 3.1.1 and 5 share every listener. What a PUBACK or PUBREC promises is what
//! the [`Admission`] behind it promises; live subscribers see a message only
//! after its receipt, and nothing they do delays a publisher.
//!
//! No client can stop the broker or make it hold more than its limits: whatever
//! is malformed is answered with its reason code or a closed connection, and
//! counted in [`Metrics`].
//!
//! Who may connect is decided by [`auth`], what a client may do by [`acl`].
//!
//! Persistent sessions, their queues and retained messages are in a file of the
//! broker's own (`keep`), committed before a packet promises them.

pub mod acl;
mod admission;
pub mod auth;
mod budget;
mod clock;
mod config;
mod embedded;
mod errand;
mod fanout;
mod filters;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handle;
mod keep;
mod limits;
mod link;
pub mod listener;
mod local;
mod metrics;
mod packet;
mod publish;
mod quiet;
mod registry;
mod roster;
pub mod seal;
mod session;
mod sys;
mod topic;

pub use admission::{Admission, Admitted, Receipt, Verdict};
pub use config::{Config, Error};
pub use errand::{Addressee, Errands, Look, Queued, Reach};
pub use handle::{Handle, LiveSubscription};
pub use keep::{
    Config as KeepConfig, Error as KeepError, QueueFull, RetainedFull, RetainedInfo, SessionInfo,
    SubscriptionInfo, reseal as reseal_kept, tally as tally_kept,
};
pub use limits::{Limits, Rates};
pub use listener::{Broker, Listening};
pub use local::{Client, Local};
pub use metrics::Metrics;
pub use publish::{Properties, Protocol, Publish, Publisher, QoS};
pub use quiet::Quiet;
pub use roster::ClientInfo;

/// Whether a topic matches a topic filter.
pub fn topic_matches(topic: &str, filter: &str) -> bool {
    topic::matches(topic, filter)
}

/// Whether a text is a topic filter that a client may subscribe to.
pub fn is_topic_filter(text: &str) -> bool {
    topic::check_filter(text).is_ok()
}
