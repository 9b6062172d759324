//! Expressions in mappings, in the Common Expression Language (CEL,
//! <https://github.com/google/cel-spec>): compiled once, without any I/O.
//!
//! **Bounds.** CEL has no loops but its macros over lists and maps, and still a short
//! expression can ask for much: macros within macros, texts that double with each
//! step. So an expression is short and not deep ([`SOURCE_BYTES_MAX`], [`NODES_MAX`],
//! [`DEPTH_MAX`]), and before it is evaluated what it could cost with the payload at
//! hand is worked out and taken from a [`Budget`] that all expressions of a message
//! share. What is too dear is refused, and so quarantined. The payload of a batch is made
//! and counted once for all its elements ([`Whole`]).
//!
//! A panic within the library is caught: that message is quarantined too.
//!
//! What an expression sees: `p`, the payload, or the element of a batch; `payload`, the
//! whole; `topic`; and where something is derived also `v`, what was measured, by name,
//! and `device`.

mod cost;
mod given;
mod sizes;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread,
};

use cel::{Context, Env, ExecutionError, Program, Value as Cel};

use given::Uses;
pub use given::{Given, Whole};

use super::{Class, Reject};
use crate::event::Value;

/// An expression has at most so many bytes.
pub const SOURCE_BYTES_MAX: usize = 2_048;
/// An expression has at most so many parts.
pub const NODES_MAX: usize = 256;
/// An expression is nested at most so deep.
pub const DEPTH_MAX: usize = 32;

/// The parser goes deeper than what it takes in the end.
const PARSER_STACK_BYTES: usize = 8 << 20;

/// The functions there are, prepared once.
static CONTEXT: LazyLock<Context<'static, 'static>> =
    LazyLock::new(|| Context::with_env(Arc::new(env())));

fn env() -> Env {
    let mut env = Env::stdlib();
    env.add_extension(cel::extensions::math)
        .expect("nothing else is named math");
    env
}

/// What may still be spent on the expressions of one message.
#[derive(Debug, Clone, Copy)]
pub struct Budget(f64);

impl Default for Budget {
    fn default() -> Self {
        Self(cost::BUDGET)
    }
}

/// An expression, compiled.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
    uses: Uses,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Text that is no expression that is taken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Expression {
    /// Compiles an expression that may use the `variables`.
    ///
    /// # Errors
    /// When it is not one, with the position, or is too large, or names what is not there.
    pub fn parse(source: &str, variables: &[&str]) -> Result<Self, Error> {
        if source.trim().is_empty() {
            return Err(Error(
                "an expression is empty; for example p.status == \"ok\"".into(),
            ));
        }
        if source.len() > SOURCE_BYTES_MAX {
            let what = format!("an expression has at most {SOURCE_BYTES_MAX} bytes");
            return Err(Error(what));
        }
        let program = compile(source)?;
        cost::check(program.expression(), variables).map_err(|(id, what)| {
            let (line, column) = position(source, &program, id);
            Error(format!("line {line}, column {column}: {what}"))
        })?;
        Ok(Self {
            source: source.into(),
            uses: Uses::of(program.expression()),
            program: Arc::new(program),
        })
    }

    /// Evaluates it; `None` where something that it names is not there, or null.
    ///
    /// # Errors
    /// When it cannot be evaluated, or would cost more than there is.
    pub fn evaluate(
        &self,
        given: &Given<'_, '_>,
        budget: &mut Budget,
    ) -> Result<Option<Value>, Reject> {
        let cost = cost::of(self.program.expression(), self.uses, given);
        if cost > budget.0 {
            let reason = format!("the payload is too large for the expression \"{self}\"");
            return Err(Reject::new(Class::Limit, reason));
        }
        budget.0 -= cost;
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            given.execute(&CONTEXT, &self.program, self.uses)
        }));
        match evaluated {
            Ok(Ok(value)) => self.value(value),
            Ok(Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_))) => Ok(None),
            Ok(Err(error)) => Err(self.failed(why(&error))),
            Err(_) => Err(self.failed("the evaluator failed")),
        }
    }

    /// Evaluates what should be true or false; `None` as in [`evaluate`](Self::evaluate).
    ///
    /// # Errors
    /// As there, and when it is neither.
    pub fn holds(
        &self,
        given: &Given<'_, '_>,
        budget: &mut Budget,
    ) -> Result<Option<bool>, Reject> {
        match self.evaluate(given, budget)? {
            None => Ok(None),
            Some(Value::Bool(holds)) => Ok(Some(holds)),
            Some(_) => Err(self.failed("it should be true or false")),
        }
    }

    fn value(&self, value: Cel) -> Result<Option<Value>, Reject> {
        Ok(Some(match value {
            Cel::Null => return Ok(None),
            Cel::Bool(b) => Value::Bool(b),
            Cel::Int(n) => Value::Int(n),
            Cel::UInt(n) => Value::from(n),
            Cel::Float(x) if x.is_finite() => Value::Float(x),
            Cel::Float(_) => Value::Null,
            Cel::String(text) => Value::Text(Arc::unwrap_or_clone(text)),
            Cel::Bytes(bytes) => Value::Bytes(Arc::unwrap_or_clone(bytes)),
            _ => return Err(self.failed("it should be a number, a text, true or false")),
        }))
    }

    fn failed(&self, why: &str) -> Reject {
        Reject::new(Class::Expression, format!("\"{self}\": {why}"))
    }
}

/// Compiles on a stack that is large enough for whatever the parser does.
fn compile(source: &str) -> Result<Program, Error> {
    thread::scope(|scope| {
        let parse = || catch_unwind(|| env().compile(source));
        let thread = thread::Builder::new()
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, parse)
            .map_err(|error| Error(format!("no thread to compile it: {error}")))?;
        match thread.join() {
            Ok(Ok(Ok(program))) => Ok(program),
            Ok(Ok(Err(errors))) => Err(said(&errors)),
            Ok(Err(_)) | Err(_) => Err(Error("this is no expression".into())),
        }
    })
}

/// Line and column of a part, from 1.
fn position(source: &str, program: &Program, part: u64) -> (usize, usize) {
    let at = program.source_info().offset_for(part);
    let at = at.and_then(|(at, _)| usize::try_from(at).ok()).unwrap_or(0);
    let before: Vec<char> = source.chars().take(at).collect();
    let lines = before.iter().filter(|c| **c == '\n').count();
    let column = before.iter().rev().take_while(|c| **c != '\n').count();
    (lines + 1, column + 1)
}

/// The first thing that is wrong, and where.
fn said(errors: &cel::ParseErrors) -> Error {
    let Some(error) = errors.errors.first() else {
        return Error("this is no expression".into());
    };
    let (line, column) = error.pos;
    // The library quotes the rest of the source.
    let what: String = error.msg.chars().take(200).collect();
    Error(format!("line {line}, column {column}: {what}"))
}

/// Why an evaluation failed, without the payload.
fn why(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero"
        }
        ExecutionError::Overflow(..) => "a number becomes too large",
        ExecutionError::NoSuchOverload(_)
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::UnsupportedIndex(..)
        | ExecutionError::UnsupportedKeyType(_)
        | ExecutionError::ValuesNotComparable(..) => {
            "the kinds of values do not go together; whole numbers and others mix as double(x)"
        }
        ExecutionError::FunctionError { .. } => "a function refuses its value",
        _ => "it cannot be evaluated",
    }
}

#[cfg(test)]
mod tests;
