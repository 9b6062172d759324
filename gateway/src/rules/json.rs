//! JSON text read with its places, numbers kept as they are written (RFC 8259).
//!
//! Patterns need what `serde_json` does not keep: where things stand, names that
//! repeat, and the digits of a number.

use std::borrow::Cow;

/// Objects and arrays within each other, at most.
pub(super) const DEPTH_MAX: usize = 128;

/// What is wrong, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) at: usize,
    pub(super) what: Cow<'static, str>,
}

impl Error {
    pub(super) fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            at,
            what: what.into(),
        }
    }
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) at: usize,
    pub(super) value: Value<'a>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
}

/// A name, where it begins, and its value. Names may repeat.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) at: usize,
    pub(super) name: Cow<'a, str>,
    pub(super) node: Node<'a>,
}

impl Value<'_> {
    /// What it is called in messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// The whole text as one value.
pub(super) fn parse(text: &str) -> Result<Node<'_>, Error> {
    let mut reader = Reader::new(text);
    reader.space();
    let node = tree(&mut reader, 0)?;
    reader.end()?;
    Ok(node)
}

fn tree<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Node<'a>, Error> {
    let at = reader.at;
    let value = match reader.kind()? {
        Kind::Object => {
            reader.deeper(depth)?;
            let mut members = Vec::new();
            let mut more = reader.open(b'}')?;
            while more {
                let at = reader.at;
                let name = reader.name()?;
                let node = tree(reader, depth + 1)?;
                members.push(Member { at, name, node });
                more = reader.more(b'}')?;
            }
            Value::Object(members)
        }
        Kind::Array => {
            reader.deeper(depth)?;
            let mut items = Vec::new();
            let mut more = reader.open(b']')?;
            while more {
                items.push(tree(reader, depth + 1)?);
                more = reader.more(b']')?;
            }
            Value::Array(items)
        }
        Kind::Text => Value::Text(reader.text()?),
        Kind::Number => Value::Number(reader.number()?),
        Kind::True => reader.word("true", Value::Bool(true))?,
        Kind::False => reader.word("false", Value::Bool(false))?,
        Kind::Null => reader.word("null", Value::Null)?,
    };
    Ok(Node { at, value })
}

/// What begins at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    Text,
    Number,
    True,
    False,
    Null,
}

/// A place in a text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[cold]
    fn error(&self, what: &'static str) -> Error {
        Error::new(self.at, what)
    }

    /// Nothing but space follows.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("text behind the end")),
        }
    }

    /// What kind of value begins here.
    #[inline]
    pub(super) fn kind(&self) -> Result<Kind, Error> {
        match self.peek() {
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b't') => Ok(Kind::True),
            Some(b'f') => Ok(Kind::False),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.error("not JSON: no value begins with this character")),
            None => Err(self.error("not JSON: it ends where a value should be")),
        }
    }

    /// Goes into an object or array that is itself within `depth` others.
    #[inline]
    pub(super) fn deeper(&self, depth: usize) -> Result<(), Error> {
        if depth >= DEPTH_MAX {
            return Err(self.error("nested too deeply: 128 objects and arrays are the most"));
        }
        Ok(())
    }

    /// Goes into an object or array that `close` ends; false where nothing is in it.
    #[inline]
    pub(super) fn open(&mut self, close: u8) -> Result<bool, Error> {
        self.at += 1;
        self.space();
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(_) => Ok(true),
            None => Err(self.error("not JSON: an object or array has no end")),
        }
    }

    /// Goes on to the next of an object or array; false at its end.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, Error> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(_) => Err(self.error("not JSON: \",\" or the end should be here")),
            None => Err(self.error("not JSON: an object or array has no end")),
        }
    }

    /// A name and the colon behind it.
    #[inline]
    pub(super) fn name(&mut self) -> Result<Cow<'a, str>, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.error("not JSON: a name in quotes should be here"));
        }
        let name = self.text()?;
        self.colon()?;
        Ok(name)
    }

    /// Checks a name and the colon behind it.
    #[inline]
    pub(super) fn skip_name(&mut self) -> Result<(), Error> {
        if self.peek() != Some(b'"') {
            return Err(self.error("not JSON: a name in quotes should be here"));
        }
        self.skip_text()?;
        self.colon()
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Error> {
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.error("not JSON: \":\" should be here"));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// A word that was seen to begin here.
    #[inline]
    pub(super) fn word<T>(&mut self, word: &'static str, meaning: T) -> Result<T, Error> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("not JSON: a word other than true, false and null"));
        }
        self.at += word.len();
        Ok(meaning)
    }

    /// A number as it is written.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'a str, Error> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => {
                self.at += 1;
                if let Some(b'0'..=b'9') = self.peek() {
                    return Err(self.error("not JSON: a number has no zeros before it"));
                }
            }
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[from..self.at])
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Error> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == from {
            return Err(self.error("not JSON: a digit should be here"));
        }
        Ok(())
    }

    /// A text without its quotes.
    #[inline]
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Error> {
        self.at += 1;
        let from = self.at;
        self.plain();
        if self.peek() == Some(b'"') {
            let text = &self.text[from..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        self.unescape(from).map(Cow::Owned)
    }

    /// Checks a text and forgets it.
    #[inline]
    pub(super) fn skip_text(&mut self) -> Result<(), Error> {
        self.at += 1;
        let from = self.at;
        self.plain();
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(());
        }
        self.unescape(from).map(drop)
    }

    /// Passes what stands for itself.
    #[inline]
    fn plain(&mut self) {
        let bytes = &self.text.as_bytes()[self.at..];
        let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
        self.at += bytes.iter().take_while(|byte| plain(byte)).count();
    }

    #[cold]
    fn unescape(&mut self, from: usize) -> Result<String, Error> {
        let mut text = self.text[from..self.at].to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    let c = self.escape()?;
                    text.push(c);
                }
                Some(_) => {
                    return Err(self.error("not JSON: a control character within a text"));
                }
                None => return Err(self.error("not JSON: a text has no end")),
            }
            let from = self.at;
            self.plain();
            text.push_str(&self.text[from..self.at]);
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let from = self.at;
        let bad = |what| Err(Error::new(from, what));
        self.at += 1;
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.hex(from)?;
                let low = matches!(unit, 0xd800..0xdc00)
                    && self.text.as_bytes()[self.at..].starts_with(b"\\u");
                let code = if low {
                    self.at += 2;
                    let low = self.hex(from)?;
                    match low {
                        0xdc00..0xe000 => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                        _ => unit,
                    }
                } else {
                    unit
                };
                match char::from_u32(code) {
                    Some(c) => c,
                    None => return bad("not JSON: half of a character (a lone surrogate)"),
                }
            }
            _ => return bad("not JSON: there is no such escape"),
        })
    }

    fn hex(&mut self, from: usize) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| Error::new(from, "not JSON: \"\\u\" needs four digits"))?;
        self.at += 4;
        Ok(unit)
    }
}
