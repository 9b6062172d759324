//! What an expression could cost, before it is evaluated.
//!
//! A walk over the expression with an upper bound for the size of every part: of what
//! comes from the payload as large as it is where the expression names it, and by how
//! deep it is in it where it does not; of what is computed by what it is computed from.
//! Sizes count bytes of text and items; the cost counts steps, and the
//! bytes that are looked at or made. Every bound is generous, so something that would
//! just do may be refused, and never the other way round.

use std::{borrow::Cow, collections::HashMap};

use cel::{
    IdedExpr,
    common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators},
};

use super::{
    DEPTH_MAX, Given, NODES_MAX,
    given::Uses,
    sizes::{Sizes, Table, length},
};
use crate::normalise::Node;

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
pub(super) fn of(expression: &IdedExpr, uses: Uses, given: &Given<'_, '_>) -> f64 {
    let own = Sizes::default();
    let measured = match uses.measured {
        true => Table::of_measured(given.measured),
        false => Table::default(),
    };
    let mut walk = Walk {
        given,
        sizes: match given.is_whole() {
            true => given.whole.sizes(),
            false => &own,
        },
        measured: &measured,
        names: HashMap::new(),
        cost: 0.0,
    };
    // What is made for it; of the payload only where none before it did.
    let whole = uses.payload || (uses.element && given.is_whole());
    if whole && !given.whole.is_made() {
        walk.cost += given.whole.sizes().node(given.whole.root());
    }
    if uses.element && !given.is_whole() {
        walk.cost += own.node(given.element);
    }
    walk.cost += measured.largest(0);
    walk.cost += length(given.topic.len() + given.device.map_or(0, str::len));
    let result = walk.part(expression);
    walk.cost += walk.whole(result);
    walk.cost
}

/// How large a part can be.
#[derive(Debug, Clone, Copy)]
enum Size<'n, 'a> {
    /// Just this of the payload, or of its element.
    Node(Of, &'n Node<'a>, usize),
    /// Something so deep in what is given.
    Within(Of, usize),
    /// A list of so many items, each at most so large.
    List { items: f64, each: f64 },
    /// Anything of this size.
    Whole(f64),
}

/// What something is of.
#[derive(Debug, Clone, Copy)]
enum Of {
    Payload,
    Element,
    Measured,
}

struct Walk<'e, 's, 'n, 'a> {
    given: &'s Given<'n, 'a>,
    /// Those of the element.
    sizes: &'s Sizes,
    measured: &'s Table,
    /// What the variables of loops are.
    names: HashMap<&'e str, Size<'n, 'a>>,
    cost: f64,
}

impl<'e, 's, 'n, 'a> Walk<'e, 's, 'n, 'a> {
    fn table(&self, of: Of) -> &'s Table {
        let given = self.given;
        match of {
            Of::Payload => given.whole.sizes().table(given.whole.root()),
            Of::Element => self.sizes.table(given.element),
            Of::Measured => self.measured,
        }
    }

    fn whole(&self, size: Size<'n, 'a>) -> f64 {
        match size {
            Size::Node(Of::Payload, node, _) => self.given.whole.sizes().node(node),
            Size::Node(_, node, _) => self.sizes.node(node),
            Size::Within(of, depth) => self.table(of).largest(depth),
            Size::List { items, each } => items * (each + 1.0),
            Size::Whole(whole) => whole,
        }
    }

    /// Whatever is one level down.
    fn inner(&self, size: Size<'n, 'a>) -> Size<'n, 'a> {
        match size {
            Size::Node(of, _, depth) | Size::Within(of, depth) => Size::Within(of, depth + 1),
            Size::List { each, .. } => Size::Whole(each),
            whole @ Size::Whole(_) => whole,
        }
    }

    /// What is one level down under this name, or this number.
    fn named(&self, size: Size<'n, 'a>, name: &str) -> Size<'n, 'a> {
        match size {
            Size::Node(of, node, depth) => match node.child(name) {
                Some(child) => Size::Node(of, child, depth + 1),
                None => Size::Whole(1.0),
            },
            other => self.inner(other),
        }
    }

    fn items(&self, size: Size<'n, 'a>) -> f64 {
        match size {
            Size::List { items, .. } => items,
            Size::Node(_, node, _) => length(match node {
                Node::Array(items) => items.len(),
                Node::Map(members) => members.len(),
                _ => 0,
            }),
            Size::Within(of, depth) => self.table(of).items(depth),
            Size::Whole(whole) => whole,
        }
    }

    fn variable(&self, name: &str) -> Size<'n, 'a> {
        let given = self.given;
        if let Some(size) = self.names.get(name) {
            return *size;
        }
        match name {
            "p" => Size::Node(Of::Element, given.element, 0),
            "payload" => Size::Node(Of::Payload, given.whole.root(), 0),
            "v" => Size::Within(Of::Measured, 0),
            "topic" => Size::Whole(length(given.topic.len())),
            _ => Size::Whole(length(given.device.map_or(0, str::len))),
        }
    }

    fn part(&mut self, part: &'e IdedExpr) -> Size<'n, 'a> {
        self.cost += STEP;
        match &part.expr {
            Expr::Ident(name) => self.variable(name),
            Expr::Literal(literal) => Size::Whole(match literal {
                LiteralValue::String(text) => length(text.inner().len()),
                LiteralValue::Bytes(bytes) => length(bytes.inner().len()),
                _ => 1.0,
            }),
            Expr::Select(select) => {
                let of = self.part(&select.operand);
                match select.test {
                    true => Size::Whole(1.0),
                    false => self.named(of, &select.field),
                }
            }
            Expr::List(list) => {
                let (mut each, mut copied) = (1.0_f64, 0.0);
                for item in &list.elements {
                    let size = self.part(item);
                    let whole = self.whole(size);
                    each = each.max(whole);
                    copied += whole + 1.0;
                }
                self.cost += copied;
                let items = length(list.elements.len());
                Size::List { items, each }
            }
            Expr::Call(call) => self.call(part, &call.func_name),
            Expr::Comprehension(loops) => self.looped(loops),
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                let mut copied = 1.0;
                for inner in children(part) {
                    let size = self.part(inner);
                    copied += self.whole(size);
                }
                self.cost += copied;
                Size::Whole(copied)
            }
        }
    }

    fn call(&mut self, call: &'e IdedExpr, function: &str) -> Size<'n, 'a> {
        let parts = children(call);
        let sizes: Vec<Size<'n, 'a>> = parts.iter().map(|part| self.part(part)).collect();
        let wholes = || sizes.iter().map(|size| self.whole(*size));
        let (sum, largest) = (wholes().sum::<f64>(), wholes().fold(32.0, f64::max));
        // Whatever is compared, copied or searched may be looked at byte by byte.
        let (cost, size) = match function {
            operators::ADD => {
                let lists = sizes.iter().any(|size| matches!(size, Size::List { .. }));
                let items = sizes.iter().map(|size| self.items(*size)).sum();
                let inner = |size: &Size<'n, 'a>| self.whole(self.inner(*size));
                let each = sizes.iter().map(inner).fold(1.0, f64::max);
                let size = match lists {
                    true => Size::List { items, each },
                    false => Size::Whole(sum),
                };
                (sum, size)
            }
            operators::INDEX => {
                let of = sizes.first().copied().unwrap_or(Size::Whole(1.0));
                let size = match parts.get(1).and_then(|at| place(at)) {
                    Some(at) => self.named(of, &at),
                    None => self.inner(of),
                };
                (0.0, size)
            }
            // How many there are is known.
            "size" if matches!(sizes[..], [Size::Node(_, Node::Array(_) | Node::Map(_), _)]) => {
                (0.0, Size::Whole(1.0))
            }
            operators::CONDITIONAL => (0.0, self.largest(&sizes[1.min(sizes.len())..])),
            "string" | "bytes" | "dyn" => (largest, Size::Whole(largest * 2.0)),
            _ => (sum / STEP, Size::Whole(1.0)),
        };
        self.cost += cost;
        size
    }

    /// One size that none of these is above.
    fn largest(&self, sizes: &[Size<'n, 'a>]) -> Size<'n, 'a> {
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

    fn looped(&mut self, loops: &'e ComprehensionExpr) -> Size<'n, 'a> {
        let range = self.part(&loops.iter_range);
        // Each item is copied in its turn.
        self.cost += self.whole(range);
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

/// The name or the number that an index is written as.
fn place(index: &IdedExpr) -> Option<Cow<'_, str>> {
    match &index.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().into()),
        Expr::Literal(LiteralValue::Int(number)) => Some(number.inner().to_string().into()),
        Expr::Literal(LiteralValue::UInt(number)) => Some(number.inner().to_string().into()),
        _ => None,
    }
}
