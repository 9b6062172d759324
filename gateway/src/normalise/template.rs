//! Text with captures of the topic in it: `{site}-{device}`, `iot.{type}.v1`.

use std::sync::Arc;

/// A compiled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// The capture with this number.
    Capture(usize),
    /// The client identifier.
    Client,
    /// The user that the client was let in as.
    User,
}

/// Text that names what the topic does not capture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A brace without its pair.
    #[error("\"{{\" and \"}}\" stand around the name of a capture")]
    Brace,
    /// A name that the topic does not have.
    #[error("the topic captures nothing named {name:?}; {known}")]
    Unknown {
        /// The name.
        name: String,
        /// What it does capture, as a sentence.
        known: String,
    },
}

impl Template {
    /// Compiles a text against the names that a topic captures.
    ///
    /// # Errors
    /// When a name is not among them.
    pub fn parse(text: &str, names: &[Arc<str>]) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            if open > 0 {
                parts.push(Part::Literal(rest[..open].into()));
            }
            let inner = rest[open..].strip_prefix('{').ok_or(Error::Brace)?;
            let (name, after) = inner.split_once('}').ok_or(Error::Brace)?;
            parts.push(match name {
                "client" => Part::Client,
                "user" => Part::User,
                _ => Part::Capture(
                    names
                        .iter()
                        .position(|n| **n == *name)
                        .ok_or_else(|| unknown(name, names))?,
                ),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Ok(Self {
            parts: parts.into(),
        })
    }

    /// Whether the text depends on who publishes.
    pub fn names_client(&self) -> bool {
        self.parts.contains(&Part::Client) || self.names_user()
    }

    /// Whether the text needs the user that a client was let in as.
    pub fn names_user(&self) -> bool {
        self.parts.contains(&Part::User)
    }

    /// Whether the text uses the capture with this number.
    pub fn uses(&self, capture: usize) -> bool {
        self.parts.contains(&Part::Capture(capture))
    }

    /// The text with everything filled in; the user is "" where nobody was asked.
    pub fn fill(&self, captures: &[&str], client_id: &str, user: &str) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text,
                // Compiled against the same topic, so the number is there.
                Part::Capture(n) => captures.get(*n).copied().unwrap_or_default(),
                Part::Client => client_id,
                Part::User => user,
            })
            .collect()
    }
}

fn unknown(name: &str, names: &[Arc<str>]) -> Error {
    let known = if names.is_empty() {
        "it has no captures, only {client} and {user} are known".to_owned()
    } else {
        let names: Vec<_> = names.iter().map(|name| format!("{{{name}}}")).collect();
        format!("known are {}, {{client}} and {{user}}", names.join(", "))
    };
    Error::Unknown {
        name: name.to_owned(),
        known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<Arc<str>> {
        vec!["site".into(), "device".into()]
    }

    #[test]
    fn captures_and_the_client_are_filled_in() {
        for (text, expect) in [
            ("{device}", "b7"),
            ("{site}-{device}", "pune-b7"),
            ("x{client}y", "xc1y"),
            ("{user}", "u1"),
            ("plain", "plain"),
            ("", ""),
        ] {
            let template = Template::parse(text, &names()).unwrap();
            assert_eq!(template.fill(&["pune", "b7"], "c1", "u1"), expect, "{text}");
            assert_eq!(
                template.names_client(),
                text.contains("client") || text.contains("user"),
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_names_and_stray_braces_are_refused() {
        for text in ["{", "}", "a}b", "{device", "{device}}"] {
            assert_eq!(Template::parse(text, &names()), Err(Error::Brace), "{text}");
        }
        let error = Template::parse("{line}", &names()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the topic captures nothing named \"line\"; known are {site}, {device}, {client} and {user}"
        );
    }
}
