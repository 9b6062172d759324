//! What an expression sees of a message.

use std::{collections::HashMap, sync::Arc};

use cel::{
    Context, IdedExpr, Value as Cel,
    objects::{Key, Map},
};

use super::super::Node;
use crate::event::{Measurement, Value};

/// What there is to be seen.
#[derive(Debug, Clone, Copy)]
pub struct Given<'n, 'a> {
    /// `p`: the payload, or an element of it.
    pub element: &'n Node<'a>,
    /// `payload`: the whole.
    pub payload: &'n Node<'a>,
    /// `topic`.
    pub topic: &'n str,
    /// `device`, where it is known.
    pub device: Option<&'n str>,
    /// `v`: what was measured, where it is known.
    pub measured: &'n [Measurement],
}

impl Given<'_, '_> {
    /// Adds the variables that an expression uses.
    pub(super) fn add_to(&self, scope: &mut Context<'_, '_>, expression: &IdedExpr) {
        let references = expression.references();
        let uses = |name: &str| references.has_variable(name);
        if uses("p") {
            scope.add_variable_from_value("p", of_node(self.element));
        }
        if uses("payload") {
            scope.add_variable_from_value("payload", of_node(self.payload));
        }
        if uses("topic") {
            scope.add_variable_from_value("topic", text(self.topic));
        }
        if uses("device") {
            scope.add_variable_from_value("device", text(self.device.unwrap_or_default()));
        }
        if uses("v") {
            let measured = self.measured.iter();
            let members = measured
                .map(|m| (name(&m.name), of_value(&m.value)))
                .collect();
            scope.add_variable_from_value("v", map(members));
        }
    }
}

fn text(text: &str) -> Cel {
    Cel::String(Arc::new(text.to_owned()))
}

fn name(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

fn map(members: HashMap<Key, Cel>) -> Cel {
    Cel::Map(Map {
        map: Arc::new(members),
    })
}

/// Whole numbers are `int` wherever they fit, so that `p.n + 1` means what it says.
fn of_node(node: &Node<'_>) -> Cel {
    match node {
        Node::Null => Cel::Null,
        Node::Bool(b) => Cel::Bool(*b),
        Node::Int(n) => Cel::Int(*n),
        Node::UInt(n) => Cel::UInt(*n),
        Node::Float(float) => Cel::Float(float.value),
        Node::Text(said) => text(said),
        Node::Bytes(bytes) => Cel::Bytes(Arc::new(bytes.to_vec())),
        Node::Array(items) => Cel::List(Arc::new(items.iter().map(of_node).collect())),
        Node::Map(members) => {
            let members = members.iter();
            map(members.map(|(n, node)| (name(n), of_node(node))).collect())
        }
    }
}

fn of_value(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Int(n) => Cel::Int(*n),
        Value::UInt(n) => Cel::UInt(*n),
        Value::Float(x) => Cel::Float(*x),
        Value::Text(said) => text(said),
        Value::Bytes(bytes) => Cel::Bytes(Arc::new(bytes.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(of_value).collect())),
        Value::Map(members) => {
            let members = members.iter();
            map(members
                .map(|(n, value)| (name(n), of_value(value)))
                .collect())
        }
    }
}
