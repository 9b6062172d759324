//! The measurements of one event.

use std::sync::Arc;

use base64::Engine as _;

use super::{
    Class, Node, Reject,
    decode::{ELEMENTS_MAX, quoted, scalar_number},
    identity::text,
    mapping::{Kind, Mapping, Measured, Tag},
};
use crate::event::{Measurement, Value};

/// A measurement's name has at most so many bytes.
pub(super) const NAME_BYTES_MAX: usize = 512;

/// The name of a bare value.
const BARE: &str = "value";

/// What a mapping takes from one element.
pub(super) fn measurements(
    mapping: &Mapping,
    element: &Node<'_>,
    used: &[&Node<'_>],
    name: &mut String,
) -> Result<Vec<Measurement>, Reject> {
    let mut taken = Vec::with_capacity(match element {
        Node::Map(members) => members.len(),
        _ => 1,
    });
    name.clear();
    if mapping.values.is_empty() {
        flatten(element, used, name, &mut |name, node| {
            let name = if name.is_empty() { BARE } else { name };
            taken.push(measurement(name.into(), None, node));
        })?;
        return Ok(taken);
    }
    let mut any = false;
    for measured in &mapping.values {
        let found = match (&measured.at, element) {
            (Some(pointer), _) => pointer.find(element),
            (None, Node::Map(_) | Node::Array(_)) => element.child(&measured.name),
            (None, bare) => Some(bare),
        };
        any |= found.is_some();
        match found {
            Some(node) if *node != Node::Null => take(measured, node, used, name, &mut taken)?,
            _ if measured.required => {
                let reason = format!("there is no {}", quoted(&measured.name));
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

/// Takes one named value.
fn take(
    measured: &Measured,
    node: &Node<'_>,
    used: &[&Node<'_>],
    name: &mut String,
    taken: &mut Vec<Measurement>,
) -> Result<(), Reject> {
    let mut push = |name: Arc<str>, node: &Node<'_>| {
        taken.push(measurement(name, measured.unit.clone(), node));
    };
    match (measured.kind, node) {
        (Kind::Any, Node::Map(_) | Node::Array(_)) => {
            name.clear();
            name.push_str(&measured.name);
            flatten(node, used, name, &mut |name, node| push(name.into(), node))?;
        }
        (Kind::Any, _)
        | (Kind::Number, Node::Int(_) | Node::UInt(_) | Node::Float(_))
        | (Kind::Boolean, Node::Bool(_))
        | (Kind::Text, Node::Text(_)) => push(measured.name.clone(), node),
        (Kind::Number, Node::Text(text)) => match scalar_number(text) {
            Some(number) => push(measured.name.clone(), &number?),
            None => return Err(not(measured, "a number", node)),
        },
        (Kind::Number, _) => return Err(not(measured, "a number", node)),
        (Kind::Boolean, _) => return Err(not(measured, "a boolean", node)),
        (Kind::Text, _) => return Err(not(measured, "text", node)),
    }
    Ok(())
}

fn not(measured: &Measured, wanted: &str, node: &Node<'_>) -> Reject {
    let given = match node {
        Node::Text(text) => quoted(text),
        _ => node.kind().to_owned(),
    };
    Reject::new(
        Class::Type,
        format!("{} should be {wanted}, not {given}", quoted(&measured.name)),
    )
}

fn measurement(name: Arc<str>, unit: Option<Arc<str>>, node: &Node<'_>) -> Measurement {
    let value = node.to_value();
    // Of what is not null, only a float that is not finite becomes null.
    let bad = value == Value::Null;
    Measurement {
        name,
        value,
        unit,
        bad,
        time: None,
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
        let reason = format!("a measurement's name has more than {NAME_BYTES_MAX} bytes");
        return Err(Reject::new(Class::Limit, reason));
    }
    if before > 0 {
        name.push('.');
    }
    name.push_str(part);
    let result = then(name);
    name.truncate(before);
    result
}

/// What is around a split array, leaf by leaf: tags of every element. A mapping
/// with `values` says itself what counts.
pub(super) fn header_tags<'n, 'a>(
    mapping: &Mapping,
    root: &'n Node<'a>,
    array: &[Node<'a>],
) -> Result<Vec<(&'n Node<'a>, Tag)>, Reject> {
    let mut tags = Vec::new();
    if !mapping.values.is_empty() {
        return Ok(tags);
    }
    let split = mapping
        .split
        .as_ref()
        .and_then(|split| split.find(root))
        .unwrap_or(root);
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
    if tags.len().saturating_mul(array.len()) > ELEMENTS_MAX {
        let reason = format!(
            "{} values around the array would be repeated by each element",
            tags.len()
        );
        return Err(Reject::new(Class::Limit, reason));
    }
    Ok(tags)
}
