//! What an expression could cost, before it is evaluated.
//!
//! A walk over the expression with an upper bound for the size of every part: of what
//! comes from the payload by how deep it is in it, of what is computed by what it is
//! computed from. Sizes count bytes of text and items; the cost counts steps, and the
//! bytes that are looked at or made. Every bound is generous, so something that would
//! just do may be refused, and never the other way round.

use std::collections::HashMap;

use cel::{
    IdedExpr,
    common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators},
};

use super::{DEPTH_MAX, Given, NODES_MAX};
use crate::{
    event::{Measurement, Value},
    normalise::{Node, decode::DEPTH_MAX as PAYLOAD_DEPTH},
};

/// What the expressions of one message may cost together: about a tenth of a second,
/// and some megabytes at a time.
pub(super) const BUDGET: f64 = 8_000_000.0;

/// One part of an expression costs as much as this many bytes.
const STEP: f64 = 8.0;

/// Functions there are, beside the operators.
const FUNCTIONS: [&str; 28] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "string",
    "bytes",
    "double",
    "int",
    "uint",
    "bool",
    "dyn",
    "ceil",
    "floor",
    "round",
    "trunc",
    "isInf",
    "isNaN",
    "isFinite",
    "abs",
    "sign",
    "sqrt",
    "bitAnd",
    "bitOr",
    "bitXor",
    "bitNot",
    "bitShiftLeft",
    "bitShiftRight",
    "math.@max",
];

/// Whether an expression is one that is taken: not too large, and of variables and
/// functions that there are. Otherwise the number of the part, and what is wrong.
pub(super) fn check(expression: &IdedExpr, variables: &[&str]) -> Result<(), (u64, String)> {
    let mut nodes = 0;
    let mut known = variables.to_vec();
    checked(expression, &mut known, 0, &mut nodes)
}

fn checked<'e>(
    part: &'e IdedExpr,
    known: &mut Vec<&'e str>,
    depth: usize,
    nodes: &mut usize,
) -> Result<(), (u64, String)>
where
{
    *nodes += 1;
    let refuse = |what: String| Err((part.id, what));
    if *nodes > NODES_MAX {
        return refuse(format!("an expression has at most {NODES_MAX} parts"));
    }
    if depth > DEPTH_MAX {
        return refuse(format!("an expression is nested at most {DEPTH_MAX} deep"));
    }
    match &part.expr {
        Expr::Ident(name) if !known.contains(&name.as_str()) => {
            let mut names: Vec<_> = known
                .iter()
                .filter(|n| !n.starts_with('@'))
                .copied()
                .collect();
            names.dedup();
            return refuse(format!(
                "there is no {name:?} here; known are {}",
                names.join(", ")
            ));
        }
        Expr::Call(call) => {
            let operator = |c: char| !c.is_ascii_alphanumeric();
            let name = call.func_name.as_str();
            let own = name.starts_with(operator) || name == operators::NEGATE;
            let math = name.strip_prefix("math.");
            if !own && math != Some("@min") && !FUNCTIONS.contains(&name) {
                return refuse(format!("there is no function {name:?} here"));
            }
        }
        Expr::Struct(_) => return refuse("there are no types to make values of".into()),
        _ => {}
    }
    if let Expr::Comprehension(loops) = &part.expr {
        checked(&loops.iter_range, known, depth + 1, nodes)?;
        checked(&loops.accu_init, known, depth + 1, nodes)?;
        let before = known.len();
        known.push(&loops.iter_var);
        known.extend(loops.iter_var2.as_deref());
        known.push(&loops.accu_var);
        for inner in [&loops.loop_cond, &loops.loop_step, &loops.result] {
            checked(inner, known, depth + 1, nodes)?;
        }
        known.truncate(before);
        return Ok(());
    }
    let namespace = |inner: &IdedExpr| matches!(&inner.expr, Expr::Ident(name) if name == "math");
    children(part)
        .into_iter()
        .filter(|inner| !namespace(inner))
        .try_for_each(|inner| checked(inner, known, depth + 1, nodes))
}

/// What a part consists of, but for loops.
fn children(part: &IdedExpr) -> Vec<&IdedExpr> {
    match &part.expr {
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target.into_iter().chain(&call.args).collect()
        }
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(made) => entries(&made.entries),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Comprehension(_) => {
            Vec::new()
        }
    }
}

fn entries(entries: &[cel::common::ast::IdedEntryExpr]) -> Vec<&IdedExpr> {
    let parts = entries.iter().flat_map(|entry| match &entry.expr {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    });
    parts.collect()
}

/// What an expression costs at most with what is given.
pub(super) fn of(expression: &IdedExpr, given: &Given<'_, '_>) -> f64 {
    let references = expression.references();
    let mut sizes = Sizes::default();
    if references.has_variable("p") {
        sizes.node(given.element, 0, 0);
    }
    if references.has_variable("payload") {
        sizes.node(given.payload, 0, 0);
    }
    if references.has_variable("v") {
        sizes.measured(given.measured);
    }
    sizes.add(0, given.topic.len() + given.device.map_or(0, str::len));
    let mut walk = Walk {
        sizes: &sizes,
        names: HashMap::new(),
        cost: sizes.largest(0),
    };
    walk.part(expression);
    walk.cost
}

/// How large the largest value at each depth is, with everything within it, and how
/// many items the longest list or map there has.
#[derive(Debug)]
struct Sizes {
    whole: [f64; PAYLOAD_DEPTH + 3],
    items: [f64; PAYLOAD_DEPTH + 3],
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            whole: [1.0; PAYLOAD_DEPTH + 3],
            items: [0.0; PAYLOAD_DEPTH + 3],
        }
    }
}

impl Sizes {
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

    fn measured(&mut self, measured: &[Measurement]) {
        let all = measured
            .iter()
            .map(|m| self.value(&m.value, 1, m.name.len()))
            .sum();
        self.add(0, all);
        self.count(0, measured.len());
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

    fn largest(&self, depth: usize) -> f64 {
        self.whole.get(depth).copied().unwrap_or(1.0)
    }
}

/// How large a part can be.
#[derive(Debug, Clone, Copy)]
enum Size {
    /// Something of the payload, so deep in it.
    Given(usize),
    /// A list of so many items, each at most so large.
    List { items: f64, each: f64 },
    /// Anything of this size.
    Whole(f64),
}

struct Walk<'e, 's> {
    sizes: &'s Sizes,
    /// What the variables of loops are.
    names: HashMap<&'e str, Size>,
    cost: f64,
}

impl<'e> Walk<'e, '_> {
    fn whole(&self, size: Size) -> f64 {
        match size {
            Size::Given(depth) => self.sizes.largest(depth),
            Size::List { items, each } => items * (each + 1.0),
            Size::Whole(whole) => whole,
        }
    }

    fn inner(&self, size: Size) -> Size {
        match size {
            Size::Given(depth) => Size::Given(depth + 1),
            Size::List { each, .. } => Size::Whole(each),
            whole @ Size::Whole(_) => whole,
        }
    }

    fn items(&self, size: Size) -> f64 {
        match size {
            Size::List { items, .. } => items,
            Size::Given(depth) => self.sizes.items.get(depth).copied().unwrap_or(0.0),
            Size::Whole(whole) => whole,
        }
    }

    fn part(&mut self, part: &'e IdedExpr) -> Size {
        self.cost += STEP;
        match &part.expr {
            Expr::Ident(name) => match self.names.get(name.as_str()) {
                Some(size) => *size,
                None => Size::Given(0),
            },
            Expr::Literal(literal) => Size::Whole(match literal {
                LiteralValue::String(text) => length(text.inner().len()),
                LiteralValue::Bytes(bytes) => length(bytes.inner().len()),
                _ => 1.0,
            }),
            Expr::Select(select) => {
                let of = self.part(&select.operand);
                self.inner(of)
            }
            Expr::List(list) => {
                let parts = list.elements.iter();
                let each = parts.map(|item| {
                    let size = self.part(item);
                    self.whole(size)
                });
                let each = each.fold(1.0, f64::max);
                let items = length(list.elements.len());
                self.cost += items;
                Size::List { items, each }
            }
            Expr::Call(call) => self.call(part, &call.func_name),
            Expr::Comprehension(loops) => self.looped(loops),
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                let sum = children(part).into_iter().map(|inner| {
                    let size = self.part(inner);
                    self.whole(size)
                });
                Size::Whole(1.0 + sum.sum::<f64>())
            }
        }
    }

    fn call(&mut self, call: &'e IdedExpr, function: &str) -> Size {
        let sizes: Vec<Size> = children(call)
            .into_iter()
            .map(|part| self.part(part))
            .collect();
        let wholes = || sizes.iter().map(|size| self.whole(*size));
        let (sum, largest) = (wholes().sum::<f64>(), wholes().fold(32.0, f64::max));
        // Whatever is compared, copied or searched may be looked at byte by byte.
        let (cost, size) = match function {
            operators::ADD => {
                let lists = sizes.iter().any(|size| matches!(size, Size::List { .. }));
                let items = sizes.iter().map(|size| self.items(*size)).sum();
                let inner = |size: &Size| self.whole(self.inner(*size));
                let each = sizes.iter().map(inner).fold(1.0, f64::max);
                let size = match lists {
                    true => Size::List { items, each },
                    false => Size::Whole(sum),
                };
                (sum, size)
            }
            operators::INDEX => (
                0.0,
                sizes.first().map_or(Size::Whole(1.0), |of| self.inner(*of)),
            ),
            operators::CONDITIONAL => (0.0, self.largest(&sizes[1.min(sizes.len())..])),
            "string" | "bytes" | "dyn" => (largest, Size::Whole(largest * 2.0)),
            _ => (sum / STEP, Size::Whole(1.0)),
        };
        self.cost += cost;
        size
    }

    /// One size that none of these is above.
    fn largest(&self, sizes: &[Size]) -> Size {
        match sizes {
            [one] => *one,
            _ if sizes.iter().any(|size| matches!(size, Size::List { .. })) => Size::List {
                items: sizes.iter().map(|s| self.items(*s)).fold(1.0, f64::max),
                each: sizes
                    .iter()
                    .map(|s| self.whole(self.inner(*s)))
                    .fold(1.0, f64::max),
            },
            _ => Size::Whole(sizes.iter().map(|s| self.whole(*s)).fold(1.0, f64::max)),
        }
    }

    fn looped(&mut self, loops: &'e ComprehensionExpr) -> Size {
        let range = self.part(&loops.iter_range);
        let turns = self.items(range);
        let inner = self.inner(range);
        let before = self.cost;
        let mut hidden = vec![(loops.iter_var.as_str(), inner)];
        hidden.extend(loops.iter_var2.as_deref().map(|name| (name, inner)));
        // What is gathered is only ever added to.
        hidden.push((
            loops.accu_var.as_str(),
            Size::List {
                items: 0.0,
                each: 0.0,
            },
        ));
        let outer: Vec<_> = hidden
            .into_iter()
            .map(|(name, size)| (name, self.names.insert(name, size)))
            .collect();
        self.part(&loops.accu_init);
        self.part(&loops.loop_cond);
        let step = self.part(&loops.loop_step);
        let size = match step {
            Size::List { items, each } => Size::List {
                items: items * turns,
                each,
            },
            other => other,
        };
        self.cost = before + (self.cost - before) * turns.max(1.0);
        self.names.insert(&loops.accu_var, size);
        let result = self.part(&loops.result);
        for (name, size) in outer {
            match size {
                Some(size) => self.names.insert(name, size),
                None => self.names.remove(name),
            };
        }
        result
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an expression has two kilobytes"
)]
fn length(count: usize) -> f64 {
    count as f64
}
