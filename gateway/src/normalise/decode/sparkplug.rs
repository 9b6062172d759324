//! Sparkplug B payloads (Eclipse Sparkplug 3.0, section 6.4): protobuf, read into
//! the same values as every other format.
//!
//! The reader is our own: protobuf readers merge fields that repeat, and build
//! every metric before anything can be counted. Here a field that is there twice
//! is refused, and each metric takes from the budget before it is kept. What a
//! later version of the format adds is looked over, as protobuf wants it, and
//! values that mean nothing here (extensions) are marked.
//!
//! ```text
//! {timestamp, seq, uuid, body, metrics: [{name, alias, timestamp, datatype,
//!   historical, transient, null, properties: {name: value},
//!   int | long | float | double | bool | text | bytes | dataset | template}]}
//! dataset: {columns: [name], types: [datatype], rows: [[{int: 1} ...]]}
//! template: {version, template_ref, is_definition, metrics: [...],
//!   parameters: [{name, datatype, int | ...}]}
//! ```

use std::borrow::Cow;

use super::{
    Budget, Class, Compression, Lenient, Members, Node, Reject, binary::float, distinct, inflate,
    lenient, quoted,
};
use crate::dictionary::Known;

/// A member of metrics whose value means nothing here.
pub(in crate::normalise) const UNSUPPORTED: &str = "unsupported";

/// Decodes one payload.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let mut reader = Reader {
        budget: Budget::new(lenient),
    };
    reader.budget.take()?;
    reader.payload(payload)
}

/// The `uuid` of a payload that is around a compressed one, as Eclipse Tahu writes it.
const COMPRESSED: &[u8] = b"SPBV1.0_COMPRESSED";

/// The payload that is in the body of a compressed one, inflated; `None` where the
/// payload is not compressed. How it was done is in the metric `algorithm`: `DEFLATE`
/// (RFC 1950, also where nothing is said) or `GZIP`.
///
/// # Errors
/// When the payload is not one of Sparkplug, or its body cannot be inflated within
/// [`INFLATED_BYTES_MAX`](super::INFLATED_BYTES_MAX).
pub(in crate::normalise) fn inflated(
    payload: &[u8],
    lenient: Lenient,
) -> Result<Option<Vec<u8>>, Reject> {
    let mut rest = payload;
    let mut is_compressed = false;
    while let Some((field, wire)) = next(&mut rest)? {
        is_compressed |= matches!((field, wire), (4, Wire::Bytes(COMPRESSED)));
    }
    if !is_compressed {
        return Ok(None);
    }
    let outer = decode(payload, lenient)?;
    let Some(Node::Bytes(body)) = outer.child("body") else {
        let reason = "the payload says that its body is compressed, and has none";
        return Err(Reject::new(Class::Missing, reason));
    };
    let text = |metric: &Node<'_>, name: &str| match metric.child(name) {
        Some(Node::Text(text)) => Some(text.to_ascii_uppercase()),
        _ => None,
    };
    let algorithm = match outer.child("metrics") {
        Some(Node::Array(metrics)) => metrics
            .iter()
            .find(|metric| text(metric, "name").as_deref() == Some("ALGORITHM"))
            .and_then(|metric| text(metric, "text")),
        _ => None,
    };
    let compression = match algorithm.as_deref() {
        None | Some("DEFLATE") => Compression::Zlib,
        Some("GZIP") => Compression::Gzip,
        Some(other) => {
            let reason = format!("the algorithm {} is not known", quoted(other));
            return Err(Reject::new(Class::Unsupported, reason));
        }
    };
    Ok(Some(
        inflate(compression, body, lenient, &Known::default())?.into_owned(),
    ))
}

/// One field on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

struct Reader {
    budget: Budget,
}

impl Reader {
    fn payload<'a>(&mut self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        let mut members = Vec::new();
        let mut metrics = Vec::new();
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            let node = match (field, wire) {
                (1, Wire::Varint(n)) => ("timestamp", Node::from(n)),
                (2, Wire::Bytes(bytes)) => {
                    metrics.push(self.metric(bytes, 1)?);
                    continue;
                }
                (3, Wire::Varint(n)) => ("seq", Node::from(n)),
                (4, Wire::Bytes(bytes)) => ("uuid", Node::Text(self.text(bytes)?)),
                (5, Wire::Bytes(bytes)) => ("body", Node::Bytes(bytes.into())),
                (1..=5, _) => return Err(wrong_wire()),
                _ => continue,
            };
            self.budget.take()?;
            members.push((node.0.into(), node.1));
        }
        distinct(&mut members, self.budget.lenient)?;
        members.push(("metrics".into(), Node::Array(metrics)));
        Ok(Node::Map(members))
    }

    fn metric<'a>(&mut self, bytes: &'a [u8], depth: usize) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        let mut members: Members<'a> = Vec::new();
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            let (name, node) = match (field, wire) {
                (1, Wire::Bytes(bytes)) => ("name", Node::Text(self.text(bytes)?)),
                (2, Wire::Varint(n)) => ("alias", Node::from(n)),
                (3, Wire::Varint(n)) => ("timestamp", Node::from(n)),
                (4, Wire::Varint(n)) => ("datatype", Node::from(n)),
                (5, Wire::Varint(n)) => ("historical", Node::Bool(n != 0)),
                (6, Wire::Varint(n)) => ("transient", Node::Bool(n != 0)),
                (7, Wire::Varint(n)) => ("null", Node::Bool(n != 0)),
                (8, Wire::Bytes(_)) => continue,
                (9, Wire::Bytes(bytes)) => ("properties", self.properties(bytes)?),
                (10..=16, wire) => self.value(field - 10, wire)?,
                (17, Wire::Bytes(bytes)) => ("dataset", self.data_set(bytes)?),
                (18, Wire::Bytes(bytes)) => ("template", self.template(bytes, depth)?),
                (17 | 18, _) => return Err(wrong_wire()),
                // The names beside it still count, where this is a birth.
                (19, _) => (UNSUPPORTED, Node::Null),
                (1..=9, _) => return Err(wrong_wire()),
                _ => continue,
            };
            self.budget.take()?;
            members.push((name.into(), node));
        }
        self.one_value(&mut members)?;
        Ok(Node::Map(members))
    }

    /// Refuses fields that are there twice, and two values.
    fn one_value(&self, members: &mut Members<'_>) -> Result<(), Reject> {
        distinct(members, self.budget.lenient)?;
        let values = members.iter().filter(|(name, _)| is_value(name)).count();
        if values > 1 {
            let reason = "a metric has two values";
            return Err(Reject::new(Class::Syntax, reason));
        }
        Ok(())
    }

    fn data_set<'a>(&mut self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        let (mut columns, mut types, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            self.budget.take()?;
            match (field, wire) {
                // How many columns there are, which is seen.
                (1, Wire::Varint(_)) => {}
                (2, Wire::Bytes(bytes)) => columns.push(Node::Text(self.text(bytes)?)),
                (3, Wire::Varint(kind)) => types.push(Node::from(kind)),
                // Packed, as later versions of protobuf write them.
                (3, Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        self.budget.take()?;
                        types.push(Node::from(varint(&mut packed)?));
                    }
                }
                (4, Wire::Bytes(bytes)) => rows.push(self.row(bytes)?),
                (1..=4, _) => return Err(wrong_wire()),
                _ => {}
            }
        }
        Ok(Node::Map(vec![
            ("columns".into(), Node::Array(columns)),
            ("types".into(), Node::Array(types)),
            ("rows".into(), Node::Array(rows)),
        ]))
    }

    fn row<'a>(&mut self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        let mut cells = Vec::new();
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            match (field, wire) {
                (1, Wire::Bytes(cell)) => {
                    self.budget.take()?;
                    let mut members: Members<'a> = Vec::new();
                    let mut rest = cell;
                    while let Some((field, wire)) = next(&mut rest)? {
                        if let 1..=6 = field {
                            let (name, node) = self.value(field - 1, wire)?;
                            members.push((name.into(), node));
                        }
                    }
                    self.one_value(&mut members)?;
                    cells.push(Node::Map(members));
                }
                (1, _) => return Err(wrong_wire()),
                _ => {}
            }
        }
        Ok(Node::Array(cells))
    }

    fn template<'a>(&mut self, bytes: &'a [u8], depth: usize) -> Result<Node<'a>, Reject> {
        let depth = self.budget.enter(depth)?;
        let (mut members, mut metrics, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            let (name, node) = match (field, wire) {
                (1, Wire::Bytes(bytes)) => ("version", Node::Text(self.text(bytes)?)),
                (2, Wire::Bytes(bytes)) => {
                    metrics.push(self.metric(bytes, depth)?);
                    continue;
                }
                (3, Wire::Bytes(bytes)) => {
                    parameters.push(self.parameter(bytes)?);
                    continue;
                }
                (4, Wire::Bytes(bytes)) => ("template_ref", Node::Text(self.text(bytes)?)),
                (5, Wire::Varint(n)) => ("is_definition", Node::Bool(n != 0)),
                (1..=5, _) => return Err(wrong_wire()),
                _ => continue,
            };
            self.budget.take()?;
            members.push((name.into(), node));
        }
        distinct(&mut members, self.budget.lenient)?;
        members.push(("metrics".into(), Node::Array(metrics)));
        members.push(("parameters".into(), Node::Array(parameters)));
        Ok(Node::Map(members))
    }

    fn parameter<'a>(&mut self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        let mut members: Members<'a> = Vec::new();
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            let (name, node) = match (field, wire) {
                (1, Wire::Bytes(bytes)) => ("name", Node::Text(self.text(bytes)?)),
                (2, Wire::Varint(n)) => ("datatype", Node::from(n)),
                (3..=8, wire) => self.value(field - 3, wire)?,
                (1 | 2, _) => return Err(wrong_wire()),
                _ => continue,
            };
            self.budget.take()?;
            members.push((name.into(), node));
        }
        self.one_value(&mut members)?;
        Ok(Node::Map(members))
    }

    /// Property sets within property sets are looked over.
    fn properties<'a>(&mut self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            match (field, wire) {
                (1, Wire::Bytes(bytes)) => {
                    self.budget.take()?;
                    names.push(self.text(bytes)?);
                }
                (2, Wire::Bytes(bytes)) => {
                    self.budget.take()?;
                    values.push(self.property(bytes)?);
                }
                (1 | 2, _) => return Err(wrong_wire()),
                _ => {}
            }
        }
        if names.len() != values.len() {
            let reason = "a property set has as many names as values";
            return Err(Reject::new(Class::Syntax, reason));
        }
        let mut members: Members<'a> = names.into_iter().zip(values).collect();
        distinct(&mut members, self.budget.lenient)?;
        Ok(Node::Map(members))
    }

    fn property<'a>(&self, bytes: &'a [u8]) -> Result<Node<'a>, Reject> {
        let mut found = Node::Null;
        let mut rest = bytes;
        while let Some((field, wire)) = next(&mut rest)? {
            if let 3..=8 = field {
                found = self.value(field - 3, wire)?.1;
            }
        }
        Ok(found)
    }

    /// The value in a field; int, long, float, double, bool and text are in this order
    /// in metrics and in properties.
    fn value<'a>(&self, which: u64, wire: Wire<'a>) -> Result<(&'static str, Node<'a>), Reject> {
        Ok(match (which, wire) {
            (0, Wire::Varint(n)) => {
                let int = u32::try_from(n).map_err(|_| {
                    Reject::new(
                        Class::Range,
                        "an integer does not fit the 32 bits of its field",
                    )
                })?;
                ("int", Node::Int(i64::from(int)))
            }
            (1, Wire::Varint(n)) => ("long", Node::from(n)),
            (2, Wire::Fixed32(bits)) => ("float", float(f64::from(f32::from_bits(bits)))),
            (3, Wire::Fixed64(bits)) => ("double", float(f64::from_bits(bits))),
            (4, Wire::Varint(n)) => ("bool", Node::Bool(n != 0)),
            (5, Wire::Bytes(bytes)) => ("text", Node::Text(self.text(bytes)?)),
            (6, Wire::Bytes(bytes)) => ("bytes", Node::Bytes(bytes.into())),
            _ => return Err(wrong_wire()),
        })
    }

    fn text<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, str>, Reject> {
        lenient::text(bytes, self.budget.lenient, "protobuf")
    }
}

/// Whether a member of a metric is its value.
pub(in crate::normalise) fn is_value(name: &str) -> bool {
    matches!(
        name,
        "int" | "long" | "float" | "double" | "bool" | "text" | "bytes" | "dataset" | "template"
    )
}

/// The next field; `None` at the end.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Wire<'a>)>, Reject> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = varint(rest)?;
    let field = tag >> 3;
    if field == 0 || field > 0x1fff_ffff {
        return Err(malformed("a field number that there cannot be"));
    }
    let wire = match tag & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).unwrap_or(usize::MAX);
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(early)?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(take(rest)?)),
        _ => return Err(malformed("a wire type that there is not")),
    };
    Ok(Some((field, wire)))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Reject> {
    let (bytes, after) = rest.split_first_chunk().ok_or_else(early)?;
    *rest = after;
    Ok(*bytes)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Reject> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a number of more than 64 bits"))
}

#[cold]
fn early() -> Reject {
    malformed("the payload ends early")
}

#[cold]
fn wrong_wire() -> Reject {
    malformed("a field of the wrong wire type")
}

fn malformed(what: &'static str) -> Reject {
    Reject::new(Class::Syntax, format!("not a Sparkplug payload: {what}"))
}

#[cfg(test)]
mod tests {
    use super::{super::ELEMENTS_MAX, *};

    fn class(bytes: &[u8]) -> Result<(), Class> {
        decode(bytes, Lenient::STRICT)
            .map(|_| ())
            .map_err(|reject| reject.class)
    }

    #[test]
    fn a_metric_is_read_with_its_properties() {
        let properties = b"\x0a\x07Quality\x12\x05\x08\x03\x18\xc0\x01";
        let metric = [
            &b"\x0a\x01T\x10\x05\x18\x07\x20\x0a\x28\x01\x4a\x10"[..],
            properties,
            b"\x69\0\0\0\0\0\0\xf0\x3f",
        ]
        .concat();
        let payload = [
            &b"\x08\x2a\x12"[..],
            &[u8::try_from(metric.len()).unwrap()],
            &metric,
            b"\x18\xff\x01\x22\x01u\x2a\x01\0\x52\x01x",
        ]
        .concat();
        let root = decode(&payload, Lenient::STRICT).unwrap();
        assert_eq!(root.child("timestamp"), Some(&Node::Int(42)));
        assert_eq!(root.child("seq"), Some(&Node::Int(255)));
        assert_eq!(root.child("uuid"), Some(&Node::Text("u".into())));
        let metric = root.child("metrics").and_then(|m| m.child("0")).unwrap();
        assert_eq!(metric.child("name"), Some(&Node::Text("T".into())));
        assert_eq!(metric.child("alias"), Some(&Node::Int(5)));
        assert_eq!(metric.child("historical"), Some(&Node::Bool(true)));
        assert_eq!(metric.child("double"), Some(&float(1.0)));
        let quality = metric.child("properties").and_then(|p| p.child("Quality"));
        assert_eq!(quality, Some(&Node::Int(192)));
    }

    #[test]
    fn refuses_what_is_not_a_payload() {
        for (bytes, expect) in [
            (&b"\x08"[..], Class::Syntax),
            (
                b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
                Class::Syntax,
            ),
            (
                b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                Class::Syntax,
            ),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", Class::Syntax),
            (b"\x12\x05\x0a", Class::Syntax),
            (b"\x0b", Class::Syntax),
            (b"\x00\x01", Class::Syntax),
            (b"\x0d\0\0\0\0", Class::Syntax),
            (b"\x08\x01\x08\x02", Class::DuplicateKey),
            (b"\x12\x06\x0a\x01a\x0a\x01b", Class::DuplicateKey),
            (b"\x12\x04\x50\x01\x58\x01", Class::Syntax),
            (b"\x12\x03\x0a\x01\xff", Class::Encoding),
            (b"\x12\x07\x50\xff\xff\xff\xff\xff\x01", Class::Range),
            (b"\x12\x05\x4a\x03\x0a\x01a", Class::Syntax),
        ] {
            assert_eq!(class(bytes), Err(expect), "{bytes:x?}");
        }
        assert_eq!(class(&b"\x12\x00".repeat(ELEMENTS_MAX)), Err(Class::Limit));
        assert_eq!(class(&b"\x12\x00".repeat(ELEMENTS_MAX - 1)), Ok(()));
    }
}
