//! `*` for any characters, also none; `\*` and `\\` for the characters themselves.

use std::fmt;

use memchr::memmem;

/// Texts with anything between them. The first is where a value begins, the last
/// where it ends; a single one is the whole value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wildcard(Box<[Box<str>]>);

impl Wildcard {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong, with the character's number from 1.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut chars = (1..).zip(text.chars()).peekable();
        while let Some((n, c)) = chars.next() {
            match c {
                '*' if chars.peek().is_some_and(|(_, next)| *next == '*') => {
                    return Err(format!(
                        "two \"*\" one after the other at character {n}; one does the same"
                    ));
                }
                '*' => parts.push(std::mem::take(&mut part).into()),
                '\\' => match chars.next() {
                    Some((_, next @ ('*' | '\\'))) => part.push(next),
                    _ => {
                        return Err(format!(
                            "\"\\\" at character {n} stands before neither \"*\" nor \"\\\""
                        ));
                    }
                },
                c => part.push(c),
            }
        }
        parts.push(part.into());
        Ok(Self(parts.into()))
    }

    /// Whether it takes the whole value.
    pub(super) fn takes(&self, value: &str) -> bool {
        let Some((last, parts)) = self.0.split_last() else {
            return value.is_empty();
        };
        let Some((first, between)) = parts.split_first() else {
            return **last == *value;
        };
        let Some(rest) = value.strip_prefix(&**first) else {
            return false;
        };
        let Some(mut rest) = rest.strip_suffix(&**last) else {
            return false;
        };
        // The earliest place of each leaves the most for those behind it.
        between.iter().all(|part| {
            let at = memmem::find(rest.as_bytes(), part.as_bytes());
            at.map(|at| rest = &rest[at + part.len()..]).is_some()
        })
    }

    /// What every value that it takes begins with.
    pub(super) fn beginning(&self) -> &str {
        self.0.first().map_or("", |first| first)
    }
}

impl fmt::Display for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("*")?;
            }
            f.write_str(&part.replace('\\', "\\\\").replace('*', "\\*"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Character by character.
    fn simple(pattern: &[char], value: &[char]) -> bool {
        match pattern {
            [] => value.is_empty(),
            ['*', rest @ ..] => (0..=value.len()).any(|n| simple(rest, &value[n..])),
            ['\\', c, rest @ ..] | [c, rest @ ..] => {
                value.first() == Some(c) && simple(rest, &value[1..])
            }
        }
    }

    #[test]
    fn what_is_malformed_is_said_with_its_place() {
        for (text, at) in [("a**", 2), ("a\\b", 2), ("ä\\", 2), ("***", 1)] {
            let error = Wildcard::parse(text).unwrap_err();
            assert!(error.contains(&format!("character {at}")), "{error}");
        }
        assert!(Wildcard::parse("*\\**").is_ok());
    }

    proptest! {
        #[test]
        fn it_takes_what_it_takes_character_by_character(
            pattern in "(a|b|ä|\\*|\\\\\\*|\\\\\\\\){0,7}",
            value in "[abä*\\\\]{0,8}",
        ) {
            prop_assume!(!pattern.replace("\\\\", "").replace("\\*", "").contains("**"));
            let Ok(wildcard) = Wildcard::parse(&pattern) else { return Ok(()) };
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(wildcard.takes(&value), simple(&chars(&pattern), &chars(&value)), "{} {}", pattern, value);
        }
    }
}
