//! CBOR (RFC 8949): one data item, any of the encodings, lengths checked against
//! what is left before anything is allocated.
//!
//! Integer keys become their digits, so that a JSON Pointer can name them. Tags
//! are looked through (0 and 1 mark times, which a mapping names anyway), except
//! for big integers, which no 64 bits hold, and for fractions, which are one number
//! and no array of two (section 3.4.4; SenML may write any number so).

mod number;

use std::borrow::Cow;

use super::{
    Budget, Class, Lenient, Node, Reject,
    binary::{Bytes, float},
    distinct,
};

/// Decodes one CBOR data item.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let mut parser = Parser {
        bytes: Bytes::new("CBOR", payload, lenient),
        budget: Budget::new(lenient),
    };
    let node = parser.value(0)?;
    parser.bytes.end()?;
    Ok(node)
}

const POSITIVE: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const BREAK: u8 = 0xff;

/// The first bytes of an item (RFC 8949, section 3).
struct Head {
    major: u8,
    /// The low five bits, which tell how `argument` was written.
    info: u8,
    /// `None` where the length is indefinite.
    argument: Option<u64>,
}

struct Parser<'a> {
    bytes: Bytes<'a>,
    budget: Budget,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        let mut head = self.head()?;
        while head.major == TAG {
            match head.argument {
                None => return Err(self.bytes.syntax("not a CBOR tag")),
                Some(sign @ (2 | 3)) => {
                    let whole = self.big(sign == 3)?;
                    return self.node(whole);
                }
                Some(base @ (4 | 5)) => return self.fraction(base == 4, depth),
                Some(_) => {}
            }
            // Tags are elements too, or a row of them would cost nothing.
            self.budget.take()?;
            head = self.head()?;
        }
        match head.major {
            POSITIVE => Ok(Node::from(self.definite(&head)?)),
            NEGATIVE => {
                let whole = self.negative(&head)?;
                self.node(whole)
            }
            BYTES => self.bytes(head.argument).map(Node::Bytes),
            TEXT => self.text(head.argument).map(Node::Text),
            ARRAY => self.array(head.argument, self.budget.enter(depth)?),
            MAP => self.map(head.argument, self.budget.enter(depth)?),
            _ => self.simple(&head),
        }
    }

    fn head(&mut self) -> Result<Head, Reject> {
        let [first] = self.bytes.array()?;
        let info = first & 0x1f;
        let argument = match info {
            0..24 => Some(u64::from(info)),
            24 => Some(self.bytes.unsigned(1)?),
            25 => Some(self.bytes.unsigned(2)?),
            26 => Some(self.bytes.unsigned(4)?),
            27 => Some(self.bytes.unsigned(8)?),
            31 => None,
            _ => return Err(self.bytes.syntax("a reserved CBOR length")),
        };
        Ok(Head {
            major: first >> 5,
            info,
            argument,
        })
    }

    fn definite(&self, head: &Head) -> Result<u64, Reject> {
        head.argument
            .ok_or_else(|| self.bytes.syntax("an integer of indefinite length"))
    }

    fn bytes(&mut self, length: Option<u64>) -> Result<Cow<'a, [u8]>, Reject> {
        if let Some(length) = length {
            return self.bytes.take(count(length)).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        while let Some(chunk) = self.next_chunk(BYTES)? {
            whole.extend_from_slice(self.bytes.take(chunk)?);
        }
        Ok(Cow::Owned(whole))
    }

    fn text(&mut self, length: Option<u64>) -> Result<Cow<'a, str>, Reject> {
        if let Some(length) = length {
            return self.bytes.text(count(length));
        }
        let mut whole = String::new();
        while let Some(chunk) = self.next_chunk(TEXT)? {
            // Each is text by itself (section 3.2.3).
            whole.push_str(&self.bytes.text(chunk)?);
        }
        Ok(Cow::Owned(whole))
    }

    /// The length of the next chunk of a string of indefinite length; `None` at its end.
    fn next_chunk(&mut self, major: u8) -> Result<Option<usize>, Reject> {
        if self.at_break() {
            return Ok(None);
        }
        self.budget.take()?;
        let head = self.head()?;
        match head.argument {
            Some(length) if head.major == major => Ok(Some(count(length))),
            _ => Err(self
                .bytes
                .syntax("a string holds something that is not a part of it")),
        }
    }

    fn array(&mut self, length: Option<u64>, depth: usize) -> Result<Node<'a>, Reject> {
        let mut items = self.bytes.room(length.map_or(0, count), 1)?;
        while self.more(length, items.len()) {
            items.push(self.value(depth)?);
        }
        Ok(Node::Array(items))
    }

    fn map(&mut self, length: Option<u64>, depth: usize) -> Result<Node<'a>, Reject> {
        let mut members = self.bytes.room(length.map_or(0, count), 2)?;
        while self.more(length, members.len()) {
            let name = self.name()?;
            members.push((name, self.value(depth)?));
        }
        distinct(&mut members, self.budget.lenient)?;
        Ok(Node::Map(members))
    }

    fn more(&mut self, length: Option<u64>, have: usize) -> bool {
        match length {
            Some(length) => (have as u64) < length,
            None => !self.at_break(),
        }
    }

    fn at_break(&mut self) -> bool {
        let found = self.bytes.peek() == Some(BREAK);
        found && self.bytes.array::<1>().is_ok()
    }

    fn name(&mut self) -> Result<Cow<'a, str>, Reject> {
        let head = self.head()?;
        match head.major {
            TEXT => self.text(head.argument),
            POSITIVE => Ok(Cow::Owned(self.definite(&head)?.to_string())),
            NEGATIVE => Ok(Cow::Owned(
                (-1 - i128::from(self.definite(&head)?)).to_string(),
            )),
            _ => Err(Reject::new(
                Class::Type,
                "a name in a CBOR map is neither text nor an integer",
            )),
        }
    }

    fn simple(&self, head: &Head) -> Result<Node<'a>, Reject> {
        let argument = head
            .argument
            .ok_or_else(|| self.bytes.syntax("a break outside of an item"))?;
        match head.info {
            20 => Ok(Node::Bool(false)),
            21 => Ok(Node::Bool(true)),
            // Null and undefined.
            22 | 23 => Ok(Node::Null),
            25 => Ok(float(half(argument))),
            26 => Ok(float(f64::from(f32::from_bits(
                u32::try_from(argument).expect("four bytes were read"),
            )))),
            27 => Ok(float(f64::from_bits(argument))),
            // A simple value below 32 in two bytes is not well-formed (section 3.3).
            24 if argument < 32 => Err(self.bytes.syntax("not a CBOR simple value")),
            _ => Err(Reject::new(
                Class::Type,
                "a CBOR simple value that has no meaning",
            )),
        }
    }
}

/// A length, as far as there can be one.
fn count(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// A half-precision float (RFC 8949, appendix D).
fn half(bits: u64) -> f64 {
    let exponent = i32::try_from(bits >> 10 & 0x1f).expect("five bits");
    let mantissa = f64::from(u32::try_from(bits & 0x3ff).expect("ten bits"));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests {
    use ciborium::Value;
    use proptest::prelude::*;

    use super::{super::ELEMENTS_MAX, *};

    fn class(bytes: &[u8]) -> Result<(), &'static str> {
        decode(bytes, Lenient::STRICT)
            .map(|_| ())
            .map_err(|reject| reject.class.as_str())
    }

    #[test]
    fn more_items_are_read_than_room_is_reserved_for() {
        let mut long = vec![0x99, 0x03, 0xe8];
        long.extend([0; 1_000]);
        assert!(
            matches!(decode(&long, Lenient::STRICT), Ok(Node::Array(items)) if items.len() == 1_000)
        );
    }

    #[test]
    fn refuses_what_is_not_well_formed_or_not_ours() {
        for (bytes, expect) in [
            (&b"\x01\x01"[..], "syntax"),
            (b"\xff", "syntax"),
            (b"\xa1", "syntax"),
            (b"\xa1aa", "syntax"),
            (b"\x1c", "syntax"),
            (b"\x1f", "syntax"),
            (b"\x3f", "syntax"),
            (b"\xdf\x01", "syntax"),
            (b"\xc1", "syntax"),
            (b"\xf8\x14", "syntax"),
            (b"\x9f\x01", "syntax"),
            (b"\xbfaa\x01", "syntax"),
            (b"\xbfaa\xff", "syntax"),
            (b"\x7f\x41a\xff", "syntax"),
            (b"\x7f\x7faa\xff\xff", "syntax"),
            (b"\x7b\x10\0\0\0\0\0\0\0A", "syntax"),
            (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "syntax"),
            (b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", "syntax"),
            (b"\x61\xff", "encoding"),
            (b"\x7fa\xc3a\xa9\xff", "encoding"),
            (b"\xa2aa\x01aa\x02", "duplicate_key"),
            (b"\xa2\x01\x01a1\x02", "duplicate_key"),
            (b"\xa1\x40\x01", "type"),
            (b"\xa1\xf5\x01", "type"),
            (b"\xf0", "type"),
            (b"\xf8\xff", "type"),
            (b"\xc2\x49\x01\0\0\0\0\0\0\0\0", "range"),
            (b"\x3b\x80\0\0\0\0\0\0\0", "range"),
        ] {
            assert_eq!(class(bytes), Err(expect), "{bytes:x?}");
        }
    }

    #[test]
    fn reads_what_rfc_8949_shows() {
        let text = |text: &'static str| Node::Text(text.into());
        for (bytes, node) in [
            (&b"\x17"[..], Node::Int(23)),
            (
                b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
                Node::UInt(u64::MAX),
            ),
            (b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff", Node::Int(i64::MIN)),
            (b"\xf9\x3c\0", float(1.0)),
            (b"\xf9\x7b\xff", float(65504.0)),
            (b"\xf9\0\x01", float(5.960_464_477_539_063e-8)),
            (b"\xf9\x04\0", float(0.000_061_035_156_25)),
            (b"\xf9\xc4\0", float(-4.0)),
            (b"\xf9\xfc\0", float(f64::NEG_INFINITY)),
            (b"\xfa\x47\xc3\x50\0", float(100_000.0)),
            (b"\xfb\xc0\x10\x66\x66\x66\x66\x66\x66", float(-4.1)),
            (b"\xf7", Node::Null),
            (b"\xc0\x61z", text("z")),
            (b"\xd9\xd9\xf7\x01", Node::Int(1)),
            (b"\x7fbstdream\xff", text("stream")),
            (
                b"\x5f\x42\x01\x02\x41\x03\xff",
                Node::Bytes(vec![1, 2, 3].into()),
            ),
            (
                b"\x9f\x01\x82\x02\x03\xff",
                Node::Array(vec![
                    Node::Int(1),
                    Node::Array(vec![Node::Int(2), Node::Int(3)]),
                ]),
            ),
            (
                b"\xbf\x20\xf5\xff",
                Node::Map(vec![("-1".into(), Node::Bool(true))]),
            ),
        ] {
            assert_eq!(decode(bytes, Lenient::STRICT).unwrap(), node, "{bytes:x?}");
        }
        assert!(
            matches!(decode(b"\xf9\x7e\0", Lenient::STRICT).unwrap(), Node::Float(x) if x.value.is_nan())
        );
    }

    #[test]
    fn bombs_are_refused_without_allocating() {
        // A fraction is not the array that a fraction is made of.
        assert_eq!(class(&[0xc4; 100_000]), Err("syntax"));
        assert_eq!(class(&[0x81; 100_000]), Err("limit"));
        assert_eq!(class(&[0xc1; 100_000]), Err("limit"));
        assert_eq!(
            class(&[&[0x7f][..], &[0x60; 100_000]].concat()),
            Err("limit")
        );
        let mut many = vec![0x99];
        many.extend_from_slice(&u16::try_from(ELEMENTS_MAX).unwrap().to_be_bytes());
        many.resize(3 + ELEMENTS_MAX, 0x01);
        assert_eq!(class(&many), Err("limit"));
        assert_eq!(class(&[&b"\x99\x27\x0f"[..], &[1; 9_999]].concat()), Ok(()));
    }

    fn same(ours: &Node<'_>, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Node::Int(_) | Node::UInt(_) | Node::Float(_), Value::Tag(4 | 5, inner)) => {
                matches!(&**inner, Value::Array(parts) if parts.len() == 2)
            }
            (Node::Int(_) | Node::UInt(_), Value::Tag(2 | 3, inner)) => {
                matches!(&**inner, Value::Bytes(_))
            }
            (ours, Value::Tag(_, inner)) => same(ours, inner),
            (Node::Null, Value::Null) => true,
            (Node::Bool(a), Value::Bool(b)) => a == b,
            (Node::Int(a), Value::Integer(b)) => i128::from(*a) == i128::from(*b),
            (Node::UInt(a), Value::Integer(b)) => i128::from(*a) == i128::from(*b),
            (Node::Float(a), Value::Float(b)) => a.value == *b || (a.value.is_nan() && b.is_nan()),
            (Node::Text(a), Value::Text(b)) => a == b,
            (Node::Bytes(a), Value::Bytes(b)) => a.as_ref() == b,
            (Node::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Node::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|((name, a), (key, b))| {
                        let key = match key {
                            Value::Text(text) => text.clone(),
                            Value::Integer(n) => i128::from(*n).to_string(),
                            _ => return false,
                        };
                        *name == key && same(a, b)
                    })
            }
            _ => false,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<f32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(5, 40, 8, |inner| {
            let name = prop_oneof![
                any::<String>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from)
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                inner
                    .clone()
                    .prop_map(|inner| Value::Tag(1, Box::new(inner))),
                proptest::collection::vec((name, inner), 0..8).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_ciborium_writes_is_read_back(value in value()) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).unwrap();
            match decode(&bytes, Lenient::STRICT) {
                Ok(node) => prop_assert!(same(&node, &value), "{value:?}: {node:?}"),
                Err(reject) => prop_assert_eq!(reject.class, Class::DuplicateKey),
            }
        }

        #[test]
        fn nothing_is_taken_that_ciborium_refuses(bytes in proptest::collection::vec(any::<u8>(), 1..20)) {
            if let Ok(ours) = decode(&bytes, Lenient::STRICT) {
                let theirs = ciborium::from_reader::<Value, _>(&bytes[..]);
                prop_assert!(theirs.is_ok_and(|theirs| same(&ours, &theirs)), "{bytes:x?}: {ours:?}");
            }
        }
    }
}
