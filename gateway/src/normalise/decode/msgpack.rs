//! MessagePack (<https://github.com/msgpack/msgpack/blob/master/spec.md>): one
//! value, lengths checked against what is left before anything is allocated.
//!
//! Integer keys become their digits, as in CBOR. The timestamp extension becomes
//! RFC 3339 text; other extensions mean nothing to anybody but their sender, and
//! are refused. The decoder is our own because the stock one takes 0xC1, which the
//! format forbids, for a null.

use std::borrow::Cow;

use super::{
    Budget, Class, Lenient, Node, Reject,
    binary::{Bytes, float},
    distinct,
};

/// Decodes one MessagePack value.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let mut parser = Parser {
        bytes: Bytes::new("MessagePack", payload, lenient),
        budget: Budget::new(lenient),
    };
    let node = parser.value(0)?;
    parser.bytes.end()?;
    Ok(node)
}

/// The extension that is a time.
const TIMESTAMP: i8 = -1;

struct Parser<'a> {
    bytes: Bytes<'a>,
    budget: Budget,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        let first = self.bytes.array::<1>()?[0];
        Ok(match first {
            0x00..=0x7f => Node::Int(i64::from(first)),
            0xe0..=0xff => Node::Int(i64::from(first.cast_signed())),
            0x80..=0x8f => self.map(usize::from(first & 0x0f), depth)?,
            0x90..=0x9f => self.array(usize::from(first & 0x0f), depth)?,
            0xa0..=0xbf => Node::Text(self.text(usize::from(first & 0x1f))?),
            0xc0 => Node::Null,
            0xc1 => return Err(self.bytes.syntax("0xC1 is not the beginning of a value")),
            0xc2 => Node::Bool(false),
            0xc3 => Node::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length_of(first - 0xc4)?;
                Node::Bytes(Cow::Borrowed(self.bytes.take(length)?))
            }
            0xc7..=0xc9 => {
                let length = self.length_of(first - 0xc7)?;
                self.extension(length)?
            }
            0xca => float(f64::from(f32::from_be_bytes(self.bytes.array()?))),
            0xcb => float(f64::from_be_bytes(self.bytes.array()?)),
            0xcc..=0xcf => Node::from(self.unsigned(first - 0xcc)?),
            0xd0 => Node::Int(i64::from(i8::from_be_bytes(self.bytes.array()?))),
            0xd1 => Node::Int(i64::from(i16::from_be_bytes(self.bytes.array()?))),
            0xd2 => Node::Int(i64::from(i32::from_be_bytes(self.bytes.array()?))),
            0xd3 => Node::Int(i64::from_be_bytes(self.bytes.array()?)),
            0xd4..=0xd8 => self.extension(1 << (first - 0xd4))?,
            0xd9..=0xdb => {
                let length = self.length_of(first - 0xd9)?;
                Node::Text(self.text(length)?)
            }
            0xdc | 0xdd => {
                let length = self.length_of(first - 0xdc + 1)?;
                self.array(length, depth)?
            }
            0xde | 0xdf => {
                let length = self.length_of(first - 0xde + 1)?;
                self.map(length, depth)?
            }
        })
    }

    /// An unsigned number of 2 to the `power` bytes.
    fn unsigned(&mut self, power: u8) -> Result<u64, Reject> {
        self.bytes.unsigned(1 << power)
    }

    fn length_of(&mut self, power: u8) -> Result<usize, Reject> {
        Ok(usize::try_from(self.unsigned(power)?).unwrap_or(usize::MAX))
    }

    fn text(&mut self, length: usize) -> Result<Cow<'a, str>, Reject> {
        self.bytes.text(length)
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Node<'a>, Reject> {
        let depth = self.budget.enter(depth)?;
        let mut items = self.bytes.room(length, 1)?;
        for _ in 0..length {
            items.push(self.value(depth)?);
        }
        Ok(Node::Array(items))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Node<'a>, Reject> {
        let depth = self.budget.enter(depth)?;
        let mut members = self.bytes.room(length, 2)?;
        for _ in 0..length {
            let name = self.name()?;
            members.push((name, self.value(depth)?));
        }
        distinct(&mut members, self.budget.lenient)?;
        Ok(Node::Map(members))
    }

    fn name(&mut self) -> Result<Cow<'a, str>, Reject> {
        // A text or an integer holds nothing else, so its depth does not matter.
        match self.bytes.peek() {
            Some(0x00..=0x7f | 0xa0..=0xbf | 0xcc..=0xd3 | 0xd9..=0xdb | 0xe0..=0xff) => {}
            Some(0xc1) => return Err(self.bytes.syntax("0xC1 is not the beginning of a value")),
            Some(_) => {
                let reason = "a name in a MessagePack map is neither text nor an integer";
                return Err(Reject::new(Class::Type, reason));
            }
            None => return Err(self.bytes.syntax("a name should be here")),
        }
        Ok(match self.value(0)? {
            Node::Text(text) => text,
            Node::UInt(n) => Cow::Owned(n.to_string()),
            Node::Int(n) => Cow::Owned(n.to_string()),
            _ => unreachable!("the first byte is that of a text or an integer"),
        })
    }

    fn extension(&mut self, length: usize) -> Result<Node<'a>, Reject> {
        let [kind] = self.bytes.array()?;
        let data = self.bytes.take(length)?;
        if kind.cast_signed() != TIMESTAMP {
            let reason = format!(
                "MessagePack extension {} has no meaning",
                kind.cast_signed()
            );
            return Err(Reject::new(Class::Type, reason));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        let (seconds, nanos) = match data.len() {
            4 => (number(data).cast_signed(), 0),
            8 => {
                let both = number(data);
                ((both & 0x3_ffff_ffff).cast_signed(), both >> 34)
            }
            12 => (number(&data[4..]).cast_signed(), number(&data[..4])),
            _ => return Err(self.bytes.syntax("not a MessagePack timestamp")),
        };
        let nanos = i32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000);
        let at = nanos.and_then(|nanos| jiff::Timestamp::new(seconds, nanos).ok());
        let at = at.ok_or_else(|| {
            Reject::new(
                Class::Range,
                "a MessagePack timestamp is beyond all calendars",
            )
        })?;
        Ok(Node::Text(Cow::Owned(at.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmpv::Value;

    use super::{super::ELEMENTS_MAX, *};

    fn class(bytes: &[u8]) -> Result<(), &'static str> {
        decode(bytes, Lenient::STRICT)
            .map(|_| ())
            .map_err(|reject| reject.class.as_str())
    }

    #[test]
    fn reads_what_the_specification_shows() {
        let text = |text: &'static str| Node::Text(text.into());
        for (bytes, node) in [
            (&b"\x7f"[..], Node::Int(127)),
            (b"\xe0", Node::Int(-32)),
            (b"\xd0\x80", Node::Int(-128)),
            (b"\xd1\xff\xfe", Node::Int(-2)),
            (b"\xd3\x80\0\0\0\0\0\0\0", Node::Int(i64::MIN)),
            (
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                Node::UInt(u64::MAX),
            ),
            (b"\xca\x3f\x80\0\0", float(1.0)),
            (b"\xd9\x01a", text("a")),
            (b"\xda\0\x01a", text("a")),
            (b"\xc5\0\x01\x05", Node::Bytes(vec![5].into())),
            (b"\xdc\0\x01\xc0", Node::Array(vec![Node::Null])),
            (
                b"\xde\0\x01\x05\xc2",
                Node::Map(vec![("5".into(), Node::Bool(false))]),
            ),
            (
                b"\x81\xff\x01",
                Node::Map(vec![("-1".into(), Node::Int(1))]),
            ),
            (b"\xd6\xff\x69\xa4\x29\xa6", text("2026-03-01T11:57:26Z")),
            (
                b"\xd7\xff\x77\x35\x94\0\x69\xa4\x29\xa6",
                text("2026-03-01T11:57:26.5Z"),
            ),
            (
                b"\xc7\x0c\xff\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff",
                text("1969-12-31T23:59:59.000000001Z"),
            ),
        ] {
            assert_eq!(decode(bytes, Lenient::STRICT), Ok(node), "{bytes:x?}");
        }
    }

    #[test]
    fn refuses_what_is_not_well_formed_or_not_ours() {
        for (bytes, expect) in [
            (&b"\xc1"[..], "syntax"),
            (b"\x81\xc1\x01", "syntax"),
            (b"\x01\x01", "syntax"),
            (b"\xa2a", "syntax"),
            (b"\x81\xa1a", "syntax"),
            (b"\xdd\xff\xff\xff\xff\x01", "syntax"),
            (b"\xdf\xff\xff\xff\xff\x01", "syntax"),
            (b"\xdb\xff\xff\xff\xffa", "syntax"),
            (b"\xc6\xff\xff\xff\xff\0", "syntax"),
            (b"\xd5\xff\0\0", "syntax"),
            (b"\xa2\xc3\x28", "encoding"),
            (b"\x82\xa1a\x01\xa1a\x02", "duplicate_key"),
            (b"\x82\x01\x01\xa11\x02", "duplicate_key"),
            (b"\x81\xc0\x01", "type"),
            (b"\x81\x90\x01", "type"),
            (b"\xd4\x05\0", "type"),
            (b"\xd7\xff\xff\xff\xff\xff\0\0\0\0", "range"),
            (
                b"\xc7\x0c\xff\0\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                "range",
            ),
        ] {
            assert_eq!(class(bytes), Err(expect), "{bytes:x?}");
        }
        assert_eq!(class(&[0x91; 100_000]), Err("limit"));
        let many = [&b"\xdc\x27\x10"[..], &[1; ELEMENTS_MAX]].concat();
        assert_eq!(class(&many), Err("limit"));
    }

    fn same(ours: &Node<'_>, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Node::Null, Value::Nil) => true,
            (Node::Bool(a), Value::Boolean(b)) => a == b,
            (Node::Int(a), Value::Integer(b)) => b.as_i64() == Some(*a),
            (Node::UInt(a), Value::Integer(b)) => b.as_u64() == Some(*a),
            (Node::Float(a), Value::F32(b)) => a.value.to_bits() == f64::from(*b).to_bits(),
            (Node::Float(a), Value::F64(b)) => a.value.to_bits() == b.to_bits(),
            (Node::Text(a), Value::String(b)) => b.as_str() == Some(a),
            (Node::Bytes(a), Value::Binary(b)) => a.as_ref() == b,
            (Node::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Node::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|((name, a), (key, b))| {
                        let key = match key {
                            Value::String(text) => text.as_str().map(str::to_owned),
                            Value::Integer(n) => Some(n.to_string()),
                            _ => None,
                        };
                        key.as_deref() == Some(name) && same(a, b)
                    })
            }
            (Node::Text(_), Value::Ext(TIMESTAMP, _)) => true,
            _ => false,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<f32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
        ];
        leaf.prop_recursive(5, 40, 8, |inner| {
            let name = prop_oneof![
                any::<String>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from)
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                proptest::collection::vec((name, inner), 0..8).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_rmpv_writes_is_read_back(value in value()) {
            let mut bytes = Vec::new();
            rmpv::encode::write_value(&mut bytes, &value).unwrap();
            match decode(&bytes, Lenient::STRICT) {
                Ok(node) => prop_assert!(same(&node, &value), "{value:?}: {node:?}"),
                Err(reject) => prop_assert_eq!(reject.class, Class::DuplicateKey),
            }
        }

        #[test]
        fn nothing_is_taken_that_rmpv_refuses(bytes in proptest::collection::vec(any::<u8>(), 1..20)) {
            if let Ok(ours) = decode(&bytes, Lenient::STRICT) {
                let theirs = rmpv::decode::read_value(&mut &bytes[..]);
                prop_assert!(theirs.is_ok_and(|theirs| same(&ours, &theirs)), "{bytes:x?}: {ours:?}");
            }
        }
    }
}
