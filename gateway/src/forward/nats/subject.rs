//! The subject of an event.
//!
//! `{site}`, `{device}` and `{type}` each become part of one token: characters
//! that mean something in a subject, or that clients disagree about, are written
//! as `%XX` per UTF-8 byte, and `%` as `%25`, so that two devices never share a
//! subject by accident. A missing site is `_`.

use crate::event::{View, template};

/// The server refuses longer protocol lines, with all that is on them.
const BYTES_MAX: usize = 1024;

/// A subject with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(template::Template);

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("subject `{text}`: {what}");
        let illegal = |c: char| !c.is_ascii_graphic() || "*>}".contains(c);
        let template = Self(template::Template::parse(text).map_err(wrong)?);
        let pattern = template.pattern();
        if template.0.texts().any(|text| text.contains(illegal)) {
            return Err(wrong("has characters that a subject cannot have"));
        }
        if pattern.split('.').any(str::is_empty) {
            return Err(wrong("has an empty part between dots"));
        }
        if pattern.starts_with('$') {
            return Err(wrong("subjects that begin with `$` belong to the server"));
        }
        Ok(template)
    }

    /// Matches every subject that the template can give.
    pub(super) fn pattern(&self) -> String {
        self.0.pattern('.', "*")
    }

    /// The subject of an event, or why it can have none.
    pub(super) fn fill(&self, view: &View<'_>) -> Result<String, String> {
        let subject = self.0.fill(&view.attributes, escape);
        if subject.len() > BYTES_MAX {
            return Err(format!(
                "its subject would have {} bytes, of {BYTES_MAX}",
                subject.len()
            ));
        }
        Ok(subject)
    }
}

fn escape(text: &str, out: &mut String) {
    let is_plain = |c: char| c.is_ascii_graphic() && !".*>%$".contains(c);
    template::escape(text, is_plain, out);
}

/// Whether a stream that takes `filter` takes everything that matches `pattern`.
pub(super) fn covers(filter: &str, pattern: &str) -> bool {
    let mut pattern = pattern.split('.');
    for token in filter.split('.') {
        match (token, pattern.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    pattern.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_give_patterns_or_say_what_is_wrong() {
        let pattern = |text: &str| Template::parse(text).map(|template| template.pattern());
        let check = |text: &str, expect: &str| assert_eq!(pattern(text).as_deref(), Ok(expect));
        check("telemetry.{site}.{device}.{type}", "telemetry.*.*.*");
        check("plant-{site}.all", "*.all");
        check("events", "events");
        for wrong in [
            "",
            "a..b",
            "a.{unit}",
            "a.{site",
            "a.>",
            "a b",
            ".a",
            "$JS.{device}",
        ] {
            assert!(pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stream_covers_what_its_filter_matches() {
        for (filter, pattern, expect) in [
            ("telemetry.>", "telemetry.*.*.*", true),
            ("telemetry.*.*.*", "telemetry.*.*.*", true),
            ("telemetry.*.*", "telemetry.*.*.*", false),
            ("telemetry.north.>", "telemetry.*.*.*", false),
            ("events", "events", true),
            (">", "events", true),
            ("events.>", "events", false),
        ] {
            assert_eq!(covers(filter, pattern), expect, "{filter} {pattern}");
        }
    }

    #[test]
    fn whatever_a_device_is_called_it_stays_one_token() {
        for (name, expect) in [
            ("a-1", "a-1"),
            ("a.b", "a%2Eb"),
            ("a b*>", "a%20b%2A%3E"),
            ("100%", "100%25"),
            ("ü", "%C3%BC"),
            ("", "_"),
        ] {
            let mut token = String::new();
            escape(name, &mut token);
            assert_eq!(token, expect);
        }
    }
}
