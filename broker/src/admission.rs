//! The seam between the broker and whoever keeps what it receives.
//!
//! A session hands every PUBLISH that passed the protocol's checks to
//! [`Admission::admit`], in the order received, and answers the device only
//! after the [`Receipt`] resolves. The broker promises nothing about durability
//! itself: a PUBACK or PUBREC means exactly what the implementation's
//! [`Verdict::Accepted`] means.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::publish::{Publish, Publisher};

/// What became of one publish; in the order of the batch it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Kept for good. Acknowledge it, then show it to live subscribers.
    Accepted,
    /// Kept before under the same identity. Acknowledge it, then show it to
    /// subscribers all the same: after a crash nobody knows whether they saw it.
    Duplicate,
    /// It has been here before on its way through other brokers. Acknowledge it, and
    /// neither show nor retain it.
    Returned,
    /// Will never be kept. MQTT 5 devices get the reason code, 3.1.1 devices,
    /// which have no way to hear of it, get their acknowledgement.
    Refused {
        /// An MQTT 5 reason code of 0x80 or above (section 2.4).
        reason: u8,
        /// A line for the device's log, sent as the reason string.
        text: &'static str,
    },
    /// There is no room at the moment. MQTT 5 devices get 0x97 (quota
    /// exceeded); for 3.1.1 devices the session holds the publish, stops
    /// reading, and asks again.
    Busy,
    /// Whether it was kept is not known (the store has stopped). Nothing is
    /// acknowledged; the session ends, so that the device sends it again.
    Lost,
}

/// Resolves when the fate of a whole batch is settled: one verdict for each
/// publish, in order.
pub type Receipt = Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'static>>;

/// Resolves to a [`Receipt`] when the batch has been taken, which may wait for
/// room. Batches that one session hands over one after the other keep their order.
pub type Admitted<'a> = Pin<Box<dyn Future<Output = Receipt> + Send + 'a>>;

/// Takes what devices publish. Implemented by the gateway.
pub trait Admission: Send + Sync + 'static {
    /// Takes a batch from one connection. The outer future waits for room in a
    /// bounded queue; the receipt waits for the commit.
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a>;
}
