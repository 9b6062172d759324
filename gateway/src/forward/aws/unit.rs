//! What becomes one entry of a request.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::event::View;

/// One entry of a request, with one event or several of the same partition key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::forward) struct Unit {
    /// What keeps its order, as the service gets it.
    pub(in crate::forward) key: Arc<str>,
    /// What the entry says.
    pub(in crate::forward) data: Bytes,
    /// Bytes that count besides the data.
    pub(in crate::forward) overhead: usize,
    /// Which events of the batch, in order.
    pub(in crate::forward) items: Vec<usize>,
}

impl Unit {
    /// Bytes that count.
    pub(in crate::forward) fn len(&self) -> usize {
        self.data.len() + self.overhead
    }
}

/// Events that are too large, and why.
pub(in crate::forward) type TooLarge = Vec<(usize, String)>;

/// Writes what entries say. Texts lie together in pieces of memory, each of which is freed
/// with the last text in it.
#[derive(Debug)]
pub(in crate::forward) struct Texts {
    text: Vec<u8>,
    piece: BytesMut,
}

impl Default for Texts {
    fn default() -> Self {
        const TEXT: usize = 1_024;
        const PIECE: usize = 64 * 1_024;
        Self {
            text: Vec::with_capacity(TEXT),
            piece: BytesMut::with_capacity(PIECE),
        }
    }
}

impl Texts {
    /// The event as `CloudEvents` JSON.
    pub(in crate::forward) fn json(&mut self, view: &View<'_>) -> Bytes {
        self.text.clear();
        view.to_json(None, &mut self.text);
        self.piece.extend_from_slice(&self.text);
        self.piece.split().freeze()
    }
}
