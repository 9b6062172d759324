//! What is left of a rule that cannot be in force: it takes nothing, and the destinations
//! that it names stay narrowed. They would get everything otherwise.
//!
//! One flipped bit in the key that names them opens nothing either, where there is no copy
//! that tells: a key that is `destinations` but for one bit is that key. Of names that cannot
//! be said: `lake-0` is one bit away from `lake-1`.

use std::sync::Arc;

use super::{read, rescue};
use crate::rules::{Pattern, Rule};

/// The key with the names of destinations.
const DESTINATIONS: &str = "destinations";

/// The rule without the destinations that are gone, if that is what is wrong with it.
pub(super) fn narrowed(text: &str, destinations: &[Arc<str>]) -> Option<Rule> {
    let mut rule: serde_json::Value = serde_json::from_str(text).ok()?;
    let named = rule.get_mut(DESTINATIONS)?.as_array_mut()?;
    named.retain(|name| destinations.iter().any(|known| *name == **known));
    if named.is_empty() {
        rule.as_object_mut()?.remove(DESTINATIONS);
    }
    read(&rule.to_string(), destinations).ok()
}

/// A rule that takes nothing, and names what one that cannot be read names: where it is
/// not even JSON, everything.
pub(super) fn silenced(name: &str, text: &str, destinations: &[Arc<str>]) -> Option<Rule> {
    let known: Vec<Arc<str>> = match serde_json::from_str::<serde_json::Value>(text) {
        Err(_) => destinations.to_vec(),
        Ok(rule) => {
            let mut members = rule.as_object().into_iter().flatten();
            let named = rule.get(DESTINATIONS).or_else(|| {
                let flipped = members.find(|(key, _)| is_flipped(key, DESTINATIONS));
                flipped.map(|(_, named)| named)
            });
            let names = |known: &str| {
                let mut named = named
                    .and_then(|named| named.as_array())
                    .into_iter()
                    .flatten();
                named.any(|name| *name == *known)
            };
            let known = destinations.iter().filter(|known| names(known));
            known.cloned().collect()
        }
    };
    nothing_to(name, known)
}

/// A rule that takes nothing, and narrows these.
pub(super) fn nothing_to(name: &str, destinations: Vec<Arc<str>>) -> Option<Rule> {
    let nothing = Pattern::parse(rescue::NOTHING).ok()?;
    (!destinations.is_empty()).then(|| Rule::to(name, nothing, destinations))
}

/// Whether one bit makes one text of another.
fn is_flipped(text: &str, of: &str) -> bool {
    let differing = text
        .bytes()
        .zip(of.bytes())
        .map(|(a, b)| (a ^ b).count_ones());
    text.len() == of.len() && differing.sum::<u32>() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_in_the_key_opens_a_destination() {
        let text = r#"{"name": "hot", "pattern": {"device": ["a"]}, "destinations": ["lake-0"]}"#;
        let known: Vec<Arc<str>> = vec!["lake-0".into(), "lake-1".into()];
        let narrows = |text: &str, known: &[Arc<str>]| {
            let rule = read(text, known).ok().or_else(|| narrowed(text, known));
            let rule = rule.or_else(|| silenced("hot", text, known));
            rule.map(|rule| rule.destinations).unwrap_or_default()
        };
        assert_eq!(narrows(text, &known), ["lake-0".into()]);
        let key = text.find(DESTINATIONS).unwrap();
        for at in key - 1..key + DESTINATIONS.len() + 1 {
            for bit in 0..8 {
                let mut flipped = text.as_bytes().to_vec();
                flipped[at] ^= 1 << bit;
                // What is no text any more is damage to SQLite.
                let Ok(flipped) = String::from_utf8(flipped) else {
                    continue;
                };
                let narrowed = narrows(&flipped, &known);
                assert!(
                    narrowed.contains(&"lake-0".into()),
                    "{flipped}: {narrowed:?}"
                );
            }
        }
        // One that is gone by now closes no other, however like it is.
        let both = text.replace("[\"lake-0\"]", "[\"lake-0\", \"sea\"]");
        let known: Vec<Arc<str>> = vec!["lake-1".into(), "sea".into()];
        assert_eq!(narrows(&both, &known), ["sea".into()]);
        assert_eq!(narrows(text, &known), [] as [Arc<str>; 0]);
    }
}
