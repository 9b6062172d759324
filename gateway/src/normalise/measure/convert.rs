//! Numbers into the units that the mapping, or the site, wants.

use super::super::{
    Class, Reject, Scratch,
    decode::quoted,
    units::{Conversion, Preferred},
};
use crate::event::{Measurement, Value};

/// Puts what has another unit than the site prefers into that one. What is no number,
/// what would lose digits, and what has a unit that is not understood, stays.
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
        if !conversion.is_identity() && !is_exact(&m.value) {
            // With all its digits it is worth more than in another unit.
            continue;
        }
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
        reason = "whoever asks looks whether it is exact, or takes it as near as can be"
    )]
    match value {
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// Whether computing with a number keeps all its digits: an integer beyond 2^53 may be
/// one that no float is equal to.
pub(in crate::normalise) fn is_exact(value: &Value) -> bool {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "there and back shows what is lost; every float made of 64 bits fits 128"
    )]
    match value {
        Value::Int(n) => *n as f64 as i128 == i128::from(*n),
        Value::UInt(n) => *n as f64 as i128 == i128::from(*n),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_up_to_the_digits_of_a_float() {
        for (value, expect) in [
            (Value::Int(1 << 53), true),
            (Value::Int((1 << 53) + 1), false),
            (Value::Int(-(1 << 53) - 1), false),
            (Value::Int((1 << 53) + 2), true),
            (Value::Int(i64::MIN), true),
            (Value::Int(i64::MAX), false),
            (Value::UInt(u64::MAX), false),
            (Value::UInt(1 << 63), true),
            (Value::Float(0.1), true),
            (Value::Text("9007199254740993".into()), true),
        ] {
            assert_eq!(is_exact(&value), expect, "{value:?}");
        }
    }
}
