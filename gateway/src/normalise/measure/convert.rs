//! Numbers into the units that the mapping, or the site, wants.

use super::super::{
    Class, Reject, Scratch,
    decode::quoted,
    units::{Conversion, Preferred},
};
use crate::event::{Measurement, Value};

/// Puts what has another unit than the site prefers into that one. What is no number,
/// and what has a unit that is not understood, stays.
pub(in crate::normalise) fn prefer(
    preferred: &Preferred,
    measurements: &mut [Measurement],
    scratch: &mut Scratch,
) -> Result<(), Reject> {
    if preferred.is_empty() {
        return Ok(());
    }
    for m in measurements {
        let Some((unit, conversion)) = m.unit.as_deref().and_then(|u| preferred.instead_of_code(u))
        else {
            continue;
        };
        if convert(&conversion, m)? {
            scratch.step(|| {
                let was = m.unit.as_deref().unwrap_or_default();
                format!(
                    "{} from {was} to {unit}, which the site prefers",
                    quoted(&m.name)
                )
            });
            m.unit = Some(unit.code().into());
        }
    }
    Ok(())
}

/// Converts a number; whether it is one.
pub(super) fn convert(conversion: &Conversion, m: &mut Measurement) -> Result<bool, Reject> {
    let Some(number) = number(&m.value) else {
        // Not a number, and marked so, in any unit.
        return Ok(m.value == Value::Null);
    };
    if conversion.is_identity() {
        return Ok(true);
    }
    let value = conversion.apply(number);
    if !value.is_finite() {
        let reason = format!("{} is too large in another unit", quoted(&m.name));
        return Err(Reject::new(Class::Range, reason));
    }
    m.value = Value::Float(value);
    Ok(true)
}

/// A number as a float.
pub(super) fn number(value: &Value) -> Option<f64> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "what is converted is a reading, and no counter of more than 2^53"
    )]
    match value {
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}
