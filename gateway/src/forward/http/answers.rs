//! What the status of an answer means, by default and as configured.

use std::collections::BTreeMap;

/// What an answer says of the whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Taken, but for records that the body names.
    Acknowledged,
    /// A record in it is to blame, or its size.
    Refused,
    /// Slow down.
    Throttled,
    /// The endpoint is not well: the same again.
    Unavailable,
    /// Needs a person.
    Stop,
}

impl Meaning {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("acknowledged", Self::Acknowledged),
        ("refused", Self::Refused),
        ("throttled", Self::Throttled),
        ("unavailable", Self::Unavailable),
        ("stop", Self::Stop),
    ];
}

/// Which statuses mean something else than they would by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    exact: BTreeMap<u16, Meaning>,
    /// By the first digit.
    classes: BTreeMap<u16, Meaning>,
}

impl Answers {
    /// Adds a rule for a status, `"404"`, or a class of them, `"4xx"`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn add(&mut self, status: &str, meaning: Meaning) -> Result<(), &'static str> {
        const WRONG: &str = "a status is 200 to 599, or a class of them such as 5xx";
        let digits = status.strip_suffix("xx");
        let number: u16 = digits.unwrap_or(status).parse().map_err(|_| WRONG)?;
        let (rules, range) = match digits {
            Some(_) => (&mut self.classes, 2..=5),
            None => (&mut self.exact, 200..=599),
        };
        if !range.contains(&number) {
            return Err(WRONG);
        }
        rules.insert(number, meaning);
        Ok(())
    }

    /// What an answer with this status means; it may say how long to wait. One event in
    /// headers (`one_in_headers`) can be too large for them.
    pub(super) fn meaning(&self, status: u16, says_when: bool, one_in_headers: bool) -> Meaning {
        let configured = self.exact.get(&status);
        if let Some(meaning) = configured.or_else(|| self.classes.get(&(status / 100))) {
            return *meaning;
        }
        match status {
            200..=299 => Meaning::Acknowledged,
            400 | 413 | 422 => Meaning::Refused,
            431 if one_in_headers => Meaning::Refused,
            429 => Meaning::Throttled,
            503 if says_when => Meaning::Throttled,
            408 | 409 | 425 | 500..=599 => Meaning::Unavailable,
            _ => Meaning::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_before_its_class_and_both_before_the_default() {
        let mut answers = Answers::default();
        for (status, meaning) in [
            ("4xx", Meaning::Refused),
            ("404", Meaning::Unavailable),
            ("202", Meaning::Throttled),
        ] {
            answers.add(status, meaning).unwrap();
        }
        for (status, expect) in [
            (404, Meaning::Unavailable),
            (401, Meaning::Refused),
            (202, Meaning::Throttled),
            (204, Meaning::Acknowledged),
            (500, Meaning::Unavailable),
            (301, Meaning::Stop),
        ] {
            assert_eq!(answers.meaning(status, false, false), expect, "{status}");
        }
        for wrong in ["", "xx", "1xx", "6xx", "99", "600", "4x", "-1"] {
            assert!(answers.add(wrong, Meaning::Stop).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_that_are_too_large_are_the_events_only_where_it_is_in_them() {
        let answers = Answers::default();
        assert_eq!(answers.meaning(431, false, true), Meaning::Refused);
        assert_eq!(answers.meaning(431, false, false), Meaning::Stop);
    }
}
