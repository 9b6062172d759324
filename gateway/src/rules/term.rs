//! What a field may be: one [`Term`] against one [`Scalar`].

use std::{borrow::Cow, net::IpAddr};

use super::{
    address::{self, Cidr},
    decimal::Decimal,
    ignore_case::IgnoreCase,
    terms::Terms,
    wildcard::Wildcard,
};

/// A value of an event that is neither object nor array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Decimal),
    /// A text.
    Text(Cow<'a, str>),
}

/// One way in which a field fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// This number, however it is written.
    Number(Decimal),
    /// This text.
    Text(Box<str>),
    /// A text that is this address, however it is written.
    Address(IpAddr),
    /// A text that begins so.
    Prefix(Box<str>),
    /// A text that ends so.
    Suffix(Box<str>),
    /// A text that begins so, in any case.
    PrefixIgnoreCase(IgnoreCase),
    /// A text that ends so, in any case.
    SuffixIgnoreCase(IgnoreCase),
    /// This text in any case.
    EqualsIgnoreCase(IgnoreCase),
    /// A text that this takes.
    Wildcard(Wildcard),
    /// A number within bounds.
    Numeric(Range),
    /// A text that is an address of this range.
    Cidr(Cidr),
    /// Any value at all.
    Exists,
    /// No value at all.
    Absent,
    /// A value that none of these takes.
    AnythingBut(Terms),
}

/// Numbers between two bounds; each may be missing, and each is within or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) lower: Option<(Decimal, bool)>,
    pub(super) upper: Option<(Decimal, bool)>,
}

impl Range {
    fn takes(&self, number: &Decimal) -> bool {
        let above = self.lower.as_ref().is_none_or(|(bound, within)| {
            if *within {
                number >= bound
            } else {
                number > bound
            }
        });
        above
            && self.upper.as_ref().is_none_or(|(bound, within)| {
                if *within {
                    number <= bound
                } else {
                    number < bound
                }
            })
    }
}

impl Term {
    /// Whether a value fits. [`Term::Absent`] fits none.
    pub(super) fn takes(&self, value: &Scalar<'_>) -> bool {
        match (self, value) {
            (Self::Absent, _) => false,
            (Self::Exists, _) | (Self::Null, Scalar::Null) => true,
            (Self::Bool(wanted), Scalar::Bool(value)) => wanted == value,
            (Self::Number(wanted), Scalar::Number(value)) => wanted == value,
            (Self::Numeric(range), Scalar::Number(value)) => range.takes(value),
            (Self::AnythingBut(not), value) => !not.takes(value),
            (term, Scalar::Text(text)) => term.takes_text(text),
            _ => false,
        }
    }

    fn takes_text(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => **wanted == *text,
            Self::Address(wanted) => address::literal(text).is_some_and(|known| known == *wanted),
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::PrefixIgnoreCase(prefix) => prefix.begins(text),
            Self::SuffixIgnoreCase(suffix) => suffix.ends(text),
            Self::EqualsIgnoreCase(wanted) => wanted.equals(text),
            Self::Wildcard(wildcard) => wildcard.takes(text),
            Self::Cidr(range) => range.takes(text),
            _ => false,
        }
    }
}
