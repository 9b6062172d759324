//! Values of their types (Sparkplug 3.0, section 6.4.16): integers in unsigned fields,
//! arrays in bytes, and tables.

use super::super::births::Metric;
use crate::{
    event::Value,
    normalise::{
        Class, Node, Reject,
        decode::{Fault, Lenient, quoted},
    },
};

/// The value in a field of a metric. What is within arrays and tables takes from `room`.
pub(super) fn read(
    (named, lenient): (&Metric, Lenient),
    field: &str,
    node: &Node<'_>,
    room: &mut usize,
) -> Result<Value, Reject> {
    match (field, named.datatype, node) {
        ("dataset", _, table) => data_set(&named.name, table),
        ("bytes", Some(32), Node::Bytes(bytes)) => booleans(&named.name, bytes, room),
        ("bytes", Some(33), Node::Bytes(bytes)) => texts(&named.name, bytes, lenient, room),
        ("bytes", Some(kind @ 22..=34), Node::Bytes(bytes)) => {
            numbers(&named.name, kind, bytes, room)
        }
        _ => typed(&named.name, named.datatype, field, node),
    }
}

/// An integer of its type: those up to 32 bits come as two's complement in an unsigned
/// field, and only the type says so.
pub(super) fn typed(
    name: &str,
    datatype: Option<u64>,
    field: &str,
    node: &Node<'_>,
) -> Result<Value, Reject> {
    let bits = match node {
        Node::Int(n) => n.cast_unsigned(),
        Node::UInt(n) => *n,
        other => return Ok(other.to_value()),
    };
    let range = || {
        let reason = format!("the value of {} does not fit its type", quoted(name));
        Reject::new(Class::Range, reason)
    };
    let unsigned = |most: u64| {
        let fits = Some(bits).filter(|bits| *bits <= most);
        fits.map(Value::from).ok_or_else(range)
    };
    // Sent as so many bits, or extended to 32 or 64.
    let signed = |width: u32| {
        let high = bits >> (width - 1);
        let ones = u64::MAX >> (width - 1);
        let extended = [ones, u64::from(u32::MAX) >> (width - 1), 1];
        let shift = 64 - width;
        (high == 0 || extended.contains(&high))
            .then(|| Value::Int((bits << shift).cast_signed() >> shift))
            .ok_or_else(range)
    };
    match datatype {
        Some(1) => signed(8),
        Some(2) => signed(16),
        Some(3) => signed(32),
        Some(4) => Ok(Value::Int(bits.cast_signed())),
        Some(5) => unsigned(u64::from(u8::MAX)),
        Some(6) => unsigned(u64::from(u16::MAX)),
        Some(7) => unsigned(u64::from(u32::MAX)),
        Some(8 | 13) => Ok(Value::from(bits)),
        _ => {
            let half = if field == "int" { 1 << 31 } else { 1 << 63 };
            if bits < half {
                return Ok(Value::from(bits));
            }
            let reason = format!(
                "{} may be negative, and no birth that says its type was seen",
                quoted(name)
            );
            Err(Reject::new(Class::State, reason))
        }
    }
}

/// A table: `{"columns": [name, ...], "rows": [[value, ...], ...]}`.
fn data_set(name: &str, table: &Node<'_>) -> Result<Value, Reject> {
    let list = |what: &str| match table.child(what) {
        Some(Node::Array(items)) => &items[..],
        _ => &[],
    };
    let (columns, types, rows) = (list("columns"), list("types"), list("rows"));
    let wrong = || {
        let reason = format!("the table {} has not one value a column", quoted(name));
        Reject::new(Class::Syntax, reason)
    };
    if columns.len() != types.len() {
        return Err(wrong());
    }
    let row = |row: &Node<'_>| {
        let Node::Array(cells) = row else {
            return Err(wrong());
        };
        if cells.len() != columns.len() {
            return Err(wrong());
        }
        let cell = |(kind, cell): (&Node<'_>, &Node<'_>)| {
            let Node::Map(value) = cell else {
                return Ok(Value::Null);
            };
            match value.first() {
                Some((field, node)) => typed(name, super::unsigned(kind), field, node),
                None => Ok(Value::Null),
            }
        };
        let cells = types.iter().zip(cells).map(cell);
        cells.collect::<Result<_, _>>().map(Value::Array)
    };
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    Ok(Value::Map(vec![
        (
            "columns".into(),
            Value::Array(columns.iter().map(Node::to_value).collect()),
        ),
        ("rows".into(), Value::Array(rows)),
    ]))
}

/// Takes so many values from what there may be.
fn take(room: &mut usize, count: usize) -> Result<(), Reject> {
    *room = room.checked_sub(count).ok_or_else(|| {
        let reason = "the arrays of a payload have too many values";
        Reject::new(Class::Limit, reason)
    })?;
    Ok(())
}

fn not_an_array(name: &str) -> Reject {
    let reason = format!("{} is not an array of its type", quoted(name));
    Reject::new(Class::Syntax, reason)
}

/// Numbers one after the other, the lowest byte first.
fn numbers(name: &str, kind: u64, bytes: &[u8], room: &mut usize) -> Result<Value, Reject> {
    fn all<const N: usize>(
        name: &str,
        bytes: &[u8],
        room: &mut usize,
        one: impl Fn([u8; N]) -> Value,
    ) -> Result<Value, Reject> {
        let (items, []) = bytes.as_chunks::<N>() else {
            return Err(not_an_array(name));
        };
        take(room, items.len())?;
        Ok(Value::Array(items.iter().map(|item| one(*item)).collect()))
    }
    fn float(value: f64) -> Value {
        match value.is_finite() {
            true => Value::Float(value),
            false => Value::Null,
        }
    }
    match kind {
        22 => all(name, bytes, room, |b| {
            Value::Int(i8::from_le_bytes(b).into())
        }),
        23 => all(name, bytes, room, |b| {
            Value::Int(i16::from_le_bytes(b).into())
        }),
        24 => all(name, bytes, room, |b| {
            Value::Int(i32::from_le_bytes(b).into())
        }),
        25 => all(name, bytes, room, |b| Value::Int(i64::from_le_bytes(b))),
        26 => all(name, bytes, room, |b| {
            Value::Int(u8::from_le_bytes(b).into())
        }),
        27 => all(name, bytes, room, |b| {
            Value::Int(u16::from_le_bytes(b).into())
        }),
        28 => all(name, bytes, room, |b| {
            Value::Int(u32::from_le_bytes(b).into())
        }),
        30 => all(name, bytes, room, |b| float(f32::from_le_bytes(b).into())),
        31 => all(name, bytes, room, |b| float(f64::from_le_bytes(b))),
        // Unsigned ones of 64 bits, and times in milliseconds.
        _ => all(name, bytes, room, |b| Value::from(u64::from_le_bytes(b))),
    }
}

/// How many there are, and then bits, the highest of a byte first.
fn booleans(name: &str, bytes: &[u8], room: &mut usize) -> Result<Value, Reject> {
    let (count, bits) = bytes
        .split_first_chunk()
        .ok_or_else(|| not_an_array(name))?;
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    if bits.len() != count.div_ceil(8) {
        return Err(not_an_array(name));
    }
    take(room, count)?;
    let bit = |n: usize| Value::Bool(bits[n / 8] & (0x80 >> (n % 8)) != 0);
    Ok(Value::Array((0..count).map(bit).collect()))
}

/// Texts, each with a null character after it.
fn texts(name: &str, bytes: &[u8], lenient: Lenient, room: &mut usize) -> Result<Value, Reject> {
    let Some(all) = bytes.strip_suffix(&[0]) else {
        return match bytes.is_empty() {
            true => Ok(Value::Array(Vec::new())),
            false => Err(not_an_array(name)),
        };
    };
    let mut items = Vec::new();
    for text in all.split(|byte| *byte == 0) {
        take(room, 1)?;
        let text = match String::from_utf8_lossy(text) {
            std::borrow::Cow::Owned(_) if !lenient.allows(Fault::InvalidUtf8) => {
                let reason = format!("a text of {} is not UTF-8", quoted(name));
                return Err(Reject::new(Class::Encoding, reason));
            }
            text => text.into_owned(),
        };
        items.push(Value::Text(text));
    }
    Ok(Value::Array(items))
}
