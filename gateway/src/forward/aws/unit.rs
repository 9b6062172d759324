//! What becomes one entry of a request.

use std::sync::Arc;

use crate::event::View;

/// One entry of a request, with one event or several of the same partition key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::forward) struct Unit {
    /// What keeps its order, as the service gets it.
    pub(in crate::forward) key: Arc<str>,
    /// What the entry says.
    pub(in crate::forward) data: Vec<u8>,
    /// Bytes that count besides the data.
    pub(in crate::forward) overhead: usize,
    /// Which events of the batch, in order.
    pub(in crate::forward) items: Vec<usize>,
}

impl Unit {
    /// Bytes that count.
    pub(in crate::forward) const fn len(&self) -> usize {
        self.data.len() + self.overhead
    }
}

/// Events that are too large, and why.
pub(in crate::forward) type TooLarge = Vec<(usize, String)>;

/// The event as `CloudEvents` JSON. What it takes to write one is left in `scratch`, so that
/// the text is as long as it has to be without being moved.
pub(in crate::forward) fn json(view: &View<'_>, scratch: &mut Vec<u8>) -> Vec<u8> {
    scratch.clear();
    view.to_json(None, scratch);
    scratch.clone()
}
