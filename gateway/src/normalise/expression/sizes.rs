//! How large things of a payload are: bytes of text, and one for each value.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    ptr,
};

use crate::{
    event::{Measurement, Value},
    normalise::{Node, decode::DEPTH_MAX as PAYLOAD_DEPTH},
};

/// The sizes of one payload, or of one element of it, each worked out when it is first
/// asked for.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    table: OnceCell<Table>,
    /// Of lists and maps that an expression names, by address.
    exact: RefCell<HashMap<*const (), f64>>,
}

impl Sizes {
    /// The size of a node, with everything within it.
    pub(super) fn node(&self, node: &Node<'_>) -> f64 {
        match node {
            Node::Array(_) | Node::Map(_) => *self
                .exact
                .borrow_mut()
                .entry(ptr::from_ref(node).cast())
                .or_insert_with(|| length(weigh(node))),
            leaf => length(weigh(leaf)),
        }
    }

    /// The largest values so deep below `root`, which is always the same.
    pub(super) fn table(&self, root: &Node<'_>) -> &Table {
        self.table.get_or_init(|| {
            let mut table = Table::default();
            table.node(root, 0, 0);
            table
        })
    }
}

fn weigh(node: &Node<'_>) -> usize {
    1 + match node {
        Node::Text(text) => text.len(),
        Node::Bytes(bytes) => bytes.len(),
        Node::Array(items) => items.iter().map(weigh).sum(),
        Node::Map(members) => members
            .iter()
            .map(|(name, node)| name.len() + weigh(node))
            .sum(),
        _ => 0,
    }
}

/// How large the largest value at each depth is, with everything within it, and how
/// many items the longest list or map there has.
#[derive(Debug)]
pub(super) struct Table {
    whole: [f64; PAYLOAD_DEPTH + 3],
    items: [f64; PAYLOAD_DEPTH + 3],
}

impl Default for Table {
    fn default() -> Self {
        Self {
            whole: [1.0; PAYLOAD_DEPTH + 3],
            items: [0.0; PAYLOAD_DEPTH + 3],
        }
    }
}

impl Table {
    /// Of what was measured.
    pub(super) fn of_measured(measured: &[Measurement]) -> Self {
        let mut table = Self::default();
        let all = measured
            .iter()
            .map(|m| table.value(&m.value, 1, m.name.len()))
            .sum();
        table.add(0, all);
        table.count(0, measured.len());
        table
    }

    /// The size of the largest value at a depth.
    pub(super) fn largest(&self, depth: usize) -> f64 {
        self.whole.get(depth).copied().unwrap_or(1.0)
    }

    /// The length of the longest list or map at a depth.
    pub(super) fn items(&self, depth: usize) -> f64 {
        self.items.get(depth).copied().unwrap_or(0.0)
    }

    fn add(&mut self, depth: usize, size: usize) -> usize {
        if let Some(largest) = self.whole.get_mut(depth) {
            *largest = largest.max(length(size));
        }
        size
    }

    fn count(&mut self, depth: usize, items: usize) {
        if let Some(most) = self.items.get_mut(depth) {
            *most = most.max(length(items));
        }
    }

    /// The size of a node under a name of so many bytes.
    fn node(&mut self, node: &Node<'_>, depth: usize, name: usize) -> usize {
        match node {
            Node::Array(items) => self.count(depth, items.len()),
            Node::Map(members) => self.count(depth, members.len()),
            _ => {}
        }
        let within: usize = match node {
            Node::Text(text) => text.len(),
            Node::Bytes(bytes) => bytes.len(),
            Node::Array(items) => items.iter().map(|item| self.node(item, depth + 1, 0)).sum(),
            Node::Map(members) => members
                .iter()
                .map(|(name, node)| self.node(node, depth + 1, name.len()))
                .sum(),
            _ => 0,
        };
        self.add(depth, 1 + name + within)
    }

    /// As [`Self::node`]; lists and tables of measurements are as large as a device
    /// makes them.
    fn value(&mut self, value: &Value, depth: usize, name: usize) -> usize {
        let within = match value {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Array(items) => {
                self.count(depth, items.len());
                items
                    .iter()
                    .map(|item| self.value(item, depth + 1, 0))
                    .sum()
            }
            Value::Map(members) => {
                self.count(depth, members.len());
                members
                    .iter()
                    .map(|(name, value)| self.value(value, depth + 1, name.len()))
                    .sum()
            }
            _ => 0,
        };
        self.add(depth, 1 + name + within)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no payload has so many bytes that a double cannot count them"
)]
pub(super) fn length(count: usize) -> f64 {
    count as f64
}
