//! Cases to check the matcher with: a pattern, an event, and what should come of them.

use serde::Deserialize;

use super::{Matcher, Pattern, Scratch};

/// What comes of a pattern and an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The event fits.
    Match,
    /// It does not.
    NoMatch,
    /// One of them is malformed.
    Invalid,
}

impl Outcome {
    /// The word for it in a file of cases.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::NoMatch => "no-match",
            Self::Invalid => "invalid",
        }
    }
}

/// One case, a line of JSON.
#[derive(Debug, Clone, Deserialize)]
pub struct Vector {
    /// What it is about.
    pub name: String,
    /// The text of a pattern.
    pub pattern: String,
    /// The text of an event.
    pub event: String,
    /// What should come of them.
    pub expect: Outcome,
}

impl Vector {
    /// What comes of it here, and why where something is malformed.
    pub fn outcome(&self) -> (Outcome, Option<String>) {
        let pattern = match Pattern::parse(&self.pattern) {
            Ok(pattern) => pattern,
            Err(error) => return (Outcome::Invalid, Some(format!("pattern: {error}"))),
        };
        let mut matcher = Matcher::default();
        matcher.add(0, &pattern);
        let mut outcome = Outcome::NoMatch;
        let found = |_| outcome = Outcome::Match;
        match matcher.each_of_json(&self.event, &mut Scratch::default(), found) {
            Ok(()) => (outcome, None),
            Err(error) => (Outcome::Invalid, Some(format!("event: {error}"))),
        }
    }
}
