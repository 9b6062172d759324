//! A matcher as simple as the semantics are written: every value of the event with
//! the element of every array around it, and every combination tried in turn.

use std::collections::BTreeMap;

use crate::rules::{
    decimal::Decimal,
    json::{self, Node, Value},
    pattern::{Alternative, Pattern},
    term::{Scalar, Term},
};

/// The element of each array.
type Around = BTreeMap<usize, usize>;

struct Flat {
    path: String,
    value: Scalar<'static>,
    around: Around,
}

/// Whether the text of an event fits.
pub(super) fn fits(pattern: &Pattern, event: &str) -> bool {
    let event = json::parse(event).unwrap();
    let Value::Object(_) = event.value else {
        panic!("an event is an object")
    };
    let (mut flat, mut arrays) = (Vec::new(), 0);
    flatten(&event, None, &Around::new(), &mut arrays, &mut flat);
    let mut alternatives = pattern.alternatives.iter();
    alternatives.any(|alternative| rest_fits(alternative, 0, &Around::new(), &flat))
}

/// Terms that take the values of an event, by their paths.
pub(super) fn leaves(event: &str) -> Vec<(String, String)> {
    let (mut flat, mut arrays) = (Vec::new(), 0);
    let event = json::parse(event).unwrap();
    flatten(&event, None, &Around::new(), &mut arrays, &mut flat);
    let leaf = |flat: Flat| {
        let value = match flat.value {
            Scalar::Null => "null".to_owned(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Number(_) => r#"{"numeric":["<=",2]}"#.to_owned(),
            Scalar::Text(text) => serde_json::to_string(&text).unwrap(),
        };
        (flat.path, value)
    };
    flat.into_iter().map(leaf).collect()
}

fn flatten(
    node: &Node<'_>,
    path: Option<&str>,
    around: &Around,
    arrays: &mut usize,
    flat: &mut Vec<Flat>,
) {
    let value = match &node.value {
        Value::Object(members) => {
            for member in members {
                let path = match path {
                    None => member.name.to_string(),
                    Some(path) => format!("{path}.{}", member.name),
                };
                flatten(&member.node, Some(&path), around, arrays, flat);
            }
            return;
        }
        Value::Array(items) => {
            let array = *arrays;
            *arrays += 1;
            for (index, item) in items.iter().enumerate() {
                let mut around = around.clone();
                if let Value::Object(_) | Value::Array(_) = item.value {
                    around.insert(array, index);
                }
                flatten(item, path, &around, arrays, flat);
            }
            return;
        }
        Value::Null => Scalar::Null,
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Number(text) => Scalar::Number(Decimal::parse(text).unwrap()),
        Value::Text(text) => Scalar::Text(text.to_string().into()),
    };
    flat.push(Flat {
        path: path.unwrap().to_owned(),
        value,
        around: around.clone(),
    });
}

fn rest_fits(alternative: &Alternative, n: usize, combination: &Around, flat: &[Flat]) -> bool {
    let Some(field) = alternative.fields.get(n) else {
        return true;
    };
    let agrees = |flat: &&Flat| {
        let mut around = flat.around.iter();
        *flat.path == *field.path
            && around
                .all(|(array, index)| combination.get(array).is_none_or(|known| known == index))
    };
    let here: Vec<_> = flat.iter().filter(agrees).collect();
    for flat_value in &here {
        if field.terms.iter().any(|term| term.takes(&flat_value.value)) {
            let mut merged = combination.clone();
            merged.extend(&flat_value.around);
            if rest_fits(alternative, n + 1, &merged, flat) {
                return true;
            }
        }
    }
    here.is_empty()
        && field.terms.contains(&Term::Absent)
        && rest_fits(alternative, n + 1, combination, flat)
}
