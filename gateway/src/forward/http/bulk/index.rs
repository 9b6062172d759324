//! The name of an index, with the date of the event in it.

use jiff::tz::TimeZone;

use crate::event::Timestamp;

/// What a name may have.
const BYTES_MAX: usize = 255;
const WRONG: &str = "an index has lower-case letters and digits, \"-\", \"_\" and \".\", and begins with a letter or digit, such as \"telemetry-{yyyy.MM.dd}\"";

/// Before the first place are at least so many letters, and what separates them from it.
const BEFORE_MIN: usize = 2;
const TOO_SHORT: &str = "before the date is a word of two letters and more, and \"-\", \"_\" or \".\": the index template is for all that begins with it";

/// A name with places for year, month, day and hour (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
}

impl Index {
    /// Reads `telemetry-{yyyy.MM.dd}`: in braces `yyyy`, `MM`, `dd`, `HH` and what may
    /// stand between them.
    ///
    /// # Errors
    /// When no index can have such a name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const PLACES: &str = "in braces are yyyy, MM, dd and HH, such as {yyyy.MM.dd}";

        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (pattern, after) = after.split_once('}').ok_or("\"{\" without \"}\"")?;
            parts.push(Part::Text(before.to_owned()));
            let mut pattern = pattern;
            while !pattern.is_empty() {
                let places = [
                    ("yyyy", Part::Year),
                    ("MM", Part::Month),
                    ("dd", Part::Day),
                    ("HH", Part::Hour),
                ];
                let place = places
                    .into_iter()
                    .find(|(word, _)| pattern.starts_with(word));
                let (length, part) = match place {
                    Some((word, part)) => (word.len(), part),
                    None if pattern.starts_with(['.', '-', '_']) => {
                        (1, Part::Text(pattern[..1].to_owned()))
                    }
                    None => return Err(PLACES),
                };
                parts.push(part);
                pattern = &pattern[length..];
            }
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let index = Self(parts);
        match is_name(&index.of(Timestamp::from_millis(0))) {
            true if index.is_told_apart() => Ok(index),
            true => Err(TOO_SHORT),
            false => Err(WRONG),
        }
    }

    /// The index of an event of this time.
    pub fn of(&self, time: Timestamp) -> String {
        let at = jiff::Timestamp::from_nanosecond(i128::from(time.as_nanos()))
            .expect("64 bits of nanoseconds are within the years that jiff knows");
        let at = TimeZone::UTC.to_datetime(at);
        let mut name = String::with_capacity(64);
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Year => name.push_str(&format!("{:04}", at.year())),
                Part::Month => name.push_str(&format!("{:02}", at.month())),
                Part::Day => name.push_str(&format!("{:02}", at.day())),
                Part::Hour => name.push_str(&format!("{:02}", at.hour())),
            }
        }
        name
    }

    /// Whether events of different times go to different indices.
    pub fn has_places(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// Matches all its names: from the first place to the last anything.
    pub fn pattern(&self) -> String {
        let is_place = |part: &Part| !matches!(part, Part::Text(_));
        let (Some(first), Some(last)) = (
            self.0.iter().position(is_place),
            self.0.iter().rposition(is_place),
        ) else {
            return self.texts(&self.0);
        };
        let (before, after) = (
            self.texts(&self.0[..first]),
            self.texts(&self.0[last + 1..]),
        );
        format!("{before}*{after}")
    }

    /// As it was written, in letters that a name may have.
    pub fn name(&self) -> String {
        let word = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Year => "yyyy".to_owned(),
            Part::Month => "mm".to_owned(),
            Part::Day => "dd".to_owned(),
            Part::Hour => "hh".to_owned(),
        };
        self.0.iter().map(word).collect()
    }

    /// Whether a pattern for all its names matches little else.
    fn is_told_apart(&self) -> bool {
        let is_place = |part: &Part| !matches!(part, Part::Text(_));
        let Some(first) = self.0.iter().position(is_place) else {
            return true;
        };
        let before = self.texts(&self.0[..first]);
        before.len() > BEFORE_MIN && before.ends_with(['-', '_', '.'])
    }

    fn texts(&self, parts: &[Part]) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            _ => String::new(),
        };
        parts.iter().map(text).collect()
    }
}

fn is_name(name: &str) -> bool {
    let word =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    name.len() <= BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_of_the_events_day_and_hour() {
        let check = |text: &str, expect: &str, pattern: &str, written: &str| {
            let index = Index::parse(text).unwrap();
            // 2026-03-01T11:59:50.123Z
            let name = index.of(Timestamp::from_millis(1_772_366_390_123));
            assert_eq!(
                (&*name, &*index.pattern(), &*index.name()),
                (expect, pattern, written)
            );
        };
        check("telemetry", "telemetry", "telemetry", "telemetry");
        check(
            "telemetry-{yyyy.MM.dd}",
            "telemetry-2026.03.01",
            "telemetry-*",
            "telemetry-yyyy.mm.dd",
        );
        check(
            "aa-{yyyy}-b-{MM_HH}.c",
            "aa-2026-b-03_11.c",
            "aa-*.c",
            "aa-yyyy-b-mm_hh.c",
        );
    }

    #[test]
    fn what_no_index_is_called_is_refused() {
        for wrong in [
            "",
            "Telemetry",
            "_a",
            "-a",
            ".a",
            "a b",
            "a/b",
            "a{",
            "a-{yy}",
            "a-{ww}",
            "a,b",
            "{}",
            "a-{YYYY}",
            "{yyyy.MM.dd}",
            "t{yyyy}",
            "t-{yyyy}",
            "telemetry{yyyy}",
            "ü",
        ] {
            assert!(Index::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_before_1970_have_their_day_too() {
        let index = Index::parse("aa-{yyyyMMdd}").unwrap();
        assert_eq!(index.of(Timestamp::from_nanos(-1)), "aa-19691231");
        assert_eq!(index.of(Timestamp::from_nanos(i64::MIN)), "aa-16770921");
    }
}
