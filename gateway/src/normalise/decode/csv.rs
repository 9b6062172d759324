//! Lines of values with a separator (RFC 4180): every line an object with the
//! names of its columns.
//!
//! Values are read as scalars are: a number, `true`, `false`, or text; one in
//! quotes is always text, an empty one nothing. Strict where stock readers are
//! not: a quotation mark within a bare value, something after a closing one, and
//! a line with more or fewer values than there are columns are refused.

use std::{borrow::Cow, sync::Arc};

use super::{Budget, Class, Fault, Lenient, Node, Reject, distinct, scalar, utf8};
use crate::normalise::measure::NAME_BYTES_MAX;

/// The columns of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Their names, in order.
    pub names: Vec<Arc<str>>,
    /// Whether the first line names them, before and instead of `names`.
    pub header: bool,
    /// What is between two values.
    pub separator: u8,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            header: false,
            separator: b',',
        }
    }
}

/// Decodes lines. Empty ones are left out. What stands in a column that `is_text` is
/// not looked at.
pub(in crate::normalise) fn decode<'a>(
    columns: &Columns,
    is_text: &dyn Fn(&str) -> bool,
    payload: &'a [u8],
    lenient: Lenient,
) -> Result<Node<'a>, Reject> {
    let mut lines = Lines {
        // A byte order mark is no part of the first name.
        rest: utf8(payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload))?,
        separator: char::from(columns.separator),
        number: 0,
    };
    let mut budget = Budget::new(lenient);
    let mut names: Vec<Cow<'a, str>> = Vec::new();
    if columns.header {
        let first = lines.next().transpose()?;
        let first = first.ok_or_else(|| Reject::new(Class::Empty, "there is no line"))?;
        for field in first {
            budget.take()?;
            // Every line repeats it.
            if field.text.len() > NAME_BYTES_MAX {
                let reason = format!("a column's name has more than {NAME_BYTES_MAX} bytes");
                return Err(Reject::new(Class::Limit, reason));
            }
            names.push(field.text);
        }
    } else {
        names.extend(
            columns
                .names
                .iter()
                .map(|name| Cow::Owned(name.to_string())),
        );
    }
    budget.take()?;
    let texts: Vec<bool> = names.iter().map(|name| is_text(name)).collect();
    let mut rows = Vec::new();
    while let Some(fields) = lines.next().transpose()? {
        budget.take()?;
        if fields.len() != names.len() {
            let reason = format!(
                "line {} has {} values for {} columns",
                lines.number,
                fields.len(),
                names.len()
            );
            return Err(Reject::new(Class::Syntax, reason));
        }
        let mut members = Vec::with_capacity(names.len());
        for ((name, is_text), field) in names.iter().zip(&texts).zip(fields) {
            budget.take()?;
            members.push((name.clone(), field.node(*is_text, lenient)?));
        }
        if rows.is_empty() || lenient.allows(Fault::DuplicateKeys) {
            // The names are those of every line.
            distinct(&mut members, lenient)?;
        }
        rows.push(Node::Map(members));
    }
    if rows.is_empty() {
        return Err(Reject::new(Class::Empty, "there is no line with values"));
    }
    Ok(Node::Array(rows))
}

struct Field<'a> {
    text: Cow<'a, str>,
    quoted: bool,
}

impl<'a> Field<'a> {
    fn node(self, is_text: bool, lenient: Lenient) -> Result<Node<'a>, Reject> {
        if self.quoted {
            return Ok(Node::Text(self.text));
        }
        match self.text {
            Cow::Borrowed(text) if text.trim_ascii().is_empty() => Ok(Node::Null),
            Cow::Borrowed(text) if is_text => Ok(Node::Text(text.trim_ascii().into())),
            Cow::Borrowed(text) => scalar::decode(text.as_bytes(), lenient),
            Cow::Owned(text) => Ok(Node::Text(text.into())),
        }
    }
}

struct Lines<'a> {
    rest: &'a str,
    separator: char,
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Vec<Field<'a>>, Reject>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            self.number += 1;
            match self.end_of_line() {
                true => {}
                false => return Some(self.fields()),
            }
        }
    }
}

impl<'a> Lines<'a> {
    fn fields(&mut self) -> Result<Vec<Field<'a>>, Reject> {
        let mut fields = Vec::new();
        loop {
            // More fields than values in a payload are refused before they are kept.
            if fields.len() > super::ELEMENTS_MAX {
                return Err(Reject::new(Class::Limit, "a line has too many values"));
            }
            fields.push(match self.rest.strip_prefix('"') {
                Some(rest) => self.quoted(rest)?,
                None => self.bare()?,
            });
            if let Some(rest) = self.rest.strip_prefix(self.separator) {
                self.rest = rest;
            } else if self.rest.is_empty() || self.end_of_line() {
                return Ok(fields);
            } else {
                return Err(self.syntax("something follows a closing quotation mark"));
            }
        }
    }

    fn bare(&mut self) -> Result<Field<'a>, Reject> {
        let ends = [self.separator, '\n', '\r'];
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        if text.contains('"') {
            return Err(self.syntax("a quotation mark within a value that is not in quotes"));
        }
        self.rest = rest;
        if rest.starts_with('\r') && !rest.starts_with("\r\n") {
            return Err(self.syntax("a carriage return without a line feed"));
        }
        Ok(Field {
            text: Cow::Borrowed(text),
            quoted: false,
        })
    }

    fn quoted(&mut self, mut rest: &'a str) -> Result<Field<'a>, Reject> {
        let mut whole: Cow<'a, str> = Cow::Borrowed("");
        loop {
            let Some((part, after)) = rest.split_once('"') else {
                return Err(self.syntax("a text in quotes does not end"));
            };
            match whole.is_empty() {
                true => whole = Cow::Borrowed(part),
                false => whole.to_mut().push_str(part),
            }
            match after.strip_prefix('"') {
                Some(after) => {
                    whole.to_mut().push('"');
                    rest = after;
                }
                None => {
                    self.rest = after;
                    return Ok(Field {
                        text: whole,
                        quoted: true,
                    });
                }
            }
        }
    }

    fn end_of_line(&mut self) -> bool {
        let rest = self.rest.strip_prefix("\r\n");
        let rest = rest.or_else(|| self.rest.strip_prefix('\n'));
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn syntax(&self, what: &str) -> Reject {
        Reject::new(Class::Syntax, format!("{what} (line {})", self.number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(
        columns: &Columns,
        payload: &'a [u8],
        lenient: Lenient,
    ) -> Result<Node<'a>, Reject> {
        super::decode(columns, &|_| false, payload, lenient)
    }

    fn columns(names: &[&str]) -> Columns {
        Columns {
            names: names.iter().map(|name| (*name).into()).collect(),
            header: names.is_empty(),
            separator: b',',
        }
    }

    #[test]
    fn lines_become_objects() {
        let text = |text: &'static str| Node::Text(text.into());
        let payload = b"1,\"a \"\"b\"\",\nc\",,on\r\n\n2.5,\"3\",true,\"\"\n";
        let Ok(Node::Array(rows)) =
            decode(&columns(&["n", "t", "b", "e"]), payload, Lenient::STRICT)
        else {
            panic!("two lines");
        };
        let [first, second] = &rows[..] else {
            panic!("two lines")
        };
        assert_eq!(first.child("n"), Some(&Node::Int(1)));
        assert_eq!(first.child("t"), Some(&text("a \"b\",\nc")));
        assert_eq!(first.child("b"), Some(&Node::Null));
        assert_eq!(second.child("t"), Some(&text("3")));
        assert_eq!(second.child("b"), Some(&Node::Bool(true)));
        assert_eq!(second.child("e"), Some(&text("")));
        let semicolons = Columns {
            separator: b';',
            ..columns(&[])
        };
        let named = decode(&semicolons, b"a;b\n1;2,5", Lenient::STRICT).unwrap();
        let expect = Node::Map(vec![("a".into(), Node::Int(1)), ("b".into(), text("2,5"))]);
        assert_eq!(named, Node::Array(vec![expect]));
    }

    #[test]
    fn a_long_name_of_a_column_is_not_repeated_by_every_line() {
        let quoted = |bytes: usize| format!("\"{}\"\"\"\n1\n2\n", "x".repeat(bytes - 1));
        assert!(
            decode(
                &columns(&[]),
                quoted(NAME_BYTES_MAX).as_bytes(),
                Lenient::STRICT
            )
            .is_ok()
        );
        let long = quoted(NAME_BYTES_MAX + 1);
        let reject = decode(&columns(&[]), long.as_bytes(), Lenient::STRICT);
        assert_eq!(reject.unwrap_err().class, Class::Limit);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_name() {
        let rows = decode(&columns(&[]), b"\xef\xbb\xbfa\n1\n", Lenient::STRICT).unwrap();
        let expect = Node::Map(vec![("a".into(), Node::Int(1))]);
        assert_eq!(rows, Node::Array(vec![expect]));
    }

    #[test]
    fn refuses_what_is_not_a_table() {
        for (payload, expect) in [
            (&b"\n\n"[..], Class::Empty),
            (b"1\n", Class::Syntax),
            (b"1,2,3", Class::Syntax),
            (b"1,2\n3", Class::Syntax),
            (b"1,\"x", Class::Syntax),
            (b"1,\"x\"y", Class::Syntax),
            (b"1,x\"y", Class::Syntax),
            (b"1,2\r3,4", Class::Syntax),
            (b"1,1e999", Class::Range),
            (b"1,\xff", Class::Encoding),
        ] {
            let class = decode(&columns(&["a", "b"]), payload, Lenient::STRICT)
                .unwrap_err()
                .class;
            assert_eq!(class, expect, "{:?}", String::from_utf8_lossy(payload));
        }
        let header = decode(&columns(&[]), b"a,a\n1,2", Lenient::STRICT).unwrap_err();
        assert_eq!(header.class, Class::DuplicateKey);
        assert_eq!(
            decode(&columns(&[]), b"a,b\n", Lenient::STRICT)
                .unwrap_err()
                .class,
            Class::Empty
        );
        let many = "1,2\n".repeat(4_000);
        let class = decode(&columns(&["a", "b"]), many.as_bytes(), Lenient::STRICT)
            .unwrap_err()
            .class;
        assert_eq!(class, Class::Limit);
    }

    proptest! {
        #[test]
        fn texts_in_quotes_come_back(texts in proptest::collection::vec(any::<String>(), 1..5)) {
            let names: Vec<String> = (0..texts.len()).map(|n| n.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let quoted: Vec<String> =
                texts.iter().map(|text| format!("\"{}\"", text.replace('"', "\"\""))).collect();
            let line = quoted.join(",");
            let Ok(Node::Array(rows)) = decode(&columns(&names), line.as_bytes(), Lenient::STRICT) else {
                panic!("one line");
            };
            for (name, text) in names.iter().zip(texts) {
                prop_assert_eq!(rows[0].child(name), Some(&Node::Text(text.into())));
            }
        }
    }
}
