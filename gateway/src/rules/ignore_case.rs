//! Texts compared without regard to case.
//!
//! Each character of the pattern may stand in the value as its lower-case or its
//! upper-case mapping (Unicode, without any language's own rules). It is the pattern's
//! character that is mapped: "ß" takes "ß" and "SS", but "SS" does not take "ß".

/// A text that takes others which differ in case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IgnoreCase(Box<str>);

impl IgnoreCase {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As the pattern has it.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The whole value.
    pub(super) fn equals(&self, value: &str) -> bool {
        if self.0.is_ascii() {
            return self.0.eq_ignore_ascii_case(value);
        }
        self.behind(value).is_some_and(str::is_empty)
    }

    /// The value's beginning.
    pub(super) fn begins(&self, value: &str) -> bool {
        self.behind(value).is_some()
    }

    /// The value's end.
    pub(super) fn ends(&self, value: &str) -> bool {
        let mut rest = value;
        self.0.chars().rev().all(|c| {
            let lower = strip(rest, c.to_lowercase().rev(), str::strip_suffix);
            let behind = lower.or_else(|| strip(rest, c.to_uppercase().rev(), str::strip_suffix));
            behind.map(|behind| rest = behind).is_some()
        })
    }

    /// What follows in a value that begins with this. No mapping of a character
    /// begins or ends with the other one, so the first that fits is the only one.
    fn behind<'v>(&self, value: &'v str) -> Option<&'v str> {
        self.0.chars().try_fold(value, |rest, c| {
            strip(rest, c.to_lowercase(), str::strip_prefix)
                .or_else(|| strip(rest, c.to_uppercase(), str::strip_prefix))
        })
    }
}

fn strip<'v>(
    value: &'v str,
    mapped: impl Iterator<Item = char>,
    strip: impl Fn(&'v str, char) -> Option<&'v str>,
) -> Option<&'v str> {
    let mut mapped = mapped;
    mapped.try_fold(value, strip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_mapped_from_the_pattern() {
        for (pattern, value, equal) in [
            ("RunNing", "RUNNING", true),
            ("RunNing", "runnin", false),
            ("düren", "DÜREN", true),
            ("düren", "DUREN", false),
            ("gießen", "GIEßEN", true),
            ("gießen", "GIESSEN", true),
            ("SS", "ß", false),
            ("ς", "Σ", true),
            ("ς", "σ", false),
            ("🔥Hot", "🔥hot", true),
            ("🔥", "??", false),
            ("\u{212a}", "k", true),
            ("k", "\u{212a}", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(
                IgnoreCase::new(pattern).equals(value),
                equal,
                "{pattern} {value}"
            );
        }
        assert!(IgnoreCase::new("Gieß").begins("GIESSEN"));
        assert!(IgnoreCase::new("eßEn").ends("GIESSEN"));
        assert!(!IgnoreCase::new("EN").ends("n"));
    }

    #[test]
    fn no_mapping_of_a_character_begins_or_ends_with_the_other() {
        for c in '\0'..=char::MAX {
            let lower: String = c.to_lowercase().collect();
            let upper: String = c.to_uppercase().collect();
            if lower != upper {
                let within = |a: &str, b: &str| a.starts_with(b) || a.ends_with(b);
                assert!(!within(&lower, &upper) && !within(&upper, &lower), "{c}");
            }
        }
    }
}
