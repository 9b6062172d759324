//! The codec against tables, against rumqttd's codecs, and against noise.

mod differential;
mod malformed;

use bytes::{Bytes, BytesMut};

use super::{Connect, Error, Header, Kind, Packet, Refusal, decode, decode_connect};
use crate::{Protocol, topic::Topics};

/// Decodes exactly one whole frame.
fn decode_frame(protocol: Protocol, bytes: &[u8]) -> Result<Packet, Error> {
    let (header, body) = split(bytes)?;
    decode(protocol, header, &body, &mut Topics::default())
}

fn decode_connect_frame(bytes: &[u8]) -> Result<Connect, Refusal> {
    let (header, body) = split(bytes).map_err(|error| Refusal {
        protocol: None,
        error,
    })?;
    assert_eq!(header.kind, Kind::Connect);
    decode_connect(&body)
}

fn split(bytes: &[u8]) -> Result<(Header, Bytes), Error> {
    let header = Header::peek(bytes, usize::MAX)?.expect("a complete header");
    assert_eq!(header.frame(), bytes.len(), "a whole frame: {bytes:02x?}");
    Ok((header, Bytes::copy_from_slice(&bytes[header.len..])))
}

/// A frame around a body.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    loop {
        let byte = u8::try_from(len & 0x7F).unwrap();
        len >>= 7;
        bytes.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// What an encoder wrote.
fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}
