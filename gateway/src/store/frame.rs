//! How a record lies in a row: `position | routes | received | frame`, where
//!
//! ```text
//! frame = checksum (4, little endian) | key (16) | body
//! ```
//!
//! The body may be sealed (see `sealed`): the checksum is of what lies there.
//! The checksum covers the other columns too: SQLite's own `integrity_check`
//! does not see a flipped byte in a payload. The small fields have columns of
//! their own, so that a reader can pass rows of other destinations, and
//! retention can count them, without touching the body.

use bytes::Bytes;
use penstock_broker::seal::{NotOpened, Place, Seal};
use rusqlite::Row;

use super::column;
use crate::{
    event::{Key, Timestamp},
    record::{Position, Record, Routes},
};

/// What is bound to a record, besides.
const RECORD: &str = "journal.record";

/// What makes a record that one, wherever its frame lies.
fn row(position: Position, key: Key) -> [u8; 24] {
    let mut row = [0; 24];
    row[..8].copy_from_slice(&position.0.to_le_bytes());
    row[8..].copy_from_slice(&key.0);
    row
}

/// Writes the frame of one row over `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    seal: &Seal,
    position: Position,
    routes: Routes,
    received: Timestamp,
    key: Key,
    body: &[u8],
) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&key.0);
    let row = &row(position, key);
    seal.seal_to(out, Place { table: RECORD, row }, body);
    let checksum = checksum(position, routes, received, &out[4..]);
    out[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// The frame of a record that is already committed.
pub(super) fn write_record(out: &mut Vec<u8>, seal: &Seal, record: &Record) {
    write(
        out,
        seal,
        record.position,
        record.routes,
        record.received,
        record.key,
        &record.body,
    );
}

/// The body of a record as it lies there; `None` when it does not open: it is damaged.
///
/// # Errors
/// When its key is not there.
pub(super) fn open(seal: &Seal, mut record: Record) -> rusqlite::Result<Option<Record>> {
    let row = &row(record.position, record.key);
    let opened = match seal.open(Place { table: RECORD, row }, &record.body) {
        Ok(std::borrow::Cow::Borrowed(body)) if body.len() == record.body.len() => None,
        Ok(body) => Some(Bytes::from(body.into_owned())),
        Err(NotOpened::Damaged) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if let Some(body) = opened {
        record.body = body;
    }
    Ok(Some(record))
}

/// The body as it lies in a frame, damaged or not.
pub(super) fn body_of(frame: &[u8]) -> &[u8] {
    frame.get(20..).unwrap_or_default()
}

/// Reads a row back, with its body as it lies there; `None` when the checksum says that it
/// is damaged.
pub(super) fn stored(
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
///
/// # Errors
/// When its key is not there.
pub(super) fn from_row(
    seal: &Seal,
    row: &Row<'_>,
    first: usize,
) -> rusqlite::Result<Option<Record>> {
    stored_in(row, first)?.map_or(Ok(None), |record| open(seal, record))
}

/// The same with its body as it lies there.
pub(super) fn stored_in(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Record>> {
    let number = |at| column::number(row, first + at);
    let (Some(position), Some(routes), Some(received)) = (number(0)?, number(1)?, number(2)?)
    else {
        return Ok(None);
    };
    let Ok(frame) = row.get_ref(first + 3)?.as_bytes() else {
        return Ok(None);
    };
    let (position, routes) = (Position(integer(position)), Routes(integer(routes)));
    Ok(stored(
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
            &Seal::default(),
            position,
            routes,
            received,
            Key([9; 16]),
            b"body",
        );
        let record = stored(position, routes, received, &frame).expect("whole");
        assert_eq!(&record.body[..], b"body");
        assert!(stored(Position(8), routes, received, &frame).is_none());
        assert!(stored(position, Routes(0b111), received, &frame).is_none());
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                stored(position, routes, received, &flipped).is_none(),
                "bit {bit}"
            );
        }
        for end in 0..frame.len() {
            assert!(
                stored(position, routes, received, &frame[..end]).is_none(),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn a_sealed_record_opens_at_its_position_and_under_its_key_alone() {
        use penstock_broker::seal::Key as OperatorsKey;

        let seal = |n: u8| {
            let key = OperatorsKey::parse(format!("{n:02x}").repeat(32).as_bytes());
            Seal::new(&key.expect("a key"), &[]).expect("random bytes")
        };
        let ours = seal(1);
        let record = |position, key, body: &[u8]| Record {
            position: Position(position),
            key: Key([key; 16]),
            received: Timestamp::from_nanos(3),
            routes: Routes(1),
            body: Bytes::copy_from_slice(body),
        };
        let mut frame = Vec::new();
        write_record(&mut frame, &ours, &record(7, 9, b"marker"));
        assert!(!frame.windows(6).any(|part| part == b"marker"));
        let there = stored(Position(7), Routes(1), Timestamp::from_nanos(3), &frame);
        let there = there.expect("whole");
        let opened = open(&ours, there.clone()).expect("there is a key");
        assert_eq!(opened.expect("opens"), record(7, 9, b"marker"));
        // What was moved, or is under another key.
        for moved in [record(8, 9, &there.body), record(7, 8, &there.body)] {
            assert_eq!(open(&ours, moved).expect("there is a key"), None);
        }
        open(&seal(2), there.clone()).expect_err("another key is no damage");
        open(&Seal::default(), there).expect_err("nor is none");
    }
}
