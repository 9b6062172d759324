//! JSON Schemas for the types of events: what the payload of each, or the element of
//! a batch, should look like.
//!
//! A schema is compiled once, from one file: references to other documents are
//! refused, so that nothing is fetched. Patterns are matched in linear time.
//!
//! A panic within the library is caught. Nobody knows whether such a payload is as its
//! schema says, so it counts as one that is not.

use std::{fmt, sync::Arc};

#[cfg(feature = "schema")]
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Class, Node, Reject};

/// What becomes of an event whose payload is not as its schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mismatch {
    /// The message, or the element, is quarantined.
    #[default]
    Quarantine,
    /// The event says so in a tag.
    Tag,
    /// It is counted.
    Pass,
}

impl Mismatch {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("quarantine", Self::Quarantine),
        ("tag", Self::Tag),
        ("pass", Self::Pass),
    ];
}

/// Whether this build can hold payloads to schemas.
pub const BUILT: bool = cfg!(feature = "schema");

/// The tag of an event that is not as its schema says.
pub const TAG: &str = "schemaerror";

/// A reason is cut after so many characters.
#[cfg(feature = "schema")]
const REASON_CHARS_MAX: usize = 300;

/// The schemas of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Schemas(Arc<[Schema]>);

/// What the payloads of one type of event should look like.
#[derive(Clone)]
pub struct Schema {
    kind: Arc<str>,
    mismatch: Mismatch,
    /// Whether asking the validator what is wrong ends. It follows every alternative of
    /// each element, so with alternatives that refer back it may take the memory of all.
    #[cfg(feature = "schema")]
    tells_why: bool,
    #[cfg(feature = "schema")]
    validator: Arc<jsonschema::Validator>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("kind", &self.kind)
            .field("mismatch", &self.mismatch)
            .finish_non_exhaustive()
    }
}

impl Schema {
    /// Compiles the schema of a type of event from the text of its file.
    ///
    /// # Errors
    /// When it is no JSON Schema, or refers to another document.
    #[cfg(feature = "schema")]
    pub fn parse(kind: &str, mismatch: Mismatch, text: &str) -> Result<Self, String> {
        let schema: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        if let Some(loop_at) = refers_to_itself(&schema) {
            return Err(format!("{loop_at:?} refers to itself and says nothing"));
        }
        let options = jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .offline();
        Self::built(kind, mismatch, &schema, &options)
    }

    #[cfg(feature = "schema")]
    fn built(
        kind: &str,
        mismatch: Mismatch,
        schema: &serde_json::Value,
        options: &jsonschema::ValidationOptions<'_>,
    ) -> Result<Self, String> {
        let validator = catch_unwind(AssertUnwindSafe(|| options.build(schema)))
            .map_err(|_| "is no JSON Schema that the validator can read".to_owned())?
            .map_err(|error| {
                let what = cut(&error.to_string());
                match what.contains("://") || what.to_lowercase().contains("retriev") {
                    true => format!(
                        "{what}; nothing is fetched: put what $ref names into the file, under \"$defs\""
                    ),
                    false => format!("is no JSON Schema: {what}"),
                }
            })?;
        Ok(Self {
            kind: kind.into(),
            mismatch,
            tells_why: !(has_member(schema, &["anyOf", "oneOf"])
                && has_member(schema, &["$ref", "$dynamicRef", "$recursiveRef"])),
            validator: Arc::new(validator),
        })
    }

    /// Refuses every schema.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "schema"))]
    pub fn parse(_: &str, _: Mismatch, _: &str) -> Result<Self, String> {
        Err("schemas are not in this program; build it with the feature schema".to_owned())
    }

    /// The type of event that it is for.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What is wrong with a payload, where something is.
    #[cfg(feature = "schema")]
    fn wrong(&self, node: &Node<'_>) -> Option<String> {
        // Nothing of ours is half done where it ends.
        catch_unwind(AssertUnwindSafe(|| self.validated(node))).unwrap_or_else(|_| {
            Some(format!(
                "nobody knows whether it is as the schema of {:?} says: the validator failed",
                self.kind
            ))
        })
    }

    #[cfg(feature = "schema")]
    fn validated(&self, node: &Node<'_>) -> Option<String> {
        let json = serde_json::to_value(Json(node)).unwrap_or_default();
        if self.validator.is_valid(&json) {
            return None;
        }
        if !self.tells_why {
            return Some(format!("is not as the schema of {:?} says", self.kind));
        }
        let error = self.validator.validate(&json).err()?;
        let at = error.instance_path().to_string();
        // Without the payload, which may be anything.
        Some(cut(&format!("at \"{at}\": {}", error.masked())))
    }

    #[cfg(not(feature = "schema"))]
    fn wrong(&self, _: &Node<'_>) -> Option<String> {
        None
    }
}

/// What a payload turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// There is no schema for it, or it is as that says.
    Fine,
    /// It is not, and is an event all the same; with what is wrong where it gets a tag.
    Mismatch(Option<String>),
}

impl Schemas {
    /// Some schemas, each for a type of its own.
    pub fn new(schemas: Vec<Schema>) -> Self {
        Self(schemas.into())
    }

    /// Judges the payload of an event of a type.
    pub(super) fn judge(&self, kind: &str, node: &Node<'_>) -> Result<Judged, Reject> {
        let Some(schema) = self.0.iter().find(|schema| *schema.kind == *kind) else {
            return Ok(Judged::Fine);
        };
        let Some(wrong) = schema.wrong(node) else {
            return Ok(Judged::Fine);
        };
        match schema.mismatch {
            Mismatch::Quarantine => Err(Reject::new(Class::Schema, wrong)),
            Mismatch::Tag => Ok(Judged::Mismatch(Some(wrong))),
            Mismatch::Pass => Ok(Judged::Mismatch(None)),
        }
    }

    /// Whether a type of event has a schema.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|schema| *schema.kind == *kind)
    }
}

#[cfg(feature = "schema")]
fn cut(what: &str) -> String {
    what.chars().take(REASON_CHARS_MAX).collect()
}

/// Whether a member of any of these names is anywhere within.
#[cfg(feature = "schema")]
fn has_member(schema: &serde_json::Value, names: &[&str]) -> bool {
    match schema {
        serde_json::Value::Array(items) => items.iter().any(|item| has_member(item, names)),
        serde_json::Value::Object(members) => members
            .iter()
            .any(|(name, value)| names.contains(&&**name) || has_member(value, names)),
        _ => false,
    }
}

/// A reference that leads back to itself with nothing between: validating by it would
/// not end.
#[cfg(feature = "schema")]
fn refers_to_itself(root: &serde_json::Value) -> Option<String> {
    use serde_json::Value;

    /// The schemas that are asked about the same value as this one.
    fn same_value<'s>(schema: &'s Value, into: &mut Vec<&'s Value>) {
        for name in ["allOf", "anyOf", "oneOf"] {
            let list = schema.get(name).and_then(Value::as_array);
            into.extend(list.into_iter().flatten());
        }
        for name in ["not", "if", "then", "else"] {
            into.extend(schema.get(name));
        }
        let dependent = schema.get("dependentSchemas").and_then(Value::as_object);
        into.extend(dependent.into_iter().flat_map(|all| all.values()));
    }

    fn target<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
        match reference.strip_prefix('#')? {
            "" => Some(root),
            pointer => root.pointer(pointer),
        }
    }

    fn every<'s>(schema: &'s Value, all: &mut Vec<&'s Value>) {
        match schema {
            Value::Object(members) => {
                all.push(schema);
                members.values().for_each(|inner| every(inner, all));
            }
            Value::Array(items) => items.iter().for_each(|inner| every(inner, all)),
            _ => {}
        }
    }

    let mut all = Vec::new();
    every(root, &mut all);
    let references = |schema: &'_ Value| {
        let names = ["$ref", "$dynamicRef", "$recursiveRef"];
        let texts = names.iter().filter_map(|name| schema.get(*name)?.as_str());
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    all.iter().find_map(|start| {
        let first = references(start).first()?.clone();
        let mut seen: Vec<&Value> = Vec::new();
        let mut next: Vec<&Value> = vec![start];
        while let Some(schema) = next.pop() {
            let mut inner = Vec::new();
            same_value(schema, &mut inner);
            inner.extend(references(schema).iter().filter_map(|r| target(root, r)));
            for schema in inner {
                if std::ptr::eq(schema, *start) {
                    return Some(first);
                }
                if !seen.iter().any(|known| std::ptr::eq(*known, schema)) {
                    seen.push(schema);
                    next.push(schema);
                }
            }
        }
        None
    })
}

/// A decoded payload as JSON: bytes as base64, what is no number as null.
#[cfg(feature = "schema")]
struct Json<'n, 'a>(&'n Node<'a>);

#[cfg(feature = "schema")]
impl serde::Serialize for Json<'_, '_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;

        match self.0 {
            Node::Bytes(bytes) => {
                to.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Node::Array(items) => to.collect_seq(items.iter().map(Json)),
            Node::Map(members) => {
                to.collect_map(members.iter().map(|(name, node)| (name, Json(node))))
            }
            leaf => leaf.serialize(to),
        }
    }
}

#[cfg(feature = "schema")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::decode::{self, Format};

    fn judged(schema: &str, mismatch: Mismatch, payload: &str) -> Result<Judged, Reject> {
        let schemas = Schemas::new(vec![Schema::parse("k", mismatch, schema).unwrap()]);
        let node = decode::decode(Format::Json, payload.as_bytes()).unwrap();
        schemas.judge("k", &node)
    }

    const SCHEMA: &str =
        r#"{"type":"object","required":["t"],"properties":{"t":{"type":"number","maximum":100}}}"#;

    #[test]
    fn what_is_not_as_the_schema_says_is_quarantined_tagged_or_passed() {
        for mismatch in [Mismatch::Quarantine, Mismatch::Tag, Mismatch::Pass] {
            assert_eq!(
                judged(SCHEMA, mismatch, r#"{"t":1}"#).unwrap(),
                Judged::Fine
            );
        }
        let wrong = judged(SCHEMA, Mismatch::Quarantine, r#"{"t":123456}"#).unwrap_err();
        assert_eq!(wrong.class, Class::Schema);
        assert!(wrong.reason.starts_with("at \"/t\": "), "{wrong}");
        assert!(
            !wrong.reason.contains("123456"),
            "the payload is kept, not quoted: {wrong}"
        );
        let tagged = judged(SCHEMA, Mismatch::Tag, "{}").unwrap();
        assert!(matches!(tagged, Judged::Mismatch(Some(_))));
        assert_eq!(
            judged(SCHEMA, Mismatch::Pass, "{}").unwrap(),
            Judged::Mismatch(None)
        );
        let schemas = Schemas::new(vec![Schema::parse("k", Mismatch::Tag, SCHEMA).unwrap()]);
        assert_eq!(schemas.judge("other", &Node::Null).unwrap(), Judged::Fine);
    }

    #[test]
    fn what_is_no_schema_and_what_would_have_to_be_fetched_is_refused() {
        for (text, expect) in [
            ("{", "is not JSON: "),
            (r#"{"type":"numbr"}"#, "is no JSON Schema: "),
            (
                r#"{"properties":{"a":{"pattern":"("}}}"#,
                "is no JSON Schema: ",
            ),
            (
                r#"{"$ref":"https://example.com/a.json"}"#,
                "nothing is fetched",
            ),
            (r#"{"$ref":"file:///etc/passwd"}"#, "nothing is fetched"),
            (r#"{"$ref":"other.json"}"#, "nothing is fetched"),
            (r##"{"$ref":"#"}"##, "refers to itself"),
            (
                r##"{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"$ref":"#/$defs/a"}}}"##,
                "refers to itself",
            ),
        ] {
            let error = Schema::parse("k", Mismatch::Tag, text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
        // A tree of trees refers to itself, one level down each time.
        let tree = r##"{"properties":{"children":{"items":{"$ref":"#"}}}}"##;
        assert_eq!(
            judged(tree, Mismatch::Tag, r#"{"children":[{"children":[]}]}"#).unwrap(),
            Judged::Fine
        );
    }

    #[test]
    fn hostile_patterns_and_payloads_end() {
        let schema = r#"{"properties":{"s":{"pattern":"^(a+)+$"}}}"#;
        let payload = format!("{{\"s\":\"{}!\"}}", "a".repeat(50_000));
        assert!(judged(schema, Mismatch::Quarantine, &payload).is_err());
    }

    #[test]
    fn a_tree_that_is_not_as_its_schema_says_is_refused_in_the_time_that_it_takes_to_look() {
        let child = r##"{"$ref":"#"}"##;
        let kind = |name: &str| {
            format!("{{\"required\":[\"{name}\"],\"properties\":{{\"child\":{child}}}}}")
        };
        let schema = format!("{{\"anyOf\":[{},{}]}}", kind("a"), kind("b"));
        let payload = format!("{}{{}}{}", "{\"child\":".repeat(50), "}".repeat(50));
        let reject = judged(&schema, Mismatch::Quarantine, &payload).unwrap_err();
        assert!(
            reject.to_string().contains("is not as the schema"),
            "{reject}"
        );
    }

    #[test]
    fn a_validator_that_panics_ends_no_worker_and_says_nothing_for_the_payload() {
        let options = jsonschema::options()
            .should_validate_formats(true)
            .with_format("odd", |text: &str| {
                assert!(text != "panic", "as a fault of the library would");
                true
            });
        let schema = serde_json::json!({"properties": {"s": {"format": "odd"}}});
        let judged = |mismatch: Mismatch, payload: &str| {
            let schema = Schema::built("k", mismatch, &schema, &options).unwrap();
            let node = decode::decode(Format::Json, payload.as_bytes()).unwrap();
            Schemas::new(vec![schema]).judge("k", &node)
        };
        let reject = judged(Mismatch::Quarantine, r#"{"s":"panic"}"#).unwrap_err();
        assert_eq!(reject.class, Class::Schema);
        assert!(reject.reason.contains("the validator failed"), "{reject}");
        let tagged = judged(Mismatch::Tag, r#"{"s":"panic"}"#).unwrap();
        assert!(matches!(tagged, Judged::Mismatch(Some(_))));
        let passed = judged(Mismatch::Pass, r#"{"s":"panic"}"#).unwrap();
        assert_eq!(passed, Judged::Mismatch(None));
        let fine = judged(Mismatch::Quarantine, r#"{"s":"x"}"#).unwrap();
        assert_eq!(fine, Judged::Fine);
    }
}
