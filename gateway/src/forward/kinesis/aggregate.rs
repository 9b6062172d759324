//! Several events in one record, in the format of Amazon's Kinesis Producer Library.
//!
//! `F3 89 9A C2`, then a Protocol Buffers message, then its MD5. The message has a table
//! of partition keys (field 1) and one entry per event (field 3) with the number of its
//! key (field 1) and its bytes (field 3). All events here have the partition key of the
//! record, so that readers which check the key against the range of the shard, as
//! Amazon's own do, find it there also after a resharding.
//!
//! Source: `aggregation-format.md` in github.com/awslabs/amazon-kinesis-producer.

use md5::{Digest as _, Md5};

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;
/// Field numbers with the wire type of bytes.
const KEY_TABLE: u8 = 1 << 3 | 2;
const RECORDS: u8 = 3 << 3 | 2;
const DATA: u8 = 3 << 3 | 2;
/// Field 1 as a number: the first key of the table.
const KEY_INDEX: [u8; 2] = [1 << 3, 0];

/// A record in the making.
#[derive(Debug)]
pub(super) struct Aggregate(Vec<u8>);

impl Aggregate {
    pub(super) fn of(partition_key: &str) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(KEY_TABLE);
        put_length(&mut bytes, partition_key.len());
        bytes.extend_from_slice(partition_key.as_bytes());
        Self(bytes)
    }

    /// How long the record would be with these bytes too.
    pub(super) const fn len_with(&self, data: usize) -> usize {
        let entry = entry_len(data);
        self.0.len() + 1 + length_len(entry) + entry + MD5_BYTES
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.push(RECORDS);
        put_length(&mut self.0, entry_len(data.len()));
        self.0.extend_from_slice(&KEY_INDEX);
        self.0.push(DATA);
        put_length(&mut self.0, data.len());
        self.0.extend_from_slice(data);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let digest = Md5::digest(&self.0[MAGIC.len()..]);
        self.0.extend_from_slice(&digest);
        self.0
    }
}

const fn entry_len(data: usize) -> usize {
    KEY_INDEX.len() + 1 + length_len(data) + data
}

/// Seven bits a byte, the lowest first.
fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or_default());
}

const fn length_len(mut length: usize) -> usize {
    let mut bytes = 1;
    while length >= 0x80 {
        length >>= 7;
        bytes += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_the_one_that_amazons_readers_know() {
        let mut record = Aggregate::of("press-7");
        record.push(b"one");
        record.push(b"two");
        let bytes = record.finish();
        // `aws-kinesis-agg` 1.2, Amazon's own reader, takes these bytes apart into the two.
        let message = b"\x0a\x07press-7\x1a\x07\x08\x00\x1a\x03one\x1a\x07\x08\x00\x1a\x03two";
        assert_eq!(bytes[..4], MAGIC);
        assert_eq!(&bytes[4..bytes.len() - MD5_BYTES], message);
        assert_eq!(bytes[bytes.len() - MD5_BYTES..], Md5::digest(message)[..]);
    }

    proptest! {
        #[test]
        fn the_length_is_known_before(
            key in "[a-z]{1,200}",
            sizes in proptest::collection::vec(0usize..40_000, 1..5),
        ) {
            let mut record = Aggregate::of(&key);
            let mut expect = 0;
            for size in sizes {
                expect = record.len_with(size);
                record.push(&vec![7; size]);
            }
            prop_assert_eq!(record.finish().len(), expect);
        }
    }
}
