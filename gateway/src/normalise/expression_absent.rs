//! Expressions in mappings, in a build without them: there are none.

use std::fmt;

use super::{Node, Reject};
use crate::event::{Measurement, Value};

/// What may still be spent on the expressions of one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget;

/// No expression.
#[derive(Debug, Clone, Copy)]
pub enum Expression {}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expressions are not in this program; build it with the feature cel")]
pub struct Error;

/// The payload of one message.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'n, 'a>(std::marker::PhantomData<&'n Node<'a>>);

impl<'n, 'a> Whole<'n, 'a> {
    /// Of a payload.
    pub const fn new(_: &'n Node<'a>) -> Self {
        Self(std::marker::PhantomData)
    }
}

/// What an expression would see.
#[derive(Debug, Clone, Copy)]
pub struct Given<'n, 'a> {
    /// The element.
    pub element: &'n Node<'a>,
    /// The whole payload.
    pub whole: &'n Whole<'n, 'a>,
    /// The topic.
    pub topic: &'n str,
    /// The device, where it is known.
    pub device: Option<&'n str>,
    /// What was measured, where it is known.
    pub measured: &'n [Measurement],
}

impl Expression {
    /// Refuses every text.
    ///
    /// # Errors
    /// Always.
    pub fn parse(_: &str, _: &[&str]) -> Result<Self, Error> {
        Err(Error)
    }

    /// There is nothing to evaluate.
    ///
    /// # Errors
    /// None.
    pub fn evaluate(&self, _: &Given<'_, '_>, _: &mut Budget) -> Result<Option<Value>, Reject> {
        match *self {}
    }

    /// There is nothing to evaluate.
    ///
    /// # Errors
    /// None.
    pub fn holds(&self, _: &Given<'_, '_>, _: &mut Budget) -> Result<Option<bool>, Reject> {
        match *self {}
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
