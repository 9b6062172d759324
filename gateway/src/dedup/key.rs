//! The idempotency key: 128 bits of BLAKE3 over length-prefixed parts.
//!
//! Promises: equal parts give equal keys, on every gateway and after every
//! restart; parts of different kinds, or cut at different places, never give the
//! same input to the hash. A wrong "different" costs a duplicate row, a wrong
//! "same" loses data, so every key is scoped by who measured and by what the
//! identity was taken from.
//!
//! Which parts make up a key is decided in `normalise::identity`. The bytes that
//! are hashed are a stored format: changing them makes every resend across an
//! upgrade a new event.

use crate::event::{IdSource, Key, Timestamp};

/// Collects the parts of one key. Reused from event to event, so that a key costs
/// no allocation.
#[derive(Debug, Default)]
pub struct Parts {
    bytes: Vec<u8>,
}

impl Parts {
    /// Starts over: the kind of identity, and who measured.
    pub fn start(&mut self, source: IdSource, site: Option<&str>, device: &str) -> &mut Self {
        self.bytes.clear();
        self.bytes.push(letter(source));
        self.optional(site.map(str::as_bytes))
            .bytes(device.as_bytes())
    }

    /// Adds who it came from, where others could say the same: the client identifier of
    /// one whose device is only a claim, and the user, where that is not the device.
    pub fn from_whom(&mut self, client: Option<&str>, user: Option<&str>) -> &mut Self {
        self.bytes
            .push(u8::from(client.is_some()) | u8::from(user.is_some()) << 1);
        for part in [client, user].into_iter().flatten() {
            self.bytes(part.as_bytes());
        }
        self
    }

    /// Adds bytes with their length in front.
    pub fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.length(part.len()).bytes.extend_from_slice(part);
        self
    }

    /// Adds a part that may be absent; absent differs from empty.
    pub fn optional(&mut self, part: Option<&[u8]>) -> &mut Self {
        match part {
            None => self.flag(false),
            Some(part) => self.flag(true).bytes(part),
        }
    }

    /// Adds a number.
    pub fn number(&mut self, part: u64) -> &mut Self {
        self.bytes.extend_from_slice(&part.to_be_bytes());
        self
    }

    /// Adds an instant that may be absent.
    pub fn time(&mut self, part: Option<Timestamp>) -> &mut Self {
        match part {
            None => self.flag(false),
            Some(at) => {
                self.flag(true);
                self.bytes.extend_from_slice(&at.as_nanos().to_be_bytes());
                self
            }
        }
    }

    /// Adds what `write` appends, with its length in front.
    pub fn written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.length(0);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = (self.bytes.len() - start) as u64;
        self.bytes[start - 8..start].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// The key of everything since [`start`](Self::start).
    pub fn key(&self) -> Key {
        truncated(&self.bytes)
    }

    fn flag(&mut self, part: bool) -> &mut Self {
        self.bytes.push(u8::from(part));
        self
    }

    fn length(&mut self, length: usize) -> &mut Self {
        self.number(length as u64)
    }
}

/// A hash of what `write` appends, as a part of keys.
pub fn digest(write: impl FnOnce(&mut Vec<u8>)) -> Key {
    let mut bytes = Vec::new();
    write(&mut bytes);
    truncated(&bytes)
}

/// The key of an event that nothing identifies: a version 7 UUID from the time of
/// receipt, the message's random `nonce`, and the number of the event in its message.
pub fn random(received: Timestamp, nonce: [u8; 16], index: u64) -> Key {
    let mut key = nonce;
    if index > 0 {
        let mut input = [0; 24];
        input[..16].copy_from_slice(&nonce);
        input[16..].copy_from_slice(&index.to_be_bytes());
        key = truncated(&input).0;
    }
    // The low 48 bits of the milliseconds, as in RFC 9562, section 5.7.
    key[..6].copy_from_slice(&received.as_millis().to_be_bytes()[2..]);
    key[6] = key[6] & 0x0f | 0x70;
    key[8] = key[8] & 0x3f | 0x80;
    Key(key)
}

/// The key of an event that nothing identifies but its delivery: the same each time
/// the very same packet of one exchange is sent.
pub fn delivered(delivery: [u8; 16], index: u64) -> Key {
    let mut input = [0; 25];
    input[0] = b'd';
    input[1..17].copy_from_slice(&delivery);
    input[17..].copy_from_slice(&index.to_be_bytes());
    truncated(&input)
}

const fn letter(source: IdSource) -> u8 {
    match source {
        IdSource::Explicit => b'e',
        IdSource::Field => b'f',
        IdSource::Protocol => b'p',
        IdSource::Sequence => b's',
        IdSource::Content => b'c',
        IdSource::None => b'n',
    }
}

fn truncated(input: &[u8]) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(input).as_bytes()[..16]);
    Key(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(write: impl FnOnce(&mut Parts)) -> Key {
        let mut parts = Parts::default();
        write(&mut parts);
        parts.key()
    }

    #[test]
    fn keys_stay_what_they_were_in_earlier_versions() {
        let explicit = key(|p| {
            p.start(IdSource::Explicit, Some("pune"), "b7")
                .bytes(b"0190-aa");
        });
        let sequence = key(|p| {
            p.start(IdSource::Sequence, None, "b7")
                .bytes(b"devices/b7/telemetry")
                .optional(Some(b"boot-1"))
                .number(42)
                .time(Some(Timestamp::from_millis(1_772_366_390_123)));
        });
        assert_eq!(explicit.to_string(), "5e3e39f953dabf75d35821267445f024");
        assert_eq!(sequence.to_string(), "dd096e6294c0746c99485be69438ed7a");
    }

    #[test]
    fn a_random_key_is_a_version_7_uuid_and_differs_by_index() {
        let received = Timestamp::from_millis(0x0123_4567_89ab);
        let first = random(received, [0xff; 16], 0);
        assert_eq!(first.to_string(), "0123456789ab7fffbfffffffffffffff");
        assert_ne!(first, random(received, [0xff; 16], 1));
        assert_eq!(random(received, [7; 16], 3), random(received, [7; 16], 3));
    }

    proptest! {
        #[test]
        fn parts_cut_differently_give_different_keys(
            a in proptest::collection::vec(".{0,12}", 1..4),
            b in proptest::collection::vec(".{0,12}", 1..4),
        ) {
            let of = |texts: &[String]| key(|p| {
                p.start(IdSource::Field, None, "d");
                for text in texts {
                    p.bytes(text.as_bytes());
                }
            });
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }

        #[test]
        fn site_and_device_never_run_into_each_other(
            site in proptest::option::of("[a/]{0,3}"), device in "[a/]{0,3}",
            other_site in proptest::option::of("[a/]{0,3}"), other_device in "[a/]{0,3}",
        ) {
            let of = |site: &Option<String>, device: &str| key(|p| {
                p.start(IdSource::Explicit, site.as_deref(), device).bytes(b"1");
            });
            prop_assert_eq!(
                of(&site, &device) == of(&other_site, &other_device),
                (site, device) == (other_site, other_device)
            );
        }

        #[test]
        fn written_bytes_are_the_same_part_as_given_bytes(part in proptest::collection::vec(any::<u8>(), 0..40)) {
            let given = key(|p| { p.start(IdSource::Content, None, "d").bytes(&part).number(1); });
            let written = key(|p| {
                p.start(IdSource::Content, None, "d").written(|out| out.extend_from_slice(&part)).number(1);
            });
            prop_assert_eq!(given, written);
        }
    }
}
