//! The bytes of a binary format, read once from the front. What is left is known at
//! every moment, so that nothing is reserved for a length that is not there.

use std::borrow::Cow;

use super::{Class, Fault, Float, Lenient, Node, Reject, lenient};

/// Items that a container reserves room for at once. Few, because containers within
/// each other may each claim as many as there can be.
const RESERVE_MAX: usize = 64;

/// What is left of a payload.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    length: usize,
    /// The format's name.
    format: &'static str,
    lenient: Lenient,
}

impl<'a> Bytes<'a> {
    pub(super) const fn new(format: &'static str, payload: &'a [u8], lenient: Lenient) -> Self {
        Self {
            rest: payload,
            length: payload.len(),
            format,
            lenient,
        }
    }

    /// The next byte, which stays.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Reject> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.early())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Reject> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.early())?;
        self.rest = rest;
        Ok(*taken)
    }

    /// An unsigned number of so many bytes, 8 at most, the highest first.
    pub(super) fn unsigned(&mut self, count: usize) -> Result<u64, Reject> {
        let bytes = self.take(count)?;
        Ok(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// Text of so many bytes.
    pub(super) fn text(&mut self, count: usize) -> Result<Cow<'a, str>, Reject> {
        lenient::text(self.take(count)?, self.lenient, self.format)
    }

    /// Room for the items of a container, each of which takes `bytes_min` at least.
    pub(super) fn room<T>(&self, items: usize, bytes_min: usize) -> Result<Vec<T>, Reject> {
        if items.saturating_mul(bytes_min) > self.rest.len() {
            return Err(self.early());
        }
        Ok(Vec::with_capacity(items.min(RESERVE_MAX)))
    }

    /// Refuses what follows the end.
    pub(super) fn end(&self) -> Result<(), Reject> {
        match self.rest.is_empty() || self.lenient.allows(Fault::TrailingBytes) {
            true => Ok(()),
            false => Err(self.syntax("something follows the end")),
        }
    }

    fn early(&self) -> Reject {
        self.syntax("the payload ends early")
    }

    pub(super) fn syntax(&self, what: &str) -> Reject {
        let (format, at) = (self.format, self.length - self.rest.len());
        Reject::new(Class::Syntax, format!("{what} ({format}, byte {at})"))
    }
}

/// A number that has no literal.
pub(super) const fn float(value: f64) -> Node<'static> {
    Node::Float(Float {
        value,
        literal: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_reserves_little() {
        let payload = [0; 20_000];
        let bytes = Bytes::new("CBOR", &payload, Lenient::STRICT);
        let room = |items, bytes_min| bytes.room::<u8>(items, bytes_min);
        assert_eq!(room(3, 1).unwrap().capacity(), 3);
        assert_eq!(room(9_999, 2).unwrap().capacity(), RESERVE_MAX);
        assert_eq!(room(10_001, 2).unwrap_err().class, Class::Syntax);
        assert_eq!(room(20_001, 1).unwrap_err().class, Class::Syntax);
        assert_eq!(room(usize::MAX, 2).unwrap_err().class, Class::Syntax);
    }
}
