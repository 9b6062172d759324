//! Words to choose from, and the one that was meant.

use std::fmt;

/// Words to choose from.
pub(super) struct OneOf<'w>(pub(super) Vec<&'w str>);

impl OneOf<'_> {
    /// What to write instead of `text`.
    pub(super) fn instead_of(&self, text: &str) -> String {
        match self.nearest(text) {
            Some(near) => format!("should be one of {self}; did you mean {near:?}?"),
            None => format!("should be one of {self}"),
        }
    }

    /// What somebody who wrote `text` may have meant.
    pub(super) fn like(&self, text: &str) -> String {
        match self.nearest(text) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("known here are {self}"),
        }
    }

    /// The word that is only a slip away.
    fn nearest(&self, text: &str) -> Option<&str> {
        let near = self
            .0
            .iter()
            .map(|word| (strsim::jaro_winkler(word, text), *word));
        near.filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, word)| word)
    }
}

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
