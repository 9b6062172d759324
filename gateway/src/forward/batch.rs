//! Records on their way out.

use std::sync::Arc;

use crate::{event::Event, record::Record};

/// A record with its event, decoded once for everybody.
#[derive(Debug, Clone)]
pub struct Item {
    /// As stored.
    pub record: Record,
    /// Decoded.
    pub event: Event,
}

/// Some records of one destination, in journal order; cheap to clone, so that a
/// retry sends the very same.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The records.
    pub items: Arc<[Item]>,
}
