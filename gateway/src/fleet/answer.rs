//! What whoever asks for a change hears.

use serde::Serialize;

/// A change that was made, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// What came of it.
    pub value: T,
    /// It was made before, by a request with the same key: nothing was changed now.
    pub again: bool,
}

/// Why a change is not made. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// There is no such thing.
    NotFound(String),
    /// There is one of that name.
    Exists(String),
    /// It has another version than the one that was to be changed.
    Version {
        /// The version that it has.
        has: u64,
    },
    /// The Idempotency-Key was used for another request.
    KeyReused,
    /// What was asked for may not be.
    Invalid(String),
    /// It is too late for that.
    Over(String),
    /// There are as many as there may be.
    TooMany(String),
    /// It can be done later.
    NotYet(String),
}

impl Refusal {
    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    pub(super) fn no_room() -> Self {
        Self::TooMany("there is no room for more than there is".to_owned())
    }

    /// There is no device of that name.
    pub fn no_device(id: &str) -> Self {
        Self::NotFound(format!("there is no device {id:?}"))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound(what)
            | Self::Exists(what)
            | Self::Invalid(what)
            | Self::Over(what)
            | Self::TooMany(what)
            | Self::NotYet(what) => f.write_str(what),
            Self::Version { has } => write!(f, "it has version {has} by now"),
            Self::KeyReused => f.write_str("this Idempotency-Key was used for another request"),
        }
    }
}
