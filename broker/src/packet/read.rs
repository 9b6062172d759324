//! Reads the data types of MQTT (section 1.5) from the body of a frame.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::Error;

const SHORT: Error = Error::malformed("packet ends too early");

/// A cursor over the body of one frame.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    body: &'a Bytes,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a Bytes) -> Self {
        Self {
            body,
            at: 0,
            end: body.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.end - self.at
    }

    /// The rest must be nothing.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Error::malformed("bytes after the packet's end"))
        }
    }

    fn take(&mut self, len: usize) -> Result<Range<usize>, Error> {
        if len > self.end - self.at {
            return Err(SHORT);
        }
        let range = self.at..self.at + len;
        self.at += len;
        Ok(range)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        let range = self.take(1)?;
        Ok(self.body[range.start])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        let range = self.take(2)?;
        Ok(u16::from_be_bytes([
            self.body[range.start],
            self.body[range.start + 1],
        ]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        let high = self.u16()?;
        let low = self.u16()?;
        Ok(u32::from(high) << 16 | u32::from(low))
    }

    /// A byte that is 0 or 1; anything else is a protocol error.
    pub(super) fn bool(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::protocol("a property of 0 or 1 has another value")),
        }
    }

    /// A variable byte integer, in its shortest form or not: the specification
    /// asks senders for the shortest, and receivers to take up to four bytes.
    pub(super) fn varint(&mut self) -> Result<u32, Error> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::malformed(
            "variable byte integer of more than four bytes",
        ))
    }

    /// Two bytes of length and as many bytes, as they are.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u16()?;
        let range = self.take(len.into())?;
        Ok(&self.body[range])
    }

    /// [`Reader::binary`] as a slice that shares the frame.
    pub(super) fn binary_shared(&mut self) -> Result<Bytes, Error> {
        let len = self.u16()?;
        let range = self.take(len.into())?;
        Ok(self.body.slice(range))
    }

    /// A UTF-8 encoded string (section 1.5.4).
    pub(super) fn str(&mut self) -> Result<&'a str, Error> {
        text(self.binary()?)
    }

    pub(super) fn shared_str(&mut self) -> Result<Arc<str>, Error> {
        self.str().map(Arc::from)
    }

    /// Everything that is left, sharing the frame.
    pub(super) fn rest(&mut self) -> Bytes {
        let range = self.at..self.end;
        self.at = self.end;
        self.body.slice(range)
    }

    /// The property block that comes next (section 2.2.2).
    pub(super) fn properties(&mut self) -> Result<Properties<'a>, Error> {
        let len = self.varint()? as usize;
        let range = self.take(len)?;
        Ok(Properties {
            reader: Reader {
                body: self.body,
                at: range.start,
                end: range.end,
            },
            seen: 0,
        })
    }
}

/// A property block: hands out identifiers and refuses one that comes twice.
#[derive(Debug)]
pub(super) struct Properties<'a> {
    pub(super) reader: Reader<'a>,
    seen: u64,
}

impl<'a> Properties<'a> {
    /// A block without its length.
    pub(super) fn of(block: &'a Bytes) -> Self {
        Self {
            reader: Reader::new(block),
            seen: 0,
        }
    }
}

impl Properties<'_> {
    pub(super) const USER: u32 = 0x26;

    /// The identifier of the next property; its value is to be read from `reader`.
    pub(super) fn next(&mut self) -> Result<Option<u32>, Error> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.varint()?;
        if id >= 64 {
            return Err(UNKNOWN);
        }
        if id != Self::USER && self.seen & (1 << id) != 0 {
            return Err(Error::protocol("a property is there twice"));
        }
        self.seen |= 1 << id;
        Ok(Some(id))
    }

    /// A name and value pair.
    pub(super) fn user(&mut self) -> Result<(Arc<str>, Arc<str>), Error> {
        Ok((self.reader.shared_str()?, self.reader.shared_str()?))
    }

    /// Checks and drops a pair.
    pub(super) fn skip_user(&mut self) -> Result<(), Error> {
        self.reader.str()?;
        self.reader.str()?;
        Ok(())
    }
}

/// A property that does not belong into the packet.
pub(super) const UNKNOWN: Error = Error::malformed("a property that the packet must not have");

/// Valid UTF-8 without U+0000.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Error> {
    if memchr::memchr(0, bytes).is_some() {
        return Err(Error::malformed("a string with U+0000"));
    }
    std::str::from_utf8(bytes).map_err(|_| Error::malformed("a string that is not UTF-8"))
}
