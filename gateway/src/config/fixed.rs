//! What rules are written for, and what holds until a restart.
//!
//! A rule speaks of destinations by name and of events as the mappings make them. Rules
//! that come together with changes there must not hold before these do: a wider rule for
//! another receiver would send to the old one, and a renamed type would be asked for
//! before any event has it.

use std::{collections::BTreeSet, fmt};

use toml::{Table, Value};

/// The tables and keys that no rule depends on. What is not known here counts.
const OTHERS: [&str; 13] = [
    "rule",
    "acl",
    "auth",
    "broker",
    "http",
    "log",
    "read",
    "events",
    "store",
    "dedup",
    "remote",
    "data_dir",
    "shutdown_grace_period",
];

/// These parts of a configuration as they are written, so that two can be compared.
#[derive(Clone, Default, PartialEq)]
pub struct Fixed(Table);

impl fmt::Debug for Fixed {
    /// Without what is in it: destinations have secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixed").finish_non_exhaustive()
    }
}

impl Fixed {
    /// Of a text that is known to be TOML.
    pub(super) fn of(text: &str) -> Self {
        let mut table: Table = toml::from_str(text).unwrap_or_default();
        table.retain(|key, _| !OTHERS.contains(&key));
        Self(table)
    }

    /// What differs in another one, in words.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let keys: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for key in keys {
            let (ours, theirs) = (self.0.get(key), other.0.get(key));
            let written = match ours.or(theirs) {
                _ if ours == theirs => continue,
                _ if key == "destination" => {
                    differences.extend(destinations(ours, theirs));
                    continue;
                }
                Some(Value::Array(_)) => format!("[[{key}]]"),
                Some(Value::Table(_)) => format!("[{key}]"),
                _ => key.clone(),
            };
            differences.push(written);
        }
        differences
    }
}

/// The destinations that differ, by name; none where only their order does.
fn destinations(ours: Option<&Value>, theirs: Option<&Value>) -> Vec<String> {
    let names: BTreeSet<_> = named(ours).chain(named(theirs)).map(|(n, _)| n).collect();
    let find = |all, name: &str| {
        let one = named(all).find(|(known, _)| *known == name);
        one.map(|(_, one)| one)
    };
    let differs = names
        .into_iter()
        .filter(|name| find(ours, name) != find(theirs, name));
    differs.map(|name| format!("destination {name}")).collect()
}

fn named(all: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    let all = all.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|one| Some((one.get("name")?.as_str()?, one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
site = "north"
[[mapping]]
topic = "a/#"
[[destination]]
name = "lake"
type = "file"
[[destination]]
name = "alarms"
type = "http"
url = "https://one/"
[[rule]]
name = "hot"
"#;

    #[test]
    fn what_differs_is_named_and_rules_and_their_order_are_none_of_it() {
        let before = Fixed::of(BEFORE);
        let check = |from: &str, to: &str, expect: &[&str]| {
            assert!(BEFORE.contains(from), "{from}");
            let after = Fixed::of(&BEFORE.replace(from, to));
            assert_eq!(before.differences(&after), expect, "{from} -> {to}");
        };
        check("hot", "cold", &[]);
        check("https://one/", "https://two/", &["destination alarms"]);
        check(
            "name = \"lake\"",
            "name = \"sea\"",
            &["destination lake", "destination sea"],
        );
        check("topic = \"a/#\"", "topic = \"b/#\"", &["[[mapping]]"]);
        check("site = \"north\"\n", "", &["site"]);
        check(
            "[[rule]]",
            "[ingest]\nraw = \"always\"\n[[rule]]",
            &["[ingest]"],
        );
        check("[[rule]]", "[log]\nlevel = \"warn\"\n[[rule]]", &[]);
        check("[[rule]]", "[[later]]\n[[rule]]", &["[[later]]"]);
        let (head, tail) = BEFORE.split_once("[[destination]]").unwrap();
        let (lake, rest) = tail.split_once("[[destination]]").unwrap();
        let (alarms, rule) = rest.split_once("[[rule]]").unwrap();
        let turned = format!("{head}[[destination]]{alarms}[[destination]]{lake}[[rule]]{rule}");
        assert!(before.differences(&Fixed::of(&turned)).is_empty());
        assert_eq!(format!("{before:?}"), "Fixed { .. }");
    }
}
