//! Topics and subjects made of an event: a text in which `{site}`, `{device}` and
//! `{type}` are filled in. What a name may have in it is for whoever fills it in.

use super::Attributes;

/// A text with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Site,
    Device,
    Type,
}

impl Template {
    /// Reads a template, or says what is wrong with its places.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("\"{\" without \"}\"")?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match name {
                "site" => Part::Site,
                "device" => Part::Device,
                "type" => Part::Type,
                _ => return Err("only {site}, {device} and {type} can be filled in"),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is between the places.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            _ => None,
        })
    }

    /// Matches all that the template can give: each part between separators that has a
    /// place in it is `any`.
    #[cfg(any(feature = "mqtt", feature = "nats"))]
    pub(crate) fn pattern(&self, separator: char, any: &str) -> String {
        let marked: String = self
            .0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                _ => any,
            })
            .collect();
        let mut pattern = String::with_capacity(marked.len());
        for (n, part) in marked.split(separator).enumerate() {
            if n > 0 {
                pattern.push(separator);
            }
            pattern.push_str(if part.contains(any) { any } else { part });
        }
        pattern
    }

    /// The text for an event, with its names as `escape` appends them; a missing site
    /// is empty.
    pub(crate) fn fill(&self, of: &Attributes<'_>, escape: fn(&str, &mut String)) -> String {
        let mut text = String::with_capacity(64);
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Site => escape(of.site.unwrap_or_default(), &mut text),
                Part::Device => escape(of.device, &mut text),
                Part::Type => escape(of.kind, &mut text),
            }
        }
        text
    }
}

/// Appends `text`; characters that are not plain are written as `%XX` per UTF-8 byte, so
/// that two texts never become the same where `%` is not plain. An empty text is `_`.
pub(crate) fn escape(text: &str, is_plain: fn(char) -> bool, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    if text.is_empty() {
        out.push('_');
    }
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            out.push('%');
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}
