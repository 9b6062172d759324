//! The subject of an event.
//!
//! `{site}`, `{device}` and `{type}` each become part of one token: characters
//! that mean something in a subject, or that clients disagree about, are written
//! as `%XX` per UTF-8 byte, and `%` as `%25`, so that two devices never share a
//! subject by accident. A missing site is `_`.

use crate::event::View;

/// The server refuses longer protocol lines, with all that is on them.
const BYTES_MAX: usize = 1024;

/// A subject with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Site,
    Device,
    Type,
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("subject `{text}`: {what}");
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| wrong("`{` without `}`"))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match name {
                "site" => Part::Site,
                "device" => Part::Device,
                "type" => Part::Type,
                _ => return Err(wrong("only {site}, {device} and {type} can be filled in")),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let illegal = |c: char| !c.is_ascii_graphic() || "*>}".contains(c);
        let template = Self(parts);
        let pattern = template.pattern();
        if template.texts().any(|text| text.contains(illegal)) {
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

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            _ => None,
        })
    }

    /// Matches every subject that the template can give: each part with a place
    /// to fill in is a `*`.
    pub(super) fn pattern(&self) -> String {
        let marked: String = self
            .0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                _ => "*",
            })
            .collect();
        let token = |token| {
            if str::contains(token, '*') {
                "*"
            } else {
                token
            }
        };
        marked.split('.').map(token).collect::<Vec<_>>().join(".")
    }

    /// The subject of an event, or why it can have none.
    pub(super) fn fill(&self, view: &View<'_>) -> Result<String, String> {
        let mut subject = String::with_capacity(64);
        for part in &self.0 {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::Site => escape(view.attributes.site.unwrap_or("_"), &mut subject),
                Part::Device => escape(view.attributes.device, &mut subject),
                Part::Type => escape(view.attributes.kind, &mut subject),
            }
        }
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
    if text.is_empty() {
        out.push('_');
    }
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b".*>%$".contains(&byte) {
            out.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
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
