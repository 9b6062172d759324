//! `[units]`: the units that a site prefers; and those of single values.

use std::sync::Arc;

use super::reader::{Table, Text};
use crate::normalise::units::{Conversion, Preferred, Unit};

/// Reads the table.
pub(super) fn read(table: &Table<'_, '_, '_>) -> Preferred {
    let mut preferred = Preferred::default();
    for (quantity, example) in Preferred::QUANTITIES {
        let Some(text) = table.text(quantity) else {
            continue;
        };
        let unit = table.parse(quantity, &text, Unit::parse);
        if let Some(unit) = unit
            && preferred.prefer(example, unit).is_err()
        {
            let what = format!(
                "{:?} does not measure {quantity}; a unit that does is {example:?}",
                text.written
            );
            table.mistake(Some(&text.span), quantity, what);
        }
    }
    table.finish();
    preferred
}

/// Where the site prefers units, every unit that the operator names has to be one.
pub(super) fn check(table: &Table<'_, '_, '_>, unit: &Text, preferred: &Preferred) -> Option<Unit> {
    match preferred.is_empty() {
        true => None,
        false => table.parse("unit", unit, Unit::parse),
    }
}

/// The unit that a value is converted to, and how.
pub(super) fn conversion(
    table: &Table<'_, '_, '_>,
    unit: Option<&Text>,
    preferred: &Preferred,
) -> Option<(Arc<str>, Conversion)> {
    let to = table.text("to");
    let Some(to) = to else {
        if let Some(unit) = unit {
            check(table, unit, preferred);
        }
        return None;
    };
    let Some(unit) = unit else {
        let what = "is of no use without unit, which says what the value is in";
        table.mistake(Some(&to.span), "to", what);
        return None;
    };
    let from = table.parse("unit", unit, Unit::parse);
    let into = table.parse("to", &to, Unit::parse);
    let (from, into) = (from?, into?);
    match from.to(&into) {
        Ok(conversion) => Some((into.code().into(), conversion)),
        Err(error) => {
            table.mistake(Some(&to.span), "to", error);
            None
        }
    }
}
