//! Topic templates: an MQTT topic filter whose wildcards may have names.
//!
//! `{name}` takes one level, `{name...}` one or more to the end; `+` and `#` do
//! the same without keeping what they took, except that `a/#` takes `a` as well
//! (MQTT 5, section 4.7.1.2). No wildcard in the first level takes a topic that
//! begins with `$` (section 4.7.2).

use std::{fmt, sync::Arc};

/// A compiled template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    levels: Box<[Level]>,
    names: Box<[Arc<str>]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    One { captured: bool },
    Rest { captured: bool },
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why} (at character {at})")]
pub struct Error {
    /// What is wrong, and what would be right.
    pub why: String,
    /// Which character, counted from 1.
    pub at: usize,
}

/// Longer topics cannot be sent (MQTT 5, section 1.5.4).
const BYTES_MAX: usize = 65_535;

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// When no topic could ever match, or a name is missing, not a word, or there twice.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut levels = Vec::new();
        let mut names: Vec<Arc<str>> = Vec::new();
        let error = |at: usize, why: String| Error {
            why,
            at: text[..at].chars().count() + 1,
        };
        if text.is_empty() {
            return Err(error(0, "a topic has at least one character".to_owned()));
        }
        if text.len() > BYTES_MAX {
            return Err(error(0, format!("a topic has at most {BYTES_MAX} bytes")));
        }
        let mut at = 0;
        for part in text.split('/') {
            if let Some(Level::Rest { .. }) = levels.last() {
                let last = "only the last level can take the rest of the topic";
                return Err(error(at, last.to_owned()));
            }
            let level = level(part, &mut names).map_err(|(within, why)| error(at + within, why))?;
            levels.push(level);
            at += part.len() + 1;
        }
        Ok(Self {
            text: text.into(),
            levels: levels.into(),
            names: names.into(),
        })
    }

    /// The names of the captures, in the order of the levels.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// What the captures took from `topic`, in the order of [`names`](Self::names);
    /// `None` where the template does not take the topic.
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Vec<&'t str>> {
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return None;
        }
        let mut taken = Vec::with_capacity(self.names.len());
        let mut rest = Some(topic);
        for level in &self.levels {
            match level {
                Level::Rest { captured: false } => return Some(taken),
                Level::Rest { captured: true } => {
                    taken.push(rest?);
                    return Some(taken);
                }
                Level::Literal(_) | Level::One { .. } => {}
            }
            let (part, after) = match rest?.split_once('/') {
                Some((part, after)) => (part, Some(after)),
                None => (rest?, None),
            };
            match level {
                Level::Literal(literal) if **literal != *part => return None,
                Level::One { captured: true } => taken.push(part),
                _ => {}
            }
            rest = after;
        }
        rest.is_none().then_some(taken)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One level; an error is where in it, and why.
fn level(part: &str, names: &mut Vec<Arc<str>>) -> Result<Level, (usize, String)> {
    match part {
        "+" => return Ok(Level::One { captured: false }),
        "#" => return Ok(Level::Rest { captured: false }),
        _ => {}
    }
    let Some(inner) = part.strip_prefix('{') else {
        return match part.find(['+', '#', '{', '}', '\0']) {
            None => Ok(Level::Literal(part.into())),
            Some(at) if part[at..].starts_with('\0') => {
                Err((at, "a topic has no null character".to_owned()))
            }
            Some(at) => Err((
                at,
                format!("{:?} takes a whole level, between slashes", &part[at..=at]),
            )),
        };
    };
    let Some(inner) = inner.strip_suffix('}') else {
        return Err((
            0,
            "\"{\" begins a name that ends with \"}\" before the next slash".to_owned(),
        ));
    };
    let (name, rest) = match inner.strip_suffix("...") {
        Some(name) => (name, true),
        None => (inner, false),
    };
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(word) {
        let why = "a name has lower-case letters, digits and \"_\", such as {device} or {rest...}";
        return Err((1, why.to_owned()));
    }
    if name == "client" {
        return Err((
            1,
            "\"client\" already stands for the client identifier".to_owned(),
        ));
    }
    if name == "user" {
        return Err((
            1,
            "\"user\" already stands for the user that the client was let in as".to_owned(),
        ));
    }
    if names.iter().any(|other| **other == *name) {
        return Err((1, format!("the name {name:?} is there twice")));
    }
    names.push(name.into());
    Ok(if rest {
        Level::Rest { captured: true }
    } else {
        Level::One { captured: true }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn templates_take_what_mqtt_says_and_capture_by_level() {
        for (template, topic, expect) in [
            (
                "site/{site}/device/{device}/telemetry",
                "site/pune/device/b7/telemetry",
                Some(vec!["pune", "b7"]),
            ),
            (
                "site/{site}/device/{device}/telemetry",
                "site/pune/device/b7",
                None,
            ),
            (
                "site/{site}/device/{device}/telemetry",
                "site/pune/device/b7/telemetry/x",
                None,
            ),
            (
                "devices/{device}/{type...}",
                "devices/a/b",
                Some(vec!["a", "b"]),
            ),
            (
                "devices/{device}/{type...}",
                "devices/a/b/c/d",
                Some(vec!["a", "b/c/d"]),
            ),
            ("devices/{device}/{type...}", "devices/a", None),
            (
                "devices/{device}/{type...}",
                "devices/a/",
                Some(vec!["a", ""]),
            ),
            ("zigbee2mqtt/{device}", "zigbee2mqtt/kitchen/floor", None),
            ("a/+/c", "a/b/c", Some(vec![])),
            ("a/+/c", "a//c", Some(vec![])),
            ("a/+", "a", None),
            ("a/+", "a/", Some(vec![])),
            ("a/#", "a", Some(vec![])),
            ("a/#", "a/b/c", Some(vec![])),
            ("a/#", "ab", None),
            ("#", "anything/at/all", Some(vec![])),
            ("#", "$SYS/broker", None),
            ("+/broker", "$SYS/broker", None),
            ("{x}/broker", "$SYS/broker", None),
            ("{x...}", "$SYS/broker", None),
            ("$SYS/#", "$SYS/broker", Some(vec![])),
            ("/tenants/{tenant}", "/tenants/acme", Some(vec!["acme"])),
            ("/tenants/{tenant}", "tenants/acme", None),
            (
                "te/device/{device}///m/{type}",
                "te/device/child1///m/env",
                Some(vec!["child1", "env"]),
            ),
            ("{a}/{b}", "x/", Some(vec!["x", ""])),
            ("{a}/{b}", "/", Some(vec!["", ""])),
            ("{a}", "", Some(vec![""])),
            ("a", "a", Some(vec![])),
            ("a", "A", None),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().captures(topic),
                expect,
                "{template} {topic}"
            );
        }
    }

    #[test]
    fn bad_templates_are_refused_with_the_character() {
        for (template, at, why) in [
            ("", 1, "at least one character"),
            ("a/#/b", 5, "only the last level"),
            ("é/{x...}/b", 10, "only the last level"),
            ("a/b+", 4, "takes a whole level"),
            ("a/b#", 4, "takes a whole level"),
            ("dev-{id}", 5, "takes a whole level"),
            ("é{x}", 2, "takes a whole level"),
            ("a/}", 3, "takes a whole level"),
            ("a/{x/b", 3, "before the next slash"),
            ("a/{x}y", 3, "before the next slash"),
            ("a/{}", 4, "a name has"),
            ("a/{...}", 4, "a name has"),
            ("a/{Site}", 4, "a name has"),
            ("a/{x..}", 4, "a name has"),
            ("{x}/{x}", 6, "twice"),
            ("{client}/a", 2, "client identifier"),
            ("{user}/a", 2, "let in as"),
            ("a\0b", 2, "null"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert_eq!(error.at, at, "{template:?}: {error}");
            assert!(error.why.contains(why), "{template:?}: {error}");
        }
        assert!(Template::parse(&"a".repeat(BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_compiles_or_is_refused_within_itself(text in r"[a/+#{}.\$é]{0,16}") {
            if let Err(error) = Template::parse(&text) {
                prop_assert!(error.at >= 1 && error.at <= text.chars().count() + 1, "{text:?}: {error}");
            }
        }

        #[test]
        fn a_topic_put_together_from_levels_is_taken_apart_again(
            levels in proptest::collection::vec(("[a-z]{1,4}", any::<bool>()), 1..6),
            rest in proptest::option::of("[a-z/]{1,8}"),
        ) {
            let mut template: Vec<String> = levels.iter().enumerate()
                .map(|(n, (level, capture))| if *capture { format!("{{n{n}}}") } else { level.clone() })
                .collect();
            let mut topic: Vec<&str> = levels.iter().map(|(level, _)| level.as_str()).collect();
            let mut expect: Vec<&str> = levels.iter().filter(|l| l.1).map(|l| l.0.as_str()).collect();
            if let Some(rest) = &rest {
                template.push("{rest...}".to_owned());
                topic.push(rest);
                expect.push(rest);
            }
            let template = Template::parse(&template.join("/")).unwrap();
            let topic = topic.join("/");
            prop_assert_eq!(template.captures(&topic), Some(expect));
        }
    }
}
