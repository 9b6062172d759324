//! What a mapping drops, what it requires, and what it derives.

use super::{
    Class, Node, Normaliser, Place, Reject,
    decode::quoted,
    expression::{Expression, Given},
    measure::NAME_BYTES_MAX,
    pointer::Pointer,
};
use std::sync::Arc;

use crate::event::{Measurement, Quality, Value};

/// What expressions see where an element is looked at.
pub const ELEMENT_NAMES: [&str; 3] = ["p", "payload", "topic"];
/// What they see besides where a measurement is derived.
pub const MEASURED_NAMES: [&str; 5] = ["p", "payload", "topic", "device", "v"];

/// Something that is so or not.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Something is there, and not null.
    At(Pointer),
    /// An expression is true.
    That(Expression),
}

/// A measurement that an expression makes of others.
#[derive(Debug, Clone)]
pub struct Derived {
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub expression: Expression,
    /// Its unit.
    pub unit: Option<Arc<str>>,
}

/// Whether the mapping drops an element: one of its conditions is so.
pub(super) fn dropped(of: &mut Normaliser<'_>, place: &Place<'_, '_>) -> Result<bool, Reject> {
    let mapping = of.mapping;
    for condition in &mapping.drop {
        let so = match condition {
            Condition::At(at) => is_there(place, at),
            // Of what is not there nothing can be said, so nothing is dropped.
            Condition::That(that) => holds(of, place, that)?.unwrap_or(false),
        };
        if so {
            of.scratch.step(|| format!("dropped: {}", said(condition)));
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses an element of which one of the mapping's conditions is not so.
pub(super) fn required(of: &mut Normaliser<'_>, place: &Place<'_, '_>) -> Result<(), Reject> {
    let mapping = of.mapping;
    for condition in &mapping.require {
        match condition {
            Condition::At(at) if !is_there(place, at) => {
                let reason = format!("there is nothing at \"{at}\"");
                return Err(Reject::new(Class::Missing, reason));
            }
            Condition::At(_) => {}
            Condition::That(that) => match holds(of, place, that)? {
                Some(true) => {}
                Some(false) => {
                    let reason = format!("it is not so that {that}");
                    return Err(Reject::new(Class::Range, reason));
                }
                None => {
                    let reason = format!("something is missing that is required: {that}");
                    return Err(Reject::new(Class::Missing, reason));
                }
            },
        }
        of.scratch.step(|| format!("required: {}", said(condition)));
    }
    Ok(())
}

/// Adds what is derived. Each sees what was measured, and what was derived before it.
pub(super) fn derive(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    device: &str,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Reject> {
    let mapping = of.mapping;
    for derived in &mapping.derive {
        let given = Given {
            element: place.element,
            whole: place.whole,
            topic: of.message.topic,
            device: Some(device),
            measured: measurements,
        };
        let Some(value) = derived.expression.evaluate(&given, &mut of.budget)? else {
            of.scratch.step(|| {
                format!(
                    "{} is not derived: something is not there",
                    quoted(&derived.name)
                )
            });
            continue;
        };
        if derived.name.len() > NAME_BYTES_MAX {
            return Err(super::measure::name_too_long());
        }
        of.scratch.step(|| {
            format!(
                "{} is derived: {}",
                quoted(&derived.name),
                derived.expression
            )
        });
        // As everywhere, what is no number is a null of bad quality.
        let quality = match value {
            Value::Null => Quality::Bad,
            _ => Quality::Good,
        };
        measurements.retain(|m| m.name != derived.name);
        measurements.push(Measurement {
            name: derived.name.clone(),
            value,
            unit: derived.unit.clone(),
            quality,
            time: None,
        });
    }
    Ok(())
}

fn is_there(place: &Place<'_, '_>, at: &Pointer) -> bool {
    place
        .find(at)
        .is_some_and(|found| *found.node != Node::Null)
}

fn holds(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    that: &Expression,
) -> Result<Option<bool>, Reject> {
    let given = Given {
        element: place.element,
        whole: place.whole,
        topic: of.message.topic,
        device: None,
        measured: &[],
    };
    that.holds(&given, &mut of.budget)
}

fn said(condition: &Condition) -> String {
    match condition {
        Condition::At(at) => format!("there is something at \"{at}\""),
        Condition::That(that) => that.to_string(),
    }
}
