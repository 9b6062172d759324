//! What is odd about the times of an event: said beside it, never a reason to drop it.

/// The tag of an event that was received while the gateway did not know the time: which
/// boot of the machine that was.
pub const BOOT_TAG: &str = "gatewayboot";
/// And how many milliseconds after it.
pub const UPTIME_TAG: &str = "gatewayuptimems";

/// A set of marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Marks(u8);

impl Marks {
    /// Nothing is odd.
    pub const NONE: Self = Self(0);
    /// The device's time is from before 2015 or more than a day ahead: `time` is that
    /// of receipt, and what the device said is in the tag `devicetime`.
    pub const IMPLAUSIBLE: Self = Self(1);
    /// The reading came long after it was taken.
    pub const LATE: Self = Self(2);
    /// An event of the same device with a later time came before it.
    pub const OUT_OF_ORDER: Self = Self(4);
    /// The gateway did not know the time when it received the message.
    pub const CLOCK_UNSET: Self = Self(8);

    /// Every mark with its word in events.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("implausible", Self::IMPLAUSIBLE),
        ("late", Self::LATE),
        ("out-of-order", Self::OUT_OF_ORDER),
        ("clock-unset", Self::CLOCK_UNSET),
    ];

    /// These and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is odd.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As it is stored.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// From what is stored; `None` for bits that no mark has.
    pub(super) const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 16 { Some(Self(bits)) } else { None }
    }

    /// The words, separated by spaces; `None` where nothing is odd.
    pub fn text(self) -> Option<String> {
        let words = Self::WORDS.iter().filter(|(_, mark)| self.contains(*mark));
        let words: Vec<&str> = words.map(|(word, _)| *word).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_words_in_one_order_and_bits_that_come_back() {
        assert_eq!(Marks::NONE.text(), None);
        let two = Marks::OUT_OF_ORDER.with(Marks::LATE);
        assert_eq!(two.text().as_deref(), Some("late out-of-order"));
        assert!(two.contains(Marks::LATE) && !two.contains(Marks::IMPLAUSIBLE));
        assert_eq!(Marks::from_bits(two.bits()), Some(two));
        assert_eq!(Marks::from_bits(16), None);
    }
}
