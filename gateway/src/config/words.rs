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
        let near = self.0.iter().map(|word| (likeness(word, text), *word));
        near.filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, word)| word)
    }
}

/// How much alike two words are, up to 1; also where their parts are in another order, as in
/// `max_size` for `size_max`.
fn likeness(one: &str, other: &str) -> f64 {
    let ordered = |word: &str| {
        let mut parts: Vec<&str> = word.split('_').collect();
        parts.sort_unstable();
        parts.join("_")
    };
    let alike = strsim::jaro_winkler(&ordered(one), &ordered(other));
    alike.max(strsim::jaro_winkler(one, other))
}

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_also_where_the_parts_of_a_word_are_in_another_order() {
        let words = OneOf(vec!["age_max", "on_full", "reserve", "size_max"]);
        for (text, expect) in [
            ("size_mx", "did you mean \"size_max\"?"),
            ("max_size", "did you mean \"size_max\"?"),
            ("max_sise", "did you mean \"size_max\"?"),
            ("max_age", "did you mean \"age_max\"?"),
            (
                "colour",
                "known here are age_max, on_full, reserve, size_max",
            ),
        ] {
            assert_eq!(words.like(text), expect, "{text}");
        }
    }
}
