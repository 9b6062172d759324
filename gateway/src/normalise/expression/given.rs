//! What an expression sees of a message.

use std::{cell::OnceCell, collections::HashMap, fmt, ptr, sync::Arc};

use cel::{
    Context, IdedExpr, Program, ResolveResult, Value as Cel,
    common::value::{CowVal, Val},
    context::VariableResolver,
    objects::{Key, Map},
};

use super::{super::Node, sizes::Sizes};
use crate::event::{Measurement, Value};

/// The payload of one message, for all expressions over it and all its elements: made
/// and measured once, when the first of them asks. Otherwise each element of a batch
/// would cost as much as the batch.
pub struct Whole<'n, 'a> {
    root: &'n Node<'a>,
    made: OnceCell<Box<dyn Val>>,
    sizes: Sizes,
}

impl fmt::Debug for Whole<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Whole").field(self.root).finish()
    }
}

impl<'n, 'a> Whole<'n, 'a> {
    /// Of a payload; nothing is made of it yet.
    pub fn new(root: &'n Node<'a>) -> Self {
        Self {
            root,
            made: OnceCell::new(),
            sizes: Sizes::default(),
        }
    }

    /// The payload.
    pub(super) const fn root(&self) -> &'n Node<'a> {
        self.root
    }

    pub(super) const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Whether it was made for an expression already.
    pub(super) fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn made(&self) -> &dyn Val {
        &**self.made.get_or_init(|| made(self.root))
    }
}

/// What there is to be seen.
#[derive(Debug, Clone, Copy)]
pub struct Given<'n, 'a> {
    /// `p`: the payload, or an element of it.
    pub element: &'n Node<'a>,
    /// `payload`: the whole.
    pub whole: &'n Whole<'n, 'a>,
    /// `topic`.
    pub topic: &'n str,
    /// `device`, where it is known.
    pub device: Option<&'n str>,
    /// `v`: what was measured, where it is known.
    pub measured: &'n [Measurement],
}

/// Which of the variables an expression uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) element: bool,
    pub(super) payload: bool,
    pub(super) topic: bool,
    pub(super) device: bool,
    pub(super) measured: bool,
}

impl Uses {
    pub(super) fn of(expression: &IdedExpr) -> Self {
        let references = expression.references();
        let uses = |name: &str| references.has_variable(name);
        Self {
            element: uses("p"),
            payload: uses("payload"),
            topic: uses("topic"),
            device: uses("device"),
            measured: uses("v"),
        }
    }
}

/// The payload and the element of it, as an evaluation finds them.
struct Seen<'s> {
    element: Option<&'s dyn Val>,
    payload: Option<&'s dyn Val>,
}

impl VariableResolver for Seen<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let seen = match variable {
            "p" => self.element,
            "payload" => self.payload,
            _ => None,
        };
        seen.map(CowVal::Borrowed)
    }
}

impl Given<'_, '_> {
    /// Whether `p` is the payload.
    pub(super) fn is_whole(&self) -> bool {
        ptr::eq(self.element, self.whole.root)
    }

    /// Executes a program that uses these variables.
    pub(super) fn execute(
        &self,
        context: &Context<'_, '_>,
        program: &Program,
        uses: Uses,
    ) -> ResolveResult {
        let own = (uses.element && !self.is_whole()).then(|| made(self.element));
        let whole = (uses.payload || (uses.element && own.is_none())).then(|| self.whole.made());
        let seen = Seen {
            element: own.as_deref().or(whole).filter(|_| uses.element),
            payload: whole.filter(|_| uses.payload),
        };
        let mut scope = context.new_inner_scope();
        scope.set_variable_resolver(&seen);
        if uses.topic {
            scope.add_variable_from_value("topic", text(self.topic));
        }
        if uses.device {
            scope.add_variable_from_value("device", text(self.device.unwrap_or_default()));
        }
        if uses.measured {
            let measured = self.measured.iter();
            let members = measured
                .map(|m| (name(&m.name), of_value(&m.value)))
                .collect();
            scope.add_variable_from_value("v", map(members));
        }
        program.execute(&scope)
    }
}

/// A node as evaluations read it.
fn made(node: &Node<'_>) -> Box<dyn Val> {
    let made = Box::<dyn Val>::try_from(of_node(node));
    made.expect("every kind of value that a payload has is one of theirs")
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
