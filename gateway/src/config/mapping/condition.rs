//! `require`, `drop` and `derive`.

use std::sync::Arc;

use super::super::{reader::Table, units};
use crate::normalise::{
    condition::{Condition, Derived, ELEMENT_NAMES, MEASURED_NAMES},
    expression::Expression,
    pointer::Pointer,
    units::Preferred,
};

/// A list of pointers and expressions. A pointer begins with a slash, and no
/// expression does.
pub(super) fn conditions(table: &Table<'_, '_, '_>, key: &'static str) -> Vec<Condition> {
    let texts = table.texts(key).unwrap_or_default();
    texts
        .iter()
        .filter_map(
            |text| match text.value.is_empty() || text.value.starts_with('/') {
                true => table.parse(key, text, Pointer::parse).map(Condition::At),
                false => table
                    .parse(key, text, |text| {
                        let hint = "; a pointer begins with \"/\"";
                        Expression::parse(text, &ELEMENT_NAMES).map_err(|error| {
                            format!("{error}{}", if word(text) { hint } else { "" })
                        })
                    })
                    .map(Condition::That),
            },
        )
        .collect()
}

/// Whether a text looks like a name, and so like a pointer without its slash.
fn word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// What is made of other measurements.
pub(super) fn derived(mapping: &Table<'_, '_, '_>, preferred: &Preferred) -> Vec<Derived> {
    let mut all: Vec<Derived> = Vec::new();
    for table in mapping.tables("derive").unwrap_or_default() {
        let name = table.required("name", "\"power\"");
        let text = table.required("expr", "\"v.voltage * v.current\"");
        let expression = text.and_then(|text| {
            table.parse("expr", &text, |text| {
                Expression::parse(text, &MEASURED_NAMES)
            })
        });
        let unit = table.text("unit");
        if let Some(unit) = &unit {
            units::check(&table, unit, preferred);
        }
        table.finish();
        let Some(name) = name else { continue };
        if all.iter().any(|other| *other.name == *name.value) {
            let what = format!("there is another derived value named {:?}", name.written);
            table.mistake(Some(&name.span), "name", what);
        }
        all.extend(expression.map(|expression| Derived {
            name: name.value.into(),
            expression,
            unit: unit.map(|unit| Arc::from(unit.value)),
        }));
    }
    all
}
