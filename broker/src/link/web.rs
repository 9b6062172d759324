//! The frames of a WebSocket after its handshake (RFC 6455, MQTT 5 section 6).
//!
//! MQTT packets may begin and end anywhere in the frames. A payload is unmasked
//! into the connection's input as it arrives, so a frame is never collected,
//! however large it says it is: what bounds packets bounds memory. Only binary
//! frames carry MQTT; of pings that come faster than their answers leave, the
//! first ones are answered.

use std::io::{self, Cursor, ErrorKind::WouldBlock};

use bytes::{Buf, BufMut, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// Most of a message's bytes in one of our frames.
const FRAME_MAX: usize = 16 * 1024;
/// Payload of a control frame (section 5.5).
const CONTROL_MAX: u64 = 125;
/// Answers to pings that may wait.
const ANSWERS_MAX: usize = 1024;

const PROTOCOL_ERROR: u16 = 1002;
const NOT_BINARY: u16 = 1003;
const NORMAL: u16 = 1000;

#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// As received, not looked at yet.
    raw: BytesMut,
    /// What is left of the payload of the frame that is arriving.
    left: u64,
    mask: [u8; 4],
    /// Which byte of the mask comes next.
    turn: usize,
    /// Bytes are waiting that nobody had room for.
    has_more: bool,
    /// A message goes on in the next frame.
    in_message: bool,
    /// Frames that are not written yet.
    out: BytesMut,
    /// The peer said that it is done, or we know that it is.
    ended: bool,
    /// We said that we are.
    said_end: bool,
}

impl Frames {
    pub(crate) const fn has_more(&self) -> bool {
        self.has_more
    }

    pub(crate) fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Reads payload into the room of `input`; nothing read is the end.
    pub(crate) fn try_read(
        &mut self,
        input: &mut BytesMut,
        mut read: impl FnMut(&mut BytesMut) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let count = self.unframe(input)?;
            if count > 0 || self.ended {
                return Ok(count);
            }
            self.raw.reserve(input.capacity() - input.len());
            match read(&mut self.raw) {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) => {
                    if self.raw.is_empty() {
                        // A connection that waits holds nothing.
                        self.raw = BytesMut::new();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn unframe(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let before = input.len();
        loop {
            let room = input.capacity() - input.len();
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let count = room.min(left).min(self.raw.len());
            if count > 0 {
                self.unmask(count, input);
            }
            if self.left > 0 || room == count || self.ended || !self.header()? {
                break;
            }
        }
        self.has_more = !self.raw.is_empty() && input.len() == input.capacity();
        if self.raw.is_empty() {
            self.raw = BytesMut::new();
        }
        Ok(input.len() - before)
    }

    fn unmask(&mut self, count: usize, input: &mut BytesMut) {
        let mut key = self.mask;
        key.rotate_left(self.turn);
        let start = input.len();
        input.extend_from_slice(&self.raw[..count]);
        for (byte, key) in input[start..].iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        self.turn = (self.turn + count) % 4;
        self.raw.advance(count);
        self.left -= count as u64;
    }

    /// Takes the next header, and a control frame whole. Whether one was there.
    fn header(&mut self) -> io::Result<bool> {
        let mut cursor = Cursor::new(&self.raw);
        let parsed = FrameHeader::parse(&mut cursor);
        let Ok(parsed) = parsed else {
            return Err(self.refuse(PROTOCOL_ERROR, "a frame with a header that is none"));
        };
        let Some((header, len)) = parsed else {
            return Ok(false);
        };
        let at = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let Some(mask) = header.mask else {
            return Err(self.refuse(PROTOCOL_ERROR, "a frame that is not masked"));
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(self.refuse(PROTOCOL_ERROR, "a frame with an extension"));
        }
        match header.opcode {
            OpCode::Data(kind) => {
                match (kind, self.in_message) {
                    (Data::Binary, false) | (Data::Continue, true) => {}
                    (Data::Text, false) => {
                        return Err(self.refuse(NOT_BINARY, "a text frame; MQTT is binary"));
                    }
                    _ => {
                        return Err(self.refuse(PROTOCOL_ERROR, "a frame out of its turn"));
                    }
                }
                self.in_message = !header.is_final;
                (self.left, self.mask, self.turn) = (len, mask, 0);
                self.raw.advance(at);
            }
            OpCode::Control(kind) => {
                if !header.is_final || len > CONTROL_MAX {
                    return Err(self.refuse(PROTOCOL_ERROR, "a control frame that is too long"));
                }
                let end = at + usize::try_from(len).unwrap_or(usize::MAX);
                if self.raw.len() < end {
                    return Ok(false);
                }
                self.raw.advance(at);
                let mut payload = self.raw.split_to(end - at);
                for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
                    *byte ^= key;
                }
                match kind {
                    Control::Ping if self.out.len() < ANSWERS_MAX => {
                        self.put(OpCode::Control(Control::Pong), &payload);
                    }
                    Control::Ping | Control::Pong => {}
                    Control::Close => {
                        self.say_end();
                        self.ended = true;
                    }
                    Control::Reserved(_) => {
                        return Err(self.refuse(PROTOCOL_ERROR, "a frame of an unknown kind"));
                    }
                }
            }
        }
        Ok(true)
    }

    fn refuse(&mut self, code: u16, what: &'static str) -> io::Error {
        self.end_with(code);
        self.ended = true;
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    pub(super) fn say_end(&mut self) {
        self.end_with(NORMAL);
    }

    fn end_with(&mut self, code: u16) {
        if !self.said_end {
            self.said_end = true;
            self.put(OpCode::Control(Control::Close), &code.to_be_bytes());
        }
    }

    fn put(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader {
            opcode,
            ..FrameHeader::default()
        };
        let len = payload.len() as u64;
        let mut out = (&mut self.out).writer();
        header
            .format(len, &mut out)
            .expect("memory takes what is written");
        self.out.extend_from_slice(payload);
    }

    pub(super) fn try_write(
        &mut self,
        output: &[u8],
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.flush(&mut write)?;
        if !self.out.is_empty() {
            return Err(WouldBlock.into());
        }
        if self.said_end {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = output.len().min(FRAME_MAX);
        self.put(OpCode::Data(Data::Binary), &output[..count]);
        self.flush(write)?;
        Ok(count)
    }

    pub(crate) fn flush(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while !self.out.is_empty() {
            match write(&self.out) {
                Ok(count) => self.out.advance(count),
                Err(error) if error.kind() == WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out = BytesMut::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
