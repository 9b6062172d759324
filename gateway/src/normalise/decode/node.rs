//! A decoded payload: borrows from the bytes where it can.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::event::Value;

/// A value of any payload format, before it is known what it means.
#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    /// Known to be absent.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer that fits 64 bits with sign.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    /// A number with a fraction or an exponent. Not finite only where the format can say so.
    Float(Float<'a>),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A list.
    Array(Vec<Self>),
    /// Named values, in the order sent; names do not repeat.
    Map(Vec<(Cow<'a, str>, Self)>),
}

/// A number with its digits as sent, where what was sent has digits.
#[derive(Debug, Clone)]
pub struct Float<'a> {
    /// The nearest 64-bit float.
    pub value: f64,
    /// The literal: times are read from it, because a float has too few digits.
    pub literal: Option<Cow<'a, str>>,
}

impl PartialEq for Float<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.value.to_bits() == other.value.to_bits()
    }
}

impl Node<'_> {
    /// The member of an object, or the item of an array by its number.
    pub fn child(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(members) => members
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, node)| node),
            // "01" is not an index (RFC 6901, section 4).
            Self::Array(items) if name == "0" || !name.starts_with(['0', '+']) => {
                items.get(name.parse::<usize>().ok()?)
            }
            _ => None,
        }
    }

    /// The word for this kind of value in a reason.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::UInt(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Array(_) => "an array",
            Self::Map(_) => "an object",
        }
    }

    /// As an event keeps it. A float that is not finite becomes null; the caller
    /// marks such a measurement as bad.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::Int(*n),
            Self::UInt(n) => Value::UInt(*n),
            Self::Float(float) if float.value.is_finite() => Value::Float(float.value),
            Self::Float(_) => Value::Null,
            Self::Text(text) => Value::Text(text.as_ref().to_owned()),
            Self::Bytes(bytes) => Value::Bytes(bytes.as_ref().to_owned()),
            Self::Array(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Map(members) => Value::Map(
                members
                    .iter()
                    .map(|(name, node)| (name.as_ref().to_owned(), node.to_value()))
                    .collect(),
            ),
        }
    }
}

impl From<u64> for Node<'_> {
    fn from(n: u64) -> Self {
        i64::try_from(n).map_or(Self::UInt(n), Self::Int)
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(b) => to.serialize_bool(*b),
            Self::Int(n) => to.serialize_i64(*n),
            Self::UInt(n) => to.serialize_u64(*n),
            Self::Float(float) => to.serialize_f64(float.value),
            Self::Text(text) => to.serialize_str(text),
            Self::Bytes(bytes) => to.serialize_bytes(bytes),
            Self::Array(items) => to.collect_seq(items),
            Self::Map(members) => to.collect_map(members.iter().map(|(name, node)| (name, node))),
        }
    }
}

/// A payload without some elements of one of its arrays.
#[derive(Clone, Copy)]
pub(in crate::normalise) struct Without<'n, 'a, 'f> {
    /// The payload.
    pub(in crate::normalise) node: &'n Node<'a>,
    /// The array; not empty, or it could not be told from others.
    pub(in crate::normalise) array: &'n [Node<'a>],
    /// Which elements stay, the others become null; `None` makes null of the whole array.
    pub(in crate::normalise) keep: Option<&'f dyn Fn(usize) -> bool>,
}

impl Without<'_, '_, '_> {
    /// Appends JSON, every number with the digits that it was sent with.
    pub(in crate::normalise) fn to_json(self, out: &mut Vec<u8>) {
        let inner = |node, out: &mut Vec<u8>| Self { node, ..self }.to_json(out);
        match self.node {
            Node::Float(Float {
                literal: Some(literal),
                ..
            }) => out.extend_from_slice(literal.as_bytes()),
            Node::Array(items) => {
                let split = std::ptr::eq(items.as_slice(), self.array);
                let keep = |n| !split || self.keep.is_some_and(|keep| keep(n));
                out.push(b'[');
                for (n, item) in items.iter().enumerate() {
                    comma(n, out);
                    inner(if keep(n) { item } else { &Node::Null }, out);
                }
                out.push(b']');
            }
            Node::Map(members) => {
                out.push(b'{');
                for (n, (name, node)) in members.iter().enumerate() {
                    comma(n, out);
                    json(name, out);
                    out.push(b':');
                    inner(node, out);
                }
                out.push(b'}');
            }
            leaf => json(leaf, out),
        }
    }
}

fn comma(before: usize, out: &mut Vec<u8>) {
    if before > 0 {
        out.push(b',');
    }
}

fn json(leaf: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, leaf).expect("names are text and memory suffices");
}

impl Serialize for Without<'_, '_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let inner = |node| Self { node, ..*self };
        match self.node {
            Node::Array(items) if std::ptr::eq(items.as_slice(), self.array) => match self.keep {
                None => to.serialize_unit(),
                Some(keep) => to.collect_seq(
                    items
                        .iter()
                        .enumerate()
                        .map(|(n, item)| keep(n).then_some(item)),
                ),
            },
            Node::Array(items) => to.collect_seq(items.iter().map(inner)),
            Node::Map(members) => {
                to.collect_map(members.iter().map(|(name, node)| (name, inner(node))))
            }
            leaf => leaf.serialize(to),
        }
    }
}
