//! Input transformers, as `EventBridge` has them: paths into the event, and a template
//! with places for what stands there.
//!
//! A path is `$`, and then any of `.name`, `['name']` and `[0]`. The event is as patterns
//! see it, with `values` beside `data`. A template that is JSON once its places are filled
//! in gives JSON: a place within a text becomes part of the text, any other a value. Every
//! other template gives text. What is not there is `null`, and nothing within a text.

use std::{cell::LazyCell, fmt};

use serde_json::Value;

use super::seen;
use crate::event::Event;

/// Paths in one transformer, as with the reference.
const PATHS_MAX: usize = 100;
/// Bytes of a template.
const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of what it may give, whatever devices send.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Places that are there without a path; the second name is the reference's.
const BUILT_IN: [(&str, Source); 6] = [
    ("rule", Source::Rule),
    ("aws.events.rule-name", Source::Rule),
    ("event", Source::Event),
    ("aws.events.event.json", Source::Event),
    ("received", Source::Received),
    ("aws.events.event.ingestion-time", Source::Received),
];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    parts: Vec<Part>,
    is_json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Part of a text of JSON.
    Within(Source),
    /// A value of its own; in a text template, as text.
    Whole(Source),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Rule,
    Event,
    Received,
    Path(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

/// What is wrong with a transformer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A path cannot be read.
    #[error("{name}: {path:?}: {what}")]
    Path {
        /// The name that it has.
        name: String,
        /// As it is written.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The template cannot be used.
    #[error("{0}")]
    Template(String),
}

/// What came of it is longer than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the template gives is longer than 1 MiB")]
pub struct TooLong;

impl Transform {
    /// Reads paths, by the names that the template has for them, and the template.
    ///
    /// # Errors
    /// The first path that cannot be read, or a place in the template that has no path.
    pub fn new<'t>(
        paths: impl IntoIterator<Item = (&'t str, &'t str)>,
        template: &str,
    ) -> Result<Self, Error> {
        let mut known = Vec::new();
        for (name, path) in paths {
            let wrong = |what| Error::Path {
                name: name.to_owned(),
                path: path.to_owned(),
                what,
            };
            if !is_name(name) {
                return Err(wrong("a name has letters, digits, \"-\" and \"_\""));
            }
            if BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
                return Err(wrong("this name is there already; choose another"));
            }
            known.push((name, Source::Path(parse(path).map_err(wrong)?)));
        }
        if known.len() > PATHS_MAX {
            let what = format!("{} paths; there can be {PATHS_MAX}", known.len());
            return Err(Error::Template(what));
        }
        if template.len() > TEMPLATE_BYTES_MAX {
            let what = format!("a template has at most {TEMPLATE_BYTES_MAX} bytes");
            return Err(Error::Template(what));
        }
        Self::of_template(&known, template)
    }

    /// The same where text is wanted, whatever it looks like.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn text<'t>(
        paths: impl IntoIterator<Item = (&'t str, &'t str)>,
        template: &str,
    ) -> Result<Self, Error> {
        let mut read = Self::new(paths, template)?;
        for part in &mut read.parts {
            if let Part::Within(source) = part {
                *part = Part::Whole(source.clone());
            }
        }
        read.is_json = false;
        Ok(read)
    }

    /// Whether anything of it is filled in.
    pub fn has_places(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| !matches!(part, Part::Text(_)))
    }

    fn of_template(known: &[(&str, Source)], template: &str) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut text = String::new();
        // What JSON would see: values in the places.
        let mut probe = String::new();
        let mut quotes = Quotes::default();
        let mut rest = template;
        while let Some(at) = rest.find('<') {
            let (before, after) = rest.split_at(at);
            let place = after[1..]
                .split_once('>')
                .filter(|(name, _)| is_place(name));
            let Some((name, after)) = place else {
                // Not a place: "<" and what follows stay as they are.
                text.push_str(&rest[..=at]);
                quotes.pass(&rest[..=at]);
                probe.push_str(&rest[..=at]);
                rest = &rest[at + 1..];
                continue;
            };
            let built_in = BUILT_IN.iter().map(|(name, source)| (*name, source));
            let given = known.iter().map(|(name, source)| (*name, source));
            let source = built_in.chain(given).find(|(known, _)| *known == name);
            let Some((_, source)) = source else {
                return Err(Error::Template(format!(
                    "<{name}> has no path; name one, as {name} = \"$.device\""
                )));
            };
            text.push_str(before);
            quotes.pass(before);
            probe.push_str(before);
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(if quotes.open {
                Part::Within(source.clone())
            } else {
                probe.push_str("null");
                Part::Whole(source.clone())
            });
            rest = after;
        }
        text.push_str(rest);
        probe.push_str(rest);
        parts.push(Part::Text(text));
        parts.retain(|part| *part != Part::Text(String::new()));
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&probe).is_ok();
        if !is_json {
            for part in &mut parts {
                if let Part::Within(source) = part {
                    *part = Part::Whole(source.clone());
                }
            }
        }
        Ok(Self { parts, is_json })
    }

    /// Whether it gives JSON; else text.
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// What it gives for an event that a rule takes.
    ///
    /// # Errors
    /// When that is longer than [`OUTPUT_BYTES_MAX`].
    pub fn apply(&self, rule: &str, event: &Event) -> Result<String, TooLong> {
        // Made when something is looked for in it.
        let document: LazyCell<Value, _> =
            LazyCell::new(|| serde_json::from_str(&seen::of_event(event)).unwrap_or_default());
        let mut out = String::with_capacity(256);
        for part in &self.parts {
            let (source, within) = match part {
                Part::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Part::Within(source) => (source, true),
                Part::Whole(source) => (source, false),
            };
            let value = match source {
                Source::Rule => Value::from(rule),
                Source::Event => document.clone(),
                Source::Received => find(&document, &[Step::Name("recordedtime".into())]),
                Source::Path(steps) => find(&document, steps),
            };
            match (self.is_json, within) {
                (true, true) => push_within(&value, &mut out),
                (true, false) => out.push_str(&value.to_string()),
                (false, _) => push_text(&value, &mut out),
            }
            if out.len() > OUTPUT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(out)
    }
}

/// Whether a place in JSON is within a text.
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' if self.open => self.escaped = true,
                '"' => self.open = !self.open,
                _ => {}
            }
        }
    }
}

fn push_text(value: &Value, out: &mut String) {
    use fmt::Write as _;
    match value {
        Value::Null => {}
        Value::String(text) => out.push_str(text),
        other => write!(out, "{other}").expect("writing to memory cannot fail"),
    }
}

/// As part of a text of JSON, between its quotes.
fn push_within(value: &Value, out: &mut String) {
    let mut text = String::new();
    push_text(value, &mut text);
    let quoted = Value::String(text).to_string();
    out.push_str(&quoted[1..quoted.len() - 1]);
}

fn find(document: &Value, steps: &[Step]) -> Value {
    let mut at = Some(document);
    for step in steps {
        at = at.and_then(|value| match step {
            Step::Name(name) => value.get(name),
            Step::Index(index) => value.get(index),
        });
    }
    at.cloned().unwrap_or_default()
}

fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(word)
}

/// Whether what stands between `<` and `>` is meant as a place.
fn is_place(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(word)
}

/// Reads a path.
fn parse(path: &str) -> Result<Vec<Step>, &'static str> {
    let mut rest = path
        .strip_prefix('$')
        .ok_or("a path begins with \"$\", such as \"$.device\"")?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let (name, after) = after
                .split_once("']")
                .ok_or("\"['\" begins a name that ends with \"']\"")?;
            steps.push(Step::Name(name.to_owned()));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']').ok_or("\"[\" without \"]\"")?;
            let index = index.parse().map_err(
                |_| "in brackets there is a number, counted from 0, or a name in single quotes",
            )?;
            steps.push(Step::Index(index));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(
                    "a name after \".\" has letters, digits, \"-\" and \"_\"; write others as ['name']",
                );
            }
            steps.push(Step::Name(name.to_owned()));
            rest = after;
        } else {
            return Err("after \"$\" come \".name\", \"['name']\" and \"[0]\"");
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::tests::event_of;

    fn given(paths: &[(&str, &str)], template: &str) -> String {
        let transform = Transform::new(paths.iter().copied(), template).unwrap();
        transform
            .apply("hot", &event_of("b7", &[("t", 85.5), ("axes.0", 0.25)]))
            .unwrap()
    }

    #[test]
    fn places_are_values_or_parts_of_texts() {
        let paths = [
            ("d", "$.device"),
            ("t", "$.values.t"),
            ("axis", "$.values['axes.0']"),
            ("first", "$.data.m[0].n"),
            ("all", "$.values"),
            ("none", "$.values.nothing[3].there"),
        ];
        for (template, expect) in [
            (r#"{"who": <d>, "t": <t>}"#, r#"{"who": "b7", "t": 85.5}"#),
            (
                r#"{"text": "<d> is at <t>"}"#,
                r#"{"text": "b7 is at 85.5"}"#,
            ),
            (
                r#"[<axis>, <first>, <all>]"#,
                r#"[0.25, "t", {"axes.0":0.25,"t":85.5}]"#,
            ),
            (
                r#"{"none": <none>, "x": "<none>"}"#,
                r#"{"none": null, "x": ""}"#,
            ),
            (
                r#""<d> has <all>""#,
                r#""b7 has {\"axes.0\":0.25,\"t\":85.5}""#,
            ),
            (r#"{"q": "\"<d>\""}"#, r#"{"q": "\"b7\""}"#),
            ("<d> is at <t> (<none>)", "b7 is at 85.5 ()"),
            ("<rule>: 1 < 2 <- <d>", "hot: 1 < 2 <- b7"),
            ("<all>", r#"{"axes.0":0.25,"t":85.5}"#),
            (r#"{"r": <aws.events.rule-name>}"#, r#"{"r": "hot"}"#),
        ] {
            assert_eq!(given(&paths, template), expect, "{template}");
        }
    }

    #[test]
    fn mistakes_are_said_with_what_would_be_right() {
        for (name, path, template, part) in [
            ("d", "device", "<d>", "begins with \"$\""),
            ("d", "$device", "<d>", "after \"$\" come"),
            ("d", "$.a b", "<d>", "write others as ['name']"),
            ("d", "$.a[x]", "<d>", "a number, counted from 0"),
            ("d", "$['a", "<d>", "that ends with"),
            ("rule", "$.a", "<rule>", "choose another"),
            ("d e", "$.a", "<d>", "a name has letters"),
            ("d", "$.a", "<e>", "<e> has no path"),
        ] {
            let error = Transform::new([(name, path)], template)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{path} {template}: {error}");
        }
    }

    #[test]
    fn what_devices_send_cannot_break_out_of_a_text_of_json() {
        let transform = Transform::new([("d", "$.device")], r#"{"a": "<d>", "b": <d>}"#).unwrap();
        proptest!(|(device in ".{0,20}")| {
            let out = transform.apply("r", &event_of(&device, &[])).unwrap();
            let json: Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(&json["a"], &Value::from(&*device));
            prop_assert_eq!(&json["b"], &Value::from(&*device));
        });
    }

    #[test]
    fn what_swells_is_refused() {
        let transform = Transform::new([], &"<event>".repeat(1_000)).unwrap();
        let device = "x".repeat(2_000);
        let given = transform.apply("r", &event_of(&device, &[]));
        assert_eq!(given, Err(TooLong));
    }
}
