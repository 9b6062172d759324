//! How a record lies in a row: `position | routes | received | frame`, where
//!
//! ```text
//! frame = checksum (4, little endian) | key (16) | body
//! ```
//!
//! The checksum covers the other columns too: SQLite's own `integrity_check`
//! does not see a flipped byte in a payload. The small fields have columns of
//! their own, so that a reader can pass rows of other destinations, and
//! retention can count them, without touching the body.

use bytes::Bytes;
use rusqlite::Row;

use super::column;
use crate::{
    event::{Key, Timestamp},
    record::{Position, Record, Routes},
};

/// Writes the frame of one row over `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    position: Position,
    routes: Routes,
    received: Timestamp,
    key: Key,
    body: &[u8],
) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&key.0);
    out.extend_from_slice(body);
    let checksum = checksum(position, routes, received, &out[4..]);
    out[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// The frame of a record that is already committed.
pub(super) fn write_record(out: &mut Vec<u8>, record: &Record) {
    write(
        out,
        record.position,
        record.routes,
        record.received,
        record.key,
        &record.body,
    );
}

/// Reads a row back; `None` when the checksum says that it is damaged.
pub(super) fn read(
    position: Position,
    routes: Routes,
    received: Timestamp,
    frame: &[u8],
) -> Option<Record> {
    let (stored, rest) = frame.split_first_chunk::<4>()?;
    let (key, body) = rest.split_first_chunk::<16>()?;
    if u32::from_le_bytes(*stored) != checksum(position, routes, received, rest) {
        return None;
    }
    let body = Bytes::copy_from_slice(body);
    Some(Record {
        position,
        key: Key(*key),
        received,
        routes,
        body,
    })
}

/// A record from the columns `position, routes, received, frame`, beginning at `first`.
pub(super) fn from_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Record>> {
    let number = |at| column::number(row, first + at);
    let (Some(position), Some(routes), Some(received)) = (number(0)?, number(1)?, number(2)?)
    else {
        return Ok(None);
    };
    let Ok(frame) = row.get_ref(first + 3)?.as_bytes() else {
        return Ok(None);
    };
    let (position, routes) = (Position(integer(position)), Routes(integer(routes)));
    Ok(read(
        position,
        routes,
        Timestamp::from_nanos(received),
        frame,
    ))
}

fn checksum(position: Position, routes: Routes, received: Timestamp, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut head = [0; 24];
    head[..8].copy_from_slice(&position.0.to_le_bytes());
    head[8..16].copy_from_slice(&routes.0.to_le_bytes());
    head[16..].copy_from_slice(&received.as_nanos().to_le_bytes());
    hasher.update(&head);
    hasher.update(rest);
    hasher.finalize()
}

/// SQLite's integers are signed; ours are bit patterns or counters below 2^63.
pub(super) const fn column(n: u64) -> i64 {
    n.cast_signed()
}

/// The way back of [`column()`].
pub(super) const fn integer(n: i64) -> u64 {
    n.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let (position, routes) = (Position(7), Routes(0b101));
        let received = Timestamp::from_nanos(-3);
        let mut frame = Vec::new();
        write(
            &mut frame,
            position,
            routes,
            received,
            Key([9; 16]),
            b"body",
        );
        let record = read(position, routes, received, &frame).expect("whole");
        assert_eq!(&record.body[..], b"body");
        assert!(read(Position(8), routes, received, &frame).is_none());
        assert!(read(position, Routes(0b111), received, &frame).is_none());
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read(position, routes, received, &flipped).is_none(),
                "bit {bit}"
            );
        }
        for end in 0..frame.len() {
            assert!(
                read(position, routes, received, &frame[..end]).is_none(),
                "cut at {end}"
            );
        }
    }
}
