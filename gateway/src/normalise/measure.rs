//! The measurements of one event.

mod convert;

use std::sync::Arc;

use base64::Engine as _;

pub(super) use convert::{is_exact, prefer};

use super::{
    Class, Node, Reject, Scratch,
    decode::{ELEMENTS_MAX, Fault, Lenient, quoted, scalar_number},
    identity::text,
    mapping::{Kind, Mapping, Measured, QualityAt, Tag},
};
use crate::event::{Measurement, Quality, Value};

/// A measurement's name has at most so many bytes.
pub(super) const NAME_BYTES_MAX: usize = 512;

/// A unit that a message says has at most so many bytes: it is stored with each
/// measurement that it is said of, and the longest that people write have some thirty.
pub(super) const UNIT_BYTES_MAX: usize = 256;

/// The name of a bare value.
const BARE: &str = "value";

/// What a mapping takes from one element: its values, or else the leaves of the
/// element or of a `part` of it, their names after a `prefix`.
pub(super) fn measurements(
    mapping: &Mapping,
    bare: Option<&str>,
    element: &Node<'_>,
    part: Option<&Node<'_>>,
    prefix: Option<&str>,
    used: &[&Node<'_>],
    scratch: &mut Scratch,
) -> Result<Vec<Measurement>, Reject> {
    let bare = bare.unwrap_or(BARE);
    if !mapping.values.is_empty() {
        return named(mapping, bare, element, used, scratch);
    }
    let name = &mut scratch.name;
    let part = match (part, &mapping.flatten) {
        (Some(part), _) => part,
        (None, Some(at)) => at
            .find(element)
            .ok_or_else(|| Reject::new(Class::Missing, format!("there is nothing at \"{at}\"")))?,
        (None, None) => element,
    };
    let mut taken = Vec::with_capacity(match part {
        Node::Map(members) => members.len(),
        _ => 1,
    });
    name.clear();
    name.push_str(prefix.unwrap_or_default());
    if name.len() > NAME_BYTES_MAX {
        return Err(name_too_long());
    }
    flatten(part, used, name, &mut |name, node| {
        let name = if name.is_empty() { bare } else { name };
        taken.push(measurement(name.into(), None, node));
    })?;
    Ok(taken)
}

/// The values that the operator named.
fn named(
    mapping: &Mapping,
    bare: &str,
    element: &Node<'_>,
    used: &[&Node<'_>],
    scratch: &mut Scratch,
) -> Result<Vec<Measurement>, Reject> {
    let mut taken = Vec::with_capacity(mapping.values.len());
    let mut any = false;
    for measured in &mapping.values {
        let bare: Arc<str> = match measured.name.is_empty() {
            true => bare.into(),
            false => measured.name.clone(),
        };
        let found = match (&measured.at, element) {
            (Some(pointer), _) => pointer.find(element),
            (None, Node::Map(_) | Node::Array(_)) => element.child(&bare),
            (None, bare) => Some(bare),
        };
        any |= found.is_some();
        match found {
            Some(node) if *node != Node::Null => {
                let from = taken.len();
                let lenient = mapping.lenient;
                let name = &mut scratch.name;
                take(measured, &bare, node, used, name, &mut taken, lenient)?;
                scratch.step(|| said(measured, &bare, node, &taken[from..]));
                if let Some(quality) = &measured.quality {
                    let quality = quality_of(quality, element);
                    let good = taken[from..].iter_mut();
                    good.filter(|m| m.quality == Quality::Good)
                        .for_each(|m| m.quality = quality);
                }
            }
            _ if measured.required => {
                let reason = format!("there is no {}", quoted(&bare));
                return Err(Reject::new(Class::Missing, reason));
            }
            _ => {}
        }
    }
    if any {
        Ok(taken)
    } else {
        // Taking nothing at all would drop the message without a word.
        Err(Reject::new(
            Class::Missing,
            "none of the mapping's values is in the payload",
        ))
    }
}

/// What is said of a value: nothing is no doubt, something unknown is one.
fn quality_of(quality: &QualityAt, element: &Node<'_>) -> Quality {
    let said = match quality.at.find(element) {
        None | Some(Node::Null) => return Quality::Good,
        Some(Node::Bool(said)) => Some(said.to_string()),
        Some(node) => text(node),
    };
    let known = |word: &str| Some(word) == said.as_deref();
    let meant = match quality.map.is_empty() {
        true => {
            let words = Quality::WORDS.iter();
            words.clone().find(|(word, _)| known(word)).map(|(_, q)| *q)
        }
        false => quality
            .map
            .iter()
            .find(|(word, _)| known(word))
            .map(|(_, q)| *q),
    };
    meant.unwrap_or(Quality::Uncertain)
}

/// Takes one named value.
fn take(
    measured: &Measured,
    called: &Arc<str>,
    node: &Node<'_>,
    used: &[&Node<'_>],
    name: &mut String,
    taken: &mut Vec<Measurement>,
    lenient: Lenient,
) -> Result<(), Reject> {
    if !measured.map.is_empty() {
        let said = match node {
            Node::Bool(said) => Some(said.to_string()),
            node => text(node),
        };
        let meant = measured
            .map
            .iter()
            .find(|(word, _)| Some(&**word) == said.as_deref());
        let (_, value) = meant.ok_or_else(|| not(called, "one of the words of its map", node))?;
        taken.push(Measurement {
            value: value.clone(),
            ..measurement(called.clone(), measured.unit.clone(), &Node::Null)
        });
        if let Some(last) = taken.last_mut() {
            last.quality = Quality::Good;
        }
        return Ok(());
    }
    let from = taken.len();
    let mut push = |name: Arc<str>, node: &Node<'_>| {
        taken.push(measurement(name, measured.unit.clone(), node));
    };
    match (measured.kind, node) {
        (Kind::Any, Node::Map(_) | Node::Array(_)) => {
            name.clear();
            name.push_str(called);
            flatten(node, used, name, &mut |name, node| push(name.into(), node))?;
        }
        (Kind::Any, _)
        | (Kind::Number, Node::Int(_) | Node::UInt(_) | Node::Float(_))
        | (Kind::Boolean, Node::Bool(_))
        | (Kind::Text, Node::Text(_)) => push(called.clone(), node),
        (Kind::Number, Node::Text(text)) => match scalar_number(text, lenient) {
            Some(number) => push(called.clone(), &number?),
            None => return Err(not(called, "a number", node)),
        },
        (Kind::Number, _) => return Err(not(called, "a number", node)),
        (Kind::Boolean, _) => return Err(not(called, "a boolean", node)),
        (Kind::Text, _) => return Err(not(called, "text", node)),
    }
    let scaled = measured.scale.is_some() || measured.offset.is_some();
    let converted = measured.to.as_ref();
    let computed = scaled || converted.is_some_and(|(_, conversion)| !conversion.is_identity());
    let lost = |m: &Measurement| !is_exact(&m.value);
    if computed && !lenient.allows(Fault::BigIntegers) && taken[from..].iter().any(lost) {
        let reason = format!(
            "{} is an integer with more digits than can be scaled or converted",
            quoted(called)
        );
        return Err(Reject::new(Class::Range, reason));
    }
    if scaled {
        for measurement in &mut taken[from..] {
            scale(measured, called, measurement)?;
        }
    }
    if let Some((unit, conversion)) = &measured.to {
        for measurement in &mut taken[from..] {
            if !convert::convert(conversion, measurement)? {
                let reason = format!("{} should be a number to be in {unit}", quoted(called));
                return Err(Reject::new(Class::Type, reason));
            }
            measurement.unit = Some(unit.clone());
        }
    }
    Ok(())
}

/// What became of a value, for a person.
fn said(measured: &Measured, called: &str, node: &Node<'_>, taken: &[Measurement]) -> String {
    use std::fmt::Write as _;

    let mut said = format!("{} from ", quoted(called));
    // Writing to a string cannot fail.
    let _fine = match (&measured.at, text(node)) {
        (Some(at), Some(text)) => write!(said, "\"{at}\": {}", quoted(&text)),
        (Some(at), None) => write!(said, "\"{at}\", {}", node.kind()),
        (None, Some(text)) => write!(said, "{}", quoted(&text)),
        (None, None) => write!(said, "{}", node.kind()),
    };
    for (what, factor) in [("times", measured.scale), ("plus", measured.offset)] {
        if let Some(factor) = factor {
            let _fine = write!(said, ", {what} {factor}");
        }
    }
    if let (Some((to, _)), Some(unit)) = (&measured.to, &measured.unit) {
        let _fine = write!(said, ", from {unit} to {to}");
    }
    if let [one] = taken {
        let value = serde_json::to_string(&one.value).unwrap_or_default();
        let _fine = write!(
            said,
            ", is {value} {}",
            one.unit.as_deref().unwrap_or_default()
        );
    }
    said.truncate(said.trim_end().len());
    said
}

/// Scale and offset, on numbers. What is no number cannot have them.
fn scale(measured: &Measured, called: &str, m: &mut Measurement) -> Result<(), Reject> {
    let number = match (&m.value, convert::number(&m.value)) {
        (_, Some(number)) => number,
        // Not a number, and marked so.
        (Value::Null, None) => return Ok(()),
        _ => {
            let reason = format!("{} should be a number to be scaled", quoted(called));
            return Err(Reject::new(Class::Type, reason));
        }
    };
    let value = number * measured.scale.unwrap_or(1.0) + measured.offset.unwrap_or(0.0);
    if !value.is_finite() {
        let reason = format!("{} is too large when it is scaled", quoted(called));
        return Err(Reject::new(Class::Range, reason));
    }
    m.value = Value::Float(value);
    Ok(())
}

fn not(called: &str, wanted: &str, node: &Node<'_>) -> Reject {
    let given = match node {
        Node::Text(text) => quoted(text),
        _ => node.kind().to_owned(),
    };
    Reject::new(
        Class::Type,
        format!("{} should be {wanted}, not {given}", quoted(called)),
    )
}

/// A node under a name. Null stands for a value that is not a number.
pub(super) fn measurement(name: Arc<str>, unit: Option<Arc<str>>, node: &Node<'_>) -> Measurement {
    let value = node.to_value();
    // Of what is not null, only a float that is not finite becomes null.
    let quality = match value {
        Value::Null => Quality::Bad,
        _ => Quality::Good,
    };
    Measurement {
        name,
        value,
        unit,
        quality,
        time: None,
    }
}

/// The leaves of a value under a name, as measurements, but for those used elsewhere.
pub(super) fn leaves(
    name: &str,
    node: &Node<'_>,
    used: &[&Node<'_>],
    into: &mut Vec<Measurement>,
) -> Result<(), Reject> {
    if name.len() > NAME_BYTES_MAX {
        return Err(name_too_long());
    }
    flatten(node, used, &mut name.to_owned(), &mut |name, node| {
        into.push(measurement(name.into(), None, node));
    })
}

/// A number as a float, as near as one can be.
pub(super) fn float(node: &Node<'_>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "as near as one can be")]
    match node {
        Node::Int(n) => Some(*n as f64),
        Node::UInt(n) => Some(*n as f64),
        Node::Float(float) => Some(float.value),
        _ => None,
    }
}

/// Whether the event carries a node elsewhere, or the mapping excludes it.
pub(super) fn is_used(used: &[&Node<'_>], node: &Node<'_>) -> bool {
    used.iter().any(|other| std::ptr::eq(*other, node))
}

/// Calls `leaf` with every value that is not null, an object, an array, or used.
fn flatten<'n, 'a>(
    node: &'n Node<'a>,
    used: &[&Node<'_>],
    name: &mut String,
    leaf: &mut impl FnMut(&str, &'n Node<'a>),
) -> Result<(), Reject> {
    if is_used(used, node) {
        return Ok(());
    }
    match node {
        Node::Null => Ok(()),
        Node::Map(members) => members.iter().try_for_each(|(member, node)| {
            within(name, member, |name| flatten(node, used, name, leaf))
        }),
        Node::Array(items) => items.iter().enumerate().try_for_each(|(n, node)| {
            let mut digits = itoa::Buffer::new();
            within(name, digits.format(n), |name| {
                flatten(node, used, name, leaf)
            })
        }),
        node => {
            leaf(name, node);
            Ok(())
        }
    }
}

/// Adds a level to a name, and takes it away again. Every value repeats the names
/// of what it is within, so their length has a bound.
fn within(
    name: &mut String,
    part: &str,
    then: impl FnOnce(&mut String) -> Result<(), Reject>,
) -> Result<(), Reject> {
    let before = name.len();
    if before + part.len() > NAME_BYTES_MAX {
        return Err(name_too_long());
    }
    if before > 0 {
        name.push('.');
    }
    name.push_str(part);
    let result = then(name);
    name.truncate(before);
    result
}

/// A unit that a message says, within its bound.
pub(super) fn unit(said: &str) -> Result<Arc<str>, Reject> {
    if said.len() > UNIT_BYTES_MAX {
        let reason = format!("a unit has more than {UNIT_BYTES_MAX} bytes");
        return Err(Reject::new(Class::Limit, reason));
    }
    Ok(said.into())
}

pub(super) fn name_too_long() -> Reject {
    let reason = format!("a measurement's name has more than {NAME_BYTES_MAX} bytes");
    Reject::new(Class::Limit, reason)
}

/// What is around a split array, leaf by leaf: tags of every element. A mapping
/// with `values` says itself what counts.
pub(super) fn header_tags<'n, 'a>(
    mapping: &Mapping,
    root: &'n Node<'a>,
    split: &'n Node<'a>,
    elements: usize,
) -> Result<Vec<(&'n Node<'a>, Tag)>, Reject> {
    let mut tags = Vec::new();
    if !mapping.values.is_empty() {
        return Ok(tags);
    }
    let mut used: Vec<&Node<'_>> = vec![split];
    used.extend(mapping.exclude.iter().filter_map(|at| at.find(root)));
    flatten(root, &used, &mut String::new(), &mut |name, leaf| {
        let text = match leaf {
            Node::Bool(b) => b.to_string(),
            Node::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes),
            leaf => text(leaf).unwrap_or_else(|| "NaN".to_owned()),
        };
        tags.push((leaf, (name.into(), text.into())));
    })?;
    if tags.len().saturating_mul(elements) > ELEMENTS_MAX {
        let reason = format!(
            "{} values around the array would be repeated by each element",
            tags.len()
        );
        return Err(Reject::new(Class::Limit, reason));
    }
    Ok(tags)
}
