//! What may come before and around MQTT: the PROXY protocol's header and WebSockets.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::join;

use crate::{
    link::web::Frames,
    listener::{
        config::{ProxyProtocol, WebSocket},
        proxy::{FIXED_LEN, LINE_MAX, REST_MAX, read},
        web::accept,
    },
};

/// What a connection sends first where a PROXY header is due. Nothing behind the header
/// is read, and the address is the one that the header has in it.
pub fn proxy(data: &[u8]) {
    let config = ProxyProtocol { trusted: None };
    let balancer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut rest = data;
    let found = read(&config, &mut rest, Some(balancer))
        .now_or_never()
        .expect("memory does not wait");
    let header = &data[..data.len() - rest.len()];
    assert!(header.len() <= FIXED_LEN + REST_MAX);
    let Ok(found) = found else { return };
    let found = found.expect("the balancer's at least");
    let expect = if header.starts_with(b"PROXY ") {
        line_address(header)
    } else {
        binary_address(header)
    };
    assert_eq!(found, expect.unwrap_or(balancer));
}

/// The source in a line of version 1, if it has one (section 2.1).
fn line_address(header: &[u8]) -> Option<SocketAddr> {
    assert!(header.len() <= LINE_MAX);
    // What stands behind UNKNOWN may be anything (section 2.1).
    let line = String::from_utf8_lossy(header);
    let line = line.strip_suffix("\r\n").expect("the line's end");
    assert!(!line.contains("\r\n"));
    let fields: Vec<&str> = line.split(' ').collect();
    let source: IpAddr = match fields[1] {
        "TCP4" => fields[2].parse::<Ipv4Addr>().expect("an address").into(),
        "TCP6" => fields[2].parse::<Ipv6Addr>().expect("an address").into(),
        _ => return None,
    };
    assert_eq!(fields.len(), 6);
    Some((source, fields[4].parse().expect("a port")).into())
}

/// The source in a header of version 2, if it has one (section 2.2).
fn binary_address(header: &[u8]) -> Option<SocketAddr> {
    let (fixed, rest) = header.split_at(FIXED_LEN);
    assert_eq!(
        rest.len(),
        usize::from(fixed[14]) << 8 | usize::from(fixed[15])
    );
    if fixed[12] & 0x0F == 0 {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match fixed[13] >> 4 {
        1 => {
            let source: [u8; 4] = rest[..4].try_into().expect("four bytes");
            Some((source, port(8)).into())
        }
        2 => {
            let source: [u8; 16] = rest[..16].try_into().expect("sixteen bytes");
            Some((source, port(32)).into())
        }
        _ => None,
    }
}

/// A request for a WebSocket. Only one for MQTT at our path, from a page that may, gets
/// one, and each answer is whole.
pub fn websocket_handshake(data: &[u8]) {
    let config = WebSocket {
        path: "/mqtt".to_owned(),
        origins: Some(vec!["https://good.example".to_owned()]),
    };
    let mut answer = Vec::new();
    let accepted = accept(&config, join(data, &mut answer))
        .now_or_never()
        .expect("memory does not wait")
        .map(|stream| assert!(stream.reader().is_empty()))
        .is_ok();
    let said = String::from_utf8(answer).expect("an answer is text");
    assert!(said.is_empty() || said.contains("\r\n\r\n"));
    assert_eq!(said.starts_with("HTTP/1.1 101 "), accepted);
    if accepted {
        let asked = String::from_utf8_lossy(data).to_lowercase();
        assert!(asked.trim_start().starts_with("get /mqtt"));
        assert!(asked.contains("mqtt\r\n") || asked.contains("mqtt,") || asked.contains("mqtt "));
        assert!(
            said.to_lowercase()
                .contains("sec-websocket-protocol: mqtt\r\n")
        );
    }
}

/// How many bytes arrive at once, how many are asked for, and the frames. However they
/// are cut, what is read is what the frames have in them.
pub fn websocket_frames(data: &[u8]) {
    let [step, room, data @ ..] = data else {
        return;
    };
    let (expect, end) = payload(data);
    let mut pieces = data.chunks(usize::from(*step).max(1));
    let mut frames = Frames::default();
    let mut found = Vec::new();
    let found_end = loop {
        let mut input = BytesMut::with_capacity(usize::from(*room).max(1));
        let most = input.capacity();
        let read = frames.try_read(&mut input, |into| match pieces.next() {
            Some(piece) => {
                into.extend_from_slice(piece);
                Ok(piece.len())
            }
            None => Err(ErrorKind::WouldBlock.into()),
        });
        match read {
            Ok(0) => break End::Closed,
            Ok(count) => {
                assert!(count == input.len() && count <= most);
                found.extend_from_slice(&input);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break End::Waits,
            Err(_) => break End::Refused,
        }
    };
    assert_eq!(found_end, end);
    // What came in the same turn as the refused frame goes with it.
    let is_whole = found == expect || end == End::Refused && expect.starts_with(&found);
    assert!(is_whole, "{found:02x?} of {expect:02x?}");
    let mut out = Vec::new();
    let write = |bytes: &[u8]| -> io::Result<usize> {
        out.extend_from_slice(bytes);
        Ok(bytes.len())
    };
    frames.flush(write).expect("memory takes everything");
    assert_eq!(end != End::Waits, said_close(&out));
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Waits,
    Closed,
    Refused,
}

/// Section 5.2 of RFC 6455, frame by frame, of bytes that are all there.
fn payload(mut data: &[u8]) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    let mut in_message = false;
    loop {
        let [first, second, rest @ ..] = data else {
            return (all, End::Waits);
        };
        let width = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masked = if second & 0x80 == 0 { 0 } else { 4 };
        if rest.len() < width + masked {
            return (all, End::Waits);
        }
        let (wide, rest) = rest.split_at(width);
        let (mask, rest) = rest.split_at(masked);
        let len = wide
            .iter()
            .fold(0_u64, |len, byte| len << 8 | u64::from(*byte));
        let len = if width == 0 {
            u64::from(second & 0x7F)
        } else {
            len
        };
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0F);
        let is_right = match opcode {
            0 => in_message,
            2 => !in_message,
            8..=10 => is_final && len <= 125,
            _ => false,
        };
        if !is_right || mask.is_empty() || first & 0x70 != 0 {
            return (all, End::Refused);
        }
        let count = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
        let is_there = count as u64 == len;
        let (body, rest) = rest.split_at(count);
        if opcode <= 2 {
            in_message = !is_final;
            all.extend(body.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        }
        match (is_there, opcode) {
            (false, _) => return (all, End::Waits),
            (true, 8) => return (all, End::Closed),
            (true, _) => data = rest,
        }
    }
}

/// Whether the last of our frames, which are short, is a close.
fn said_close(mut out: &[u8]) -> bool {
    let mut last = 0;
    while let [first, len, rest @ ..] = out {
        last = *first;
        out = &rest[usize::from(*len)..];
    }
    last == 0x88
}
