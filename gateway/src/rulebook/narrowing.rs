//! What is left of a rule that cannot be in force: it takes nothing, and the destinations
//! that it names stay narrowed. They would get everything otherwise.
//!
//! One flipped bit opens nothing either, where there is no copy that tells: a key that is
//! `destinations` but for one bit is that key, and a name that is a destination's but for
//! one bit is that destination.

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
                named.any(|name| {
                    let name = name.as_str().unwrap_or_default();
                    name == known || is_flipped(name, known)
                })
            };
            let known = destinations.iter().filter(|known| names(known));
            known.cloned().collect()
        }
    };
    nothing_to(name, known)
}

/// Whether a rule names something that is a destination but for one bit, and none itself.
pub(super) fn is_damaged(text: &str, destinations: &[Arc<str>]) -> bool {
    let Ok(rule) = serde_json::from_str::<serde_json::Value>(text) else {
        return true;
    };
    let named = rule.get(DESTINATIONS).and_then(|named| named.as_array());
    let mut named = named.into_iter().flatten().filter_map(|name| name.as_str());
    named.any(|name| {
        let is_known = destinations.iter().any(|known| **known == *name);
        !is_known && destinations.iter().any(|known| is_flipped(name, known))
    })
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
    fn no_flipped_bit_opens_a_destination() {
        let text = r#"{"name": "hot", "pattern": {"device": ["a"]}, "destinations": ["lake"]}"#;
        let known: Vec<Arc<str>> = vec!["lake".into(), "sea".into()];
        let narrows = |text: &str| {
            let is_whole = || read(text, &known).ok().or_else(|| narrowed(text, &known));
            let rule = match is_damaged(text, &known) {
                true => None,
                false => is_whole(),
            };
            let rule = rule.or_else(|| silenced("hot", text, &known));
            rule.map(|rule| rule.destinations).unwrap_or_default()
        };
        assert_eq!(narrows(text), ["lake".into()]);
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.as_bytes().to_vec();
                flipped[at] ^= 1 << bit;
                // What is no text any more is damage to SQLite.
                let Ok(flipped) = String::from_utf8(flipped) else {
                    continue;
                };
                let narrowed = narrows(&flipped);
                assert!(narrowed.contains(&"lake".into()), "{flipped}: {narrowed:?}");
            }
        }
        // One that is gone by now opens nothing else, and closes nothing.
        let gone = text.replace("lake", "pond");
        assert_eq!(narrows(&gone), [] as [Arc<str>; 0]);
    }
}
