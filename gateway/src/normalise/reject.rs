//! Why a message, or one element of a batch, is not an event.

use std::{borrow::Cow, fmt};

/// The kinds of reason, one word each for metrics and for `quarantine list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// There is nothing in it.
    Empty,
    /// Not a well-formed payload of its format.
    Syntax,
    /// Text that is not UTF-8.
    Encoding,
    /// More, larger or deeper than we take.
    Limit,
    /// A name twice in one object.
    DuplicateKey,
    /// Not the kind of value that the mapping says.
    Type,
    /// Something that the mapping requires is absent.
    Missing,
    /// A number or an instant that cannot be represented.
    Range,
    /// No mapping takes the topic.
    Unmapped,
    /// `SenML` that RFC 8428 does not allow.
    Senml,
    /// It can only be understood with an earlier message, which was not seen.
    State,
    /// A kind of message that is not read here.
    Unsupported,
    /// Its topic at another broker cannot be one here.
    Topic,
    /// An expression of the mapping that cannot be evaluated on it.
    Expression,
    /// Not what the schema of its type says.
    Schema,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 15] = [
        Self::Empty,
        Self::Syntax,
        Self::Encoding,
        Self::Limit,
        Self::DuplicateKey,
        Self::Type,
        Self::Missing,
        Self::Range,
        Self::Unmapped,
        Self::Senml,
        Self::State,
        Self::Unsupported,
        Self::Topic,
        Self::Expression,
        Self::Schema,
    ];

    /// The word used in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Syntax => "syntax",
            Self::Encoding => "encoding",
            Self::Limit => "limit",
            Self::DuplicateKey => "duplicate_key",
            Self::Type => "type",
            Self::Missing => "missing",
            Self::Range => "range",
            Self::Unmapped => "unmapped",
            Self::Senml => "senml",
            Self::State => "state",
            Self::Unsupported => "unsupported",
            Self::Topic => "topic",
            Self::Expression => "expression",
            Self::Schema => "schema",
        }
    }
}

/// A reason with its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The kind of reason.
    pub class: Class,
    /// A sentence for a person, without the payload.
    pub reason: Cow<'static, str>,
}

impl Reject {
    /// A reason.
    pub fn new(class: Class, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.as_str(), self.reason)
    }
}

impl std::error::Error for Reject {}
