//! How much events matter, beside each other: rules say it, and it decides which of them
//! still pass when a link is shut, and which are given up first when room runs out.
//! Plain data, decided by nobody here.

use serde::{Deserialize, Serialize};

/// How much an event matters; the later the more.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Can be done without for a while.
    Low,
    /// What no rule says anything else of.
    #[default]
    Normal,
    /// Wanted first.
    High,
    /// Never given up for others.
    Critical,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// Every class by the word for it.
    pub const WORDS: [(&str, Self); 4] = [
        ("low", Self::Low),
        ("normal", Self::Normal),
        ("high", Self::High),
        ("critical", Self::Critical),
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize].0
    }
}

/// Some classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes(u8);

impl Classes {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// These and `class`.
    #[must_use]
    pub const fn with(self, class: Class) -> Self {
        Self(self.0 | 1 << class as u8)
    }

    /// Whether `class` is among them.
    pub const fn contains(self, class: Class) -> bool {
        self.0 >> class as u8 & 1 == 1
    }

    /// Whether they are all that there are.
    pub const fn is_all(self) -> bool {
        self.0 == (1 << Class::ALL.len()) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_word_and_its_place_among_others() {
        let mut all = Classes::NONE;
        for (class, (word, of)) in Class::ALL.into_iter().zip(Class::WORDS) {
            assert_eq!((class, class.as_str()), (of, word));
            assert!(!all.contains(class) && !all.is_all());
            all = all.with(class);
            assert!(all.contains(class));
        }
        assert!(all.is_all() && Class::Low < Class::Normal && Class::High < Class::Critical);
    }
}
