//! What rules are written for, and what holds until a restart.
//!
//! A rule speaks of events as the mappings make them, and these hold until a restart.
//! Rules that come together with changes there must not hold before these do: a renamed
//! type would be asked for before any event has it. Destinations change with the rules.

use std::{collections::BTreeSet, fmt, sync::Arc};

use toml::{Table, Value};

/// The tables and keys that no rule depends on. What is not known here counts.
const OTHERS: [&str; 20] = [
    "rule",
    "rule_files",
    "destination",
    "acl",
    "auth",
    "broker",
    "http",
    "log",
    "read",
    "encryption",
    "events",
    "devices",
    "commands",
    "shadow",
    "upstream",
    "store",
    "dedup",
    "remote",
    "data_dir",
    "shutdown_grace_period",
];

/// These parts of a configuration as they are written, so that two can be compared.
#[derive(Clone, Default, PartialEq)]
pub struct Fixed {
    table: Table,
    destinations: Option<Value>,
}

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
        let destinations = table.remove("destination");
        table.retain(|key, _| !OTHERS.contains(&key));
        Self {
            table,
            destinations,
        }
    }

    /// What differs in another one, in words.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let keys: BTreeSet<_> = self.table.keys().chain(other.table.keys()).collect();
        for key in keys {
            let (ours, theirs) = (self.table.get(key), other.table.get(key));
            let written = match ours.or(theirs) {
                _ if ours == theirs => continue,
                Some(Value::Array(_)) => format!("[[{key}]]"),
                Some(Value::Table(_)) => format!("[{key}]"),
                _ => key.clone(),
            };
            differences.push(written);
        }
        differences
    }

    /// The destinations that are written otherwise in another one, or only in one of
    /// both, by name; none where only their order differs.
    pub fn changed_destinations(&self, other: &Self) -> BTreeSet<Arc<str>> {
        destinations(self.destinations.as_ref(), other.destinations.as_ref())
    }
}

fn destinations(ours: Option<&Value>, theirs: Option<&Value>) -> BTreeSet<Arc<str>> {
    let names: BTreeSet<_> = named(ours).chain(named(theirs)).map(|(n, _)| n).collect();
    let find = |all, name: &str| {
        let one = named(all).find(|(known, _)| *known == name);
        one.map(|(_, one)| one)
    };
    let differs = names
        .into_iter()
        .filter(|name| find(ours, name) != find(theirs, name));
    differs.map(Arc::from).collect()
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
        let changed = |from: &str, to: &str, expect: &[&str]| {
            check(from, to, &[]);
            let after = Fixed::of(&BEFORE.replace(from, to));
            let changed = before.changed_destinations(&after);
            assert!(
                changed
                    .iter()
                    .map(|name| &**name)
                    .eq(expect.iter().copied()),
                "{changed:?}"
            );
        };
        changed("https://one/", "https://two/", &["alarms"]);
        changed("name = \"lake\"", "name = \"sea\"", &["lake", "sea"]);
        changed("hot", "cold", &[]);
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
        assert!(before.changed_destinations(&Fixed::of(&turned)).is_empty());
        assert_eq!(format!("{before:?}"), "Fixed { .. }");
    }
}
