//! What differs between two events.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// What a correction changes of itself, and what is of the moment of arrival.
const NOT_COMPARED: [&str; 4] = ["id", "correctedtime", "timemarks", "data"];

/// The parts that differ, by name: attributes, `tags.NAME`, and of measurements
/// `NAME` for the value, `NAME.u`, `NAME.q` and `NAME.t` for the rest. What is not
/// there is null.
pub(super) fn fields(old: &Value, new: &Value) -> Vec<Value> {
    let (old, new) = (parts(old), parts(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let differing = names.into_iter().filter_map(|name| {
        let (old, new) = (old.get(name), new.get(name));
        (old != new).then(|| json!({ "field": name, "old": old, "new": new }))
    });
    differing.collect()
}

fn parts(event: &Value) -> BTreeMap<String, Value> {
    let mut parts = BTreeMap::new();
    for (name, value) in event.as_object().into_iter().flatten() {
        if !NOT_COMPARED.contains(&name.as_str()) {
            parts.insert(name.clone(), value.clone());
        }
    }
    let tags = event["data"]["tags"].as_object().into_iter().flatten();
    parts.extend(tags.map(|(name, value)| (format!("tags.{name}"), value.clone())));
    for measurement in event["data"]["m"].as_array().into_iter().flatten() {
        let mut name = measurement["n"].as_str().unwrap_or_default().to_owned();
        while parts.contains_key(&name) {
            // Names may repeat; each is compared with the one in its place.
            name.push('\'');
        }
        for part in ["u", "q", "t"] {
            if let Some(value) = measurement.get(part) {
                parts.insert(format!("{name}.{part}"), value.clone());
            }
        }
        parts.insert(name, measurement["v"].clone());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_units_tags_and_attributes_are_compared_by_name() {
        let old = json!({
            "id": "a", "subject": "b7", "timemarks": "late", "site": "x",
            "data": { "m": [{ "n": "t", "v": 21.5 }, { "n": "x", "v": 1 }], "tags": { "line": "1" } },
        });
        let new = json!({
            "id": "a#1", "subject": "b7", "correctedtime": "2026-03-01T12:00:00Z",
            "data": { "m": [{ "n": "t", "v": 294.5, "u": "K" }, { "n": "x", "v": 1 }, { "n": "x", "v": 2 }],
                      "tags": { "line": "2" } },
        });
        let said: Vec<String> = fields(&old, &new)
            .iter()
            .map(|one| format!("{} {} {}", one["field"], one["old"], one["new"]))
            .collect();
        assert_eq!(
            said,
            [
                r#""site" "x" null"#,
                r#""t" 21.5 294.5"#,
                r#""t.u" null "K""#,
                r#""tags.line" "1" "2""#,
                r#""x'" null 2"#,
            ]
        );
        assert!(fields(&old, &old).is_empty());
    }
}
