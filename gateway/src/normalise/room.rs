//! What the events of one message may take together.
//!
//! Something that a message says once, and each of its events repeats (its topic, what
//! is around its elements, the operator's own tags), could make gigabytes of a megabyte.
//! So what events take is counted as they are made, and a message that swells beyond
//! its bound is refused before more of it is.

use super::{Class, Reject};
use crate::event::{Event, Value};

/// What one message of so many bytes may become, in bytes of stored events: a small
/// payload of many elements on a long topic could fill memory and disk otherwise.
pub(crate) fn stored_bytes_max(payload_bytes: usize) -> usize {
    let swollen = payload_bytes.saturating_mul(128);
    // An event takes some hundred bytes however little it says, an element perhaps
    // three. Whatever the broker takes may be kept as one event.
    swollen
        .clamp(256 * 1024, 2 * 1024 * 1024)
        .saturating_add(payload_bytes)
}

/// What is left of that for one message.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    max: usize,
}

impl Room {
    /// For a message of so many bytes, as it came: what is inflated counts by its size
    /// on the wire.
    pub(super) fn new(payload_bytes: usize) -> Self {
        let max = stored_bytes_max(payload_bytes);
        Self { left: max, max }
    }

    /// Takes an event's room.
    ///
    /// # Errors
    /// When there is none left.
    pub(super) fn take(&mut self, event: &Event) -> Result<(), Reject> {
        match self.left.checked_sub(least_bytes(event)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.beyond("its events")),
        }
    }

    /// Whether there is room for what each of so many elements has to look at again.
    ///
    /// # Errors
    /// When there is not.
    pub(super) fn repeats(&self, bytes: usize, elements: usize) -> Result<(), Reject> {
        match bytes.saturating_mul(elements) > self.max {
            true => Err(self.beyond("what identifies its elements")),
            false => Ok(()),
        }
    }

    fn beyond(&self, what: &str) -> Reject {
        let reason = format!("{what} would take more than {} bytes", self.max);
        Reject::new(Class::Limit, reason)
    }
}

/// What an event takes at least where it is stored: its texts, and a few bytes for each
/// thing in it.
fn least_bytes(event: &Event) -> usize {
    const MEASUREMENT: usize = 5;
    const TAG: usize = 3;
    let length = |text: &Option<std::sync::Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let attributes = event.topic.len()
        + event.device.len()
        + event.kind.len()
        + length(&event.site)
        + length(&event.id)
        + length(&event.traceparent);
    let measured = event.measurements.iter();
    let measured = measured.map(|m| MEASUREMENT + m.name.len() + length(&m.unit) + of(&m.value));
    let tags = event.tags.iter();
    let tags = tags.map(|(name, text)| TAG + name.len() + text.len());
    attributes + measured.sum::<usize>() + tags.sum::<usize>()
}

fn of(value: &Value) -> usize {
    1 + match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) => 0,
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(of).sum(),
        Value::Map(members) => members.iter().map(|(name, v)| name.len() + of(v)).sum(),
    }
}
