//! The shape of payloads that were seen, as a JSON Schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::normalise::decode::Node;

/// Members of one object that are told apart.
const MEMBERS_MAX: usize = 500;
/// Levels that are described.
const DEPTH_MAX: usize = 16;

/// What values at one place are.
#[derive(Debug, Default)]
pub(super) struct Shape {
    seen: usize,
    kinds: BTreeSet<&'static str>,
    /// Of objects: their members.
    members: BTreeMap<String, Shape>,
    objects: usize,
    /// More members than are told apart.
    others: bool,
    /// Of lists: what is in them.
    items: Option<Box<Shape>>,
}

impl Shape {
    /// Looks at one value.
    pub(super) fn add(&mut self, node: &Node<'_>) {
        self.within(node, 0);
    }

    fn within(&mut self, node: &Node<'_>, depth: usize) {
        self.seen += 1;
        self.kinds.insert(match node {
            Node::Null => "null",
            Node::Bool(_) => "boolean",
            Node::Int(_) | Node::UInt(_) => "integer",
            Node::Float(float) if float.value.is_finite() => "number",
            // As JSON they are null.
            Node::Float(_) => "null",
            Node::Text(_) | Node::Bytes(_) => "string",
            Node::Array(_) => "array",
            Node::Map(_) => "object",
        });
        if depth >= DEPTH_MAX {
            return;
        }
        match node {
            Node::Map(members) => {
                self.objects += 1;
                for (name, node) in members {
                    if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&**name) {
                        self.others = true;
                        continue;
                    }
                    let member = self.members.entry(name.to_string()).or_default();
                    member.within(node, depth + 1);
                }
            }
            Node::Array(items) => {
                let of = self.items.get_or_insert_default();
                items.iter().for_each(|item| of.within(item, depth + 1));
            }
            _ => {}
        }
    }

    /// The schema as JSON; `None` where nothing was seen.
    pub(super) fn schema(&self, title: &str) -> Option<String> {
        if self.seen == 0 {
            return None;
        }
        let mut schema = self.value();
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        schema["title"] = title.into();
        let mut text = serde_json::to_string_pretty(&schema).ok()?;
        text.push('\n');
        Some(text)
    }

    fn value(&self) -> Value {
        let mut kinds: Vec<&str> = self.kinds.iter().copied().collect();
        if kinds.contains(&"number") {
            kinds.retain(|kind| *kind != "integer");
        } else {
            // A reading that happened to be whole each time.
            kinds
                .iter_mut()
                .filter(|kind| **kind == "integer")
                .for_each(|kind| *kind = "number");
        }
        let mut schema = match &kinds[..] {
            [] => json!({}),
            [one] => json!({ "type": one }),
            several => json!({ "type": several }),
        };
        if self.objects > 0 {
            let always = self.members.iter();
            let always: Vec<&String> = always
                .filter(|(_, member)| member.seen == self.objects)
                .map(|(name, _)| name)
                .collect();
            if !always.is_empty() {
                schema["required"] = json!(always);
            }
            let members = self.members.iter();
            schema["properties"] = members
                .map(|(name, member)| (name.clone(), member.value()))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        if let Some(items) = &self.items
            && items.seen > 0
        {
            schema["items"] = items.value();
        }
        schema
    }
}
