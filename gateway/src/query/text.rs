//! What is searched: the words of an event or message, and the words of a question.

use super::Error;
use crate::event::{Event, Value};

/// Words of one event or message, at most, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Terms of one question.
const TERMS_MAX: usize = 16;
/// Bytes of one question: each of its words is a reader of the index.
const QUESTION_BYTES_MAX: usize = 1024;
/// The fields that a question may name.
const FIELDS: [&str; 4] = ["device", "topic", "type", "text"];

/// The words of an event beside its device, topic and type: the id that it came with,
/// the names, units and texts that were measured, and its tags.
pub(super) fn of_event(event: &Event) -> String {
    let mut text = String::new();
    let mut add = |word: &str| add(&mut text, word);
    if let Some(id) = &event.id {
        add(id);
    }
    if let Some(site) = &event.site {
        add(site);
    }
    for measurement in &event.measurements {
        add(&measurement.name);
        if let Some(unit) = &measurement.unit {
            add(unit);
        }
        texts(&measurement.value, &mut add);
    }
    for (name, value) in &event.tags {
        add(name);
        add(value);
    }
    text
}

fn texts(value: &Value, add: &mut impl FnMut(&str)) {
    match value {
        Value::Text(text) => add(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, add)),
        Value::Map(members) => {
            for (name, member) in members {
                add(name);
                texts(member, add);
            }
        }
        _ => {}
    }
}

/// The words of a message in quarantine: why it is there, and what is text of it.
pub(super) fn of_message(reason: &str, payload: &[u8]) -> String {
    let mut text = String::new();
    add(&mut text, reason);
    let payload = &payload[..payload.len().min(TEXT_BYTES_MAX)];
    add(&mut text, &String::from_utf8_lossy(payload));
    text
}

/// Adds a word while there is room.
pub(super) fn add(text: &mut String, word: &str) {
    let room = TEXT_BYTES_MAX.saturating_sub(text.len() + 1);
    let mut end = word.len().min(room);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    if end > 0 {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&word[..end]);
    }
}

/// A question: what must be there, and what must not.
#[derive(Debug)]
pub(super) struct Question {
    wanted: Vec<Term>,
    unwanted: Vec<Term>,
}

/// Words that stand one after the other.
#[derive(Debug)]
struct Term {
    field: Option<&'static str>,
    words: String,
    /// The last of them only begins so.
    is_beginning: bool,
}

impl Question {
    /// Parses one. Its words must all be there; `"some words"` stand one after the other;
    /// `pre*` is any word that begins so; `-word` must not be there; and `field:` before
    /// any of these asks for it in that field.
    ///
    /// # Errors
    /// What is wrong in it.
    pub(super) fn parse(asked: &str) -> Result<Self, Error> {
        let wrong = |what: String| Err(Error::Asked(what));
        if asked.len() > QUESTION_BYTES_MAX {
            return wrong(format!("a question has at most {QUESTION_BYTES_MAX} bytes"));
        }
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        let mut rest = asked.trim_start();
        while !rest.is_empty() {
            let (not, after) = match rest.strip_prefix('-') {
                Some(after) => (true, after),
                None => (false, rest),
            };
            let field = FIELDS.iter().find_map(|field| {
                let after = after.strip_prefix(field)?.strip_prefix(':')?;
                Some((*field, after))
            });
            let (field, after) = field.map_or((None, after), |(field, after)| (Some(field), after));
            let (words, after) = if let Some(quoted) = after.strip_prefix('"') {
                match quoted.split_once('"') {
                    Some(parts) => parts,
                    None => return wrong("a phrase begins with \" and has no end".to_owned()),
                }
            } else {
                after.split_at(after.find(char::is_whitespace).unwrap_or(after.len()))
            };
            let (words, is_beginning, after) =
                match (words.strip_suffix('*'), after.strip_prefix('*')) {
                    (_, Some(after)) => (words, true, after),
                    (Some(words), None) => (words, true, after),
                    (None, None) => (words, false, after),
                };
            if !words.chars().any(char::is_alphanumeric) {
                return wrong(format!("{words:?} has no letter or digit to look for"));
            }
            let terms = if not { &mut unwanted } else { &mut wanted };
            terms.push(Term {
                field,
                // FTS5 takes a U+0000 for the end of the question.
                words: words.replace(['"', '\0'], " "),
                is_beginning,
            });
            rest = after.trim_start();
        }
        if wanted.is_empty() {
            return wrong("say at least one word that should be there".to_owned());
        }
        if wanted.len() + unwanted.len() > TERMS_MAX {
            return wrong(format!("a question has at most {TERMS_MAX} terms"));
        }
        Ok(Self { wanted, unwanted })
    }

    /// It in the syntax of FTS5. `spell` may say what words of which the last only begins so
    /// stand for; `None` leaves that to FTS5.
    ///
    /// # Errors
    /// What `spell` says.
    pub(super) fn fts5(
        &self,
        mut spell: impl FnMut(&str) -> Result<Option<Vec<String>>, Error>,
    ) -> Result<String, Error> {
        let mut text = |terms: &[Term]| -> Result<Vec<String>, Error> {
            terms.iter().map(|term| term.fts5(&mut spell)).collect()
        };
        let (wanted, unwanted) = (text(&self.wanted)?, text(&self.unwanted)?);
        let wanted = wanted.join(" AND ");
        Ok(match unwanted.is_empty() {
            true => wanted,
            false => format!("({wanted}) NOT ({})", unwanted.join(" OR ")),
        })
    }
}

impl Term {
    fn fts5(
        &self,
        spell: &mut impl FnMut(&str) -> Result<Option<Vec<String>>, Error>,
    ) -> Result<String, Error> {
        let words = &self.words;
        let spelled = match self.is_beginning {
            true => spell(words)?,
            false => None,
        };
        let text = match spelled {
            Some(phrases) if !phrases.is_empty() => {
                let quoted = phrases.iter().map(|phrase| format!("\"{phrase}\""));
                format!("({})", quoted.collect::<Vec<_>>().join(" OR "))
            }
            _ if self.is_beginning => format!("\"{words}\" *"),
            _ => format!("\"{words}\""),
        };
        Ok(match self.field {
            Some(field) => format!("{field} : {text}"),
            None => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn question(asked: &str) -> Result<String, Error> {
        Question::parse(asked)?.fts5(|_| Ok(None))
    }

    #[test]
    fn a_beginning_may_be_spelled_out() {
        let asked = Question::parse("device:pre* -te* x").unwrap();
        let spell = |words: &str| {
            Ok(match words {
                "pre" => Some(vec!["press".to_owned(), "preheater".to_owned()]),
                _ => Some(Vec::new()),
            })
        };
        assert_eq!(
            asked.fts5(spell).unwrap(),
            r#"(device : ("press" OR "preheater") AND "x") NOT ("te" *)"#
        );
    }

    #[test]
    fn questions_are_words_phrases_beginnings_and_fields() {
        for (asked, expect) in [
            ("pump", r#""pump""#),
            ("pump fault", r#""pump" AND "fault""#),
            (r#""over heat" "#, r#""over heat""#),
            ("over* x", r#""over" * AND "x""#),
            (r#""over he"* x"#, r#""over he" * AND "x""#),
            ("a\0b", r#""a b""#),
            ("device:press-7", r#"device : "press-7""#),
            (
                r#"topic:"a/b" -type:x -y"#,
                r#"(topic : "a/b") NOT (type : "x" OR "y")"#,
            ),
            ("colour:red", r#""colour:red""#),
        ] {
            assert_eq!(question(asked).unwrap(), expect, "{asked}");
        }
        let long = "x ".repeat(513);
        for asked in [&long, "", "  ", "-x", "*", "\"x", "device:", "a -"] {
            assert!(matches!(question(asked), Err(Error::Asked(_))), "{asked}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_is_a_question_for_sqlite_or_a_mistake(
            asked in r#"[ab"*: ()^+\-{}\x00\u{89}]{0,12}|(device:|-|"| |x|AND|NEAR\(|\*){0,8}"#,
        ) {
            let connection = Connection::open_in_memory().unwrap();
            let table = "CREATE VIRTUAL TABLE t USING fts5(device, topic, type, text)";
            connection.execute_batch(table).unwrap();
            if let Ok(question) = question(&asked) {
                let found = connection.query_row(
                    "SELECT count(*) FROM t WHERE t MATCH ?1", [&question], |row| row.get::<_, i64>(0));
                prop_assert_eq!(found, Ok(0), "{} {}", asked, question);
            }
        }
    }
}
