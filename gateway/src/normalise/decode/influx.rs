//! InfluxDB line protocol: every line an object of `measurement`, `tags`, `fields`
//! and `time`.
//!
//! Source: the syntax as InfluxDB 2 documents it. A number without a suffix is a
//! float, as there. Refused, although InfluxDB takes some of it: names that repeat
//! in one line, numbers too large for their type, NaN.

use std::borrow::Cow;

use super::{Budget, Class, Fault, Float, Lenient, Members, Node, Reject, distinct, json, utf8};

/// Decodes lines. Empty ones and comments are left out.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let text = utf8(payload)?;
    let mut parser = Parser {
        text,
        at: 0,
        budget: Budget::new(lenient),
    };
    parser.budget.take()?;
    let mut lines = Vec::new();
    loop {
        parser.skip(|byte| matches!(byte, b'\n' | b'\r' | b' ' | b'\t'));
        match parser.peek() {
            None => break,
            Some(b'#') => parser.skip(|byte| byte != b'\n'),
            Some(_) => lines.push(parser.line()?),
        }
    }
    if lines.is_empty() {
        return Err(Reject::new(Class::Empty, "there is no line in the payload"));
    }
    Ok(Node::Array(lines))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    budget: Budget,
}

impl<'a> Parser<'a> {
    fn line(&mut self) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        let measurement = self.word(b", ")?;
        let mut tags: Members<'a> = Vec::new();
        while self.eat(b',') {
            let name = self.name()?;
            let value = self.word(b", =")?;
            self.budget.take()?;
            tags.push((name, Node::Text(value)));
        }
        if !self.eat(b' ') {
            return Err(self.syntax("a space and the fields should be here"));
        }
        self.skip(|byte| byte == b' ');
        let mut fields: Members<'a> = Vec::new();
        loop {
            let name = self.name()?;
            self.budget.take()?;
            fields.push((name, self.value()?));
            if !self.eat(b',') {
                break;
            }
        }
        let mut line = vec![
            (Cow::Borrowed("measurement"), Node::Text(measurement)),
            (Cow::Borrowed("tags"), Node::Map(tags)),
            (Cow::Borrowed("fields"), Node::Map(fields)),
        ];
        self.skip(|byte| byte == b' ');
        if !matches!(self.peek(), None | Some(b'\n' | b'\r')) {
            line.push((Cow::Borrowed("time"), self.time()?));
        }
        self.skip(|byte| matches!(byte, b' ' | b'\r'));
        if !matches!(self.peek(), None | Some(b'\n')) {
            return Err(self.syntax("the line should end here"));
        }
        for (_, node) in &mut line {
            if let Node::Map(members) = node {
                distinct(members, self.budget.lenient)?;
            }
        }
        Ok(Node::Map(line))
    }

    fn time(&mut self) -> Result<Node<'a>, Reject> {
        let digits = self.until(b" \r\n");
        let fine = digits.strip_prefix('-').unwrap_or(digits);
        if fine.is_empty() || !fine.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.syntax("a time is a whole number"));
        }
        // A float has too few digits for a time of so many.
        let time = digits.parse().map(Node::Int);
        time.map_err(|_| json::beyond_64_bits())
    }

    /// A name before an equals sign.
    fn name(&mut self) -> Result<Cow<'a, str>, Reject> {
        let name = self.word(b", =")?;
        if self.eat(b'=') {
            Ok(name)
        } else {
            Err(self.syntax("an equals sign should be here"))
        }
    }

    /// Text up to one of `ends`, which a backslash makes a part of it; not empty.
    fn word(&mut self, ends: &[u8]) -> Result<Cow<'a, str>, Reject> {
        let start = self.at;
        let mut escaped = false;
        let bytes = self.text.as_bytes();
        while let Some(byte) = self.peek() {
            match byte {
                b'\\'
                    if bytes
                        .get(self.at + 1)
                        .is_some_and(|next| ends.contains(next)) =>
                {
                    escaped = true;
                    self.at += 2;
                }
                b'\n' | b'\r' => break,
                byte if ends.contains(&byte) => break,
                _ => self.at += 1,
            }
        }
        // Both ends are next to ASCII bytes, so they are character boundaries.
        let written = &self.text[start..self.at];
        if written.is_empty() {
            return Err(self.syntax("a name or a value is empty"));
        }
        if !escaped {
            return Ok(Cow::Borrowed(written));
        }
        Ok(Cow::Owned(unescape(written, ends)))
    }

    fn value(&mut self) -> Result<Node<'a>, Reject> {
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        let written = self.until(b", \r\n");
        match written {
            "t" | "T" | "true" | "True" | "TRUE" => return Ok(Node::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => return Ok(Node::Bool(false)),
            _ => {}
        }
        let whole = |digits: &str| {
            let unsigned = digits.strip_prefix('-').unwrap_or(digits);
            !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit())
        };
        if let Some(digits) = written.strip_suffix('i').filter(|digits| whole(digits)) {
            return self.integer(digits, digits.parse().ok().map(Node::Int));
        }
        if let Some(digits) = written.strip_suffix('u').filter(|digits| whole(digits)) {
            return self.integer(digits, digits.parse::<u64>().ok().map(Node::from));
        }
        let starts =
            written.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let value = written.parse::<f64>().ok();
        match value.filter(|_| starts && written.chars().all(digits)) {
            Some(value) if value.is_finite() => {
                let exact = json::number_literal(written.as_bytes());
                let literal = exact.filter(|(end, _)| *end == written.len());
                Ok(Node::Float(Float {
                    value,
                    literal: literal.map(|_| written.into()),
                }))
            }
            Some(_) if self.takes(Fault::Nan) => Ok(json::NAN),
            Some(_) => Err(json::too_large()),
            // The words that other programs write for it.
            None if value.is_some() && self.takes(Fault::Nan) => Ok(json::NAN),
            None => Err(self.syntax("not a value of the line protocol")),
        }
    }

    /// An integer, or where it does not fit and that is taken, the nearest float.
    fn integer(&self, digits: &str, read: Option<Node<'a>>) -> Result<Node<'a>, Reject> {
        match read {
            Some(node) => Ok(node),
            None if self.takes(Fault::BigIntegers) => match digits.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Node::Float(Float {
                    value,
                    literal: None,
                })),
                _ if self.takes(Fault::Nan) => Ok(json::NAN),
                _ => Err(json::too_large()),
            },
            None => Err(json::beyond_64_bits()),
        }
    }

    const fn takes(&self, fault: Fault) -> bool {
        self.budget.lenient.allows(fault)
    }

    fn quoted(&mut self) -> Result<Node<'a>, Reject> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match (self.peek(), self.text.as_bytes().get(self.at + 1)) {
                (None, _) => return Err(self.syntax("a text in quotes does not end")),
                (Some(b'"'), _) => break,
                (Some(b'\\'), Some(b'"' | b'\\')) => {
                    escaped = true;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        let written = &self.text[start..self.at];
        self.at += 1;
        Ok(Node::Text(if escaped {
            Cow::Owned(unescape(written, b"\"\\"))
        } else {
            Cow::Borrowed(written)
        }))
    }

    fn until(&mut self, ends: &[u8]) -> &'a str {
        let start = self.at;
        self.skip(|byte| !ends.contains(&byte));
        &self.text[start..self.at]
    }

    fn skip(&mut self, what: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&what) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn syntax(&self, what: &str) -> Reject {
        Reject::new(Class::Syntax, format!("{what} (byte {})", self.at))
    }
}

/// Takes away the backslashes before `ends`; others are characters.
fn unescape(written: &str, ends: &[u8]) -> String {
    let mut text = String::with_capacity(written.len());
    let mut chars = written.chars().peekable();
    while let Some(c) = chars.next() {
        let special = |c: &char| u8::try_from(*c).is_ok_and(|byte| ends.contains(&byte));
        match chars.peek().copied().filter(special) {
            Some(next) if c == '\\' => {
                chars.next();
                text.push(next);
            }
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Node<'_> {
        match decode(line.as_bytes(), Lenient::STRICT) {
            Ok(Node::Array(mut lines)) if lines.len() == 1 => lines.remove(0),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn at<'n>(line: &'n Node<'_>, part: &str, name: &str) -> &'n Node<'n> {
        line.child(part).and_then(|part| part.child(name)).unwrap()
    }

    #[test]
    fn reads_what_the_documentation_shows() {
        let text = |text: &'static str| Node::Text(text.into());
        let line = one(
            r#"my\ m\,x,a\=b=c\ d,e=\f f1="a \"q\" \\ ,b=c",f2=3i,f3=7u,f4=F,f5=-1.e+2,f6=1 -5"#,
        );
        assert_eq!(line.child("measurement"), Some(&text("my m,x")));
        assert_eq!(*at(&line, "tags", "a=b"), text("c d"));
        assert_eq!(*at(&line, "tags", "e"), text(r"\f"));
        assert_eq!(*at(&line, "fields", "f1"), text(r#"a "q" \ ,b=c"#));
        assert_eq!(*at(&line, "fields", "f2"), Node::Int(3));
        assert_eq!(*at(&line, "fields", "f3"), Node::Int(7));
        assert_eq!(*at(&line, "fields", "f4"), Node::Bool(false));
        assert!(matches!(at(&line, "fields", "f5"), Node::Float(x) if x.value == -100.0));
        assert!(matches!(at(&line, "fields", "f6"), Node::Float(x) if x.value == 1.0));
        assert_eq!(line.child("time"), Some(&Node::Int(-5)));
        let two = decode(
            "# one\n\na b=1\r\nc d=\"x\ny\" 3\n".as_bytes(),
            Lenient::STRICT,
        )
        .unwrap();
        assert!(matches!(two, Node::Array(lines) if lines.len() == 2));
    }

    #[test]
    fn refuses_what_is_not_a_line() {
        for (payload, expect) in [
            (&b"# only a comment\n"[..], Class::Empty),
            (b"a", Class::Syntax),
            (b"a b", Class::Syntax),
            (b"a b=", Class::Syntax),
            (b"a,t b=1", Class::Syntax),
            (b"a,t= b=1", Class::Syntax),
            (b",t=1 b=1", Class::Syntax),
            (b"a b=NaN", Class::Syntax),
            (b"a b=inf", Class::Syntax),
            (b"a b=1x", Class::Syntax),
            (b"a b=\"x", Class::Syntax),
            (b"a b=1 1.5", Class::Syntax),
            (b"a b=1 1 2", Class::Syntax),
            (b"a b=1,", Class::Syntax),
            (b"a b=1e400", Class::Range),
            (b"a b=9223372036854775808i", Class::Range),
            (b"a b=1 9223372036854775808", Class::Range),
            (b"a b=1,b=2", Class::DuplicateKey),
            (b"a,t=1,t=2 b=1", Class::DuplicateKey),
            (b"a b=\"\xff\"", Class::Encoding),
        ] {
            let class = decode(payload, Lenient::STRICT).unwrap_err().class;
            assert_eq!(class, expect, "{:?}", String::from_utf8_lossy(payload));
        }
        let many = "a b=1\n".repeat(5_001);
        assert_eq!(
            decode(many.as_bytes(), Lenient::STRICT).unwrap_err().class,
            Class::Limit
        );
    }

    proptest! {
        #[test]
        fn names_and_texts_come_back(
            measurement in "[^\\\\\n\r#\t ][^\\\\\n\r]{0,8}", tag in "[^\\\\\n\r]{1,8}", text in ".{0,12}",
        ) {
            let escape = |text: &str, ends: &[char]| text.chars().flat_map(|c| {
                ends.contains(&c).then_some('\\').into_iter().chain([c])
            }).collect::<String>();
            let line = format!(
                "{},t={} f=\"{}\"",
                escape(&measurement, &[',', ' ']),
                escape(&tag, &[',', ' ', '=']),
                escape(&text, &['"', '\\']),
            );
            let read = one(&line);
            prop_assert_eq!(read.child("measurement"), Some(&Node::Text(measurement.into())));
            prop_assert_eq!(at(&read, "tags", "t"), &Node::Text(tag.into()));
            prop_assert_eq!(at(&read, "fields", "f"), &Node::Text(text.into()));
        }
    }
}
