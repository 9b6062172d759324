//! JSON (RFC 8259), strict: nothing that the grammar does not know, no byte order
//! mark, no name twice in one object, no integer outside 64 bits.

use std::borrow::Cow;

use super::{Budget, Class, Fault, Float, Lenient, Members, Node, Reject, distinct};

/// Decodes one JSON text.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let text = super::utf8(payload)?;
    let mut parser = Parser {
        text,
        bytes: payload,
        at: 0,
        budget: Budget::new(lenient),
    };
    parser.skip_space();
    let node = parser.value(0)?;
    parser.skip_space();
    if parser.at < payload.len() && !lenient.allows(Fault::TrailingBytes) {
        return Err(parser.syntax("something follows the end of the JSON text"));
    }
    Ok(node)
}

/// The end of the number that begins `bytes`, and whether it is an integer, by the
/// grammar of JSON numbers.
pub(super) fn number_literal(bytes: &[u8]) -> Option<(usize, bool)> {
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .position(|b| !b.is_ascii_digit())
            .map_or(bytes.len(), |n| from + n)
    };
    let start = usize::from(bytes.first() == Some(&b'-'));
    let mut end = digits(start);
    if end == start || (bytes[start] == b'0' && end > start + 1) {
        return None;
    }
    let mut integer = true;
    if bytes.get(end) == Some(&b'.') {
        let fraction = end + 1;
        end = digits(fraction);
        if end == fraction {
            return None;
        }
        integer = false;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = bytes.get(exponent).map_or(exponent, |_| digits(exponent));
        if end == exponent {
            return None;
        }
        integer = false;
    }
    Some((end, integer))
}

/// The value of a literal that [`number_literal`] found.
pub(super) fn number(literal: &str, integer: bool, lenient: Lenient) -> Result<Node<'_>, Reject> {
    if integer {
        // "-0" is the integer 0; there is no integer with a sign of its own.
        let exact = literal
            .parse::<i64>()
            .map(Node::Int)
            .or_else(|_| literal.parse::<u64>().map(Node::UInt));
        if let Ok(node) = exact {
            return Ok(node);
        }
        if !lenient.allows(Fault::BigIntegers) {
            return Err(beyond_64_bits());
        }
    }
    match literal.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Node::Float(Float {
            value,
            literal: Some(literal.into()),
        })),
        _ if lenient.allows(Fault::Nan) => Ok(NAN),
        _ => Err(too_large()),
    }
}

/// What stands for no number.
pub(super) const NAN: Node<'static> = Node::Float(Float {
    value: f64::NAN,
    literal: None,
});

pub(super) fn beyond_64_bits() -> Reject {
    Reject::new(Class::Range, "an integer does not fit 64 bits")
}

pub(super) fn too_large() -> Reject {
    Reject::new(Class::Range, "a number is too large")
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    budget: Budget,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Reject> {
        self.budget.take()?;
        match self.peek() {
            Some(b'{') => self.object(self.budget.enter(depth)?),
            Some(b'[') => self.array(self.budget.enter(depth)?),
            Some(b'"') => self.string().map(Node::Text),
            Some(b't') => self.word("true", Node::Bool(true)),
            Some(b'f') => self.word("false", Node::Bool(false)),
            Some(b'n') => self.word("null", Node::Null),
            Some(b'N') if self.takes(Fault::Nan) => self.word("NaN", NAN),
            Some(b'I') if self.takes(Fault::Nan) => self.word("Infinity", NAN),
            Some(b'-') if self.takes(Fault::Nan) && self.bytes.get(self.at + 1) == Some(&b'I') => {
                self.word("-Infinity", NAN)
            }
            Some(b'-' | b'0'..=b'9') => {
                let rest = &self.bytes[self.at..];
                let (length, integer) =
                    number_literal(rest).ok_or_else(|| self.syntax("not a JSON number"))?;
                let literal = &self.text[self.at..self.at + length];
                self.at += length;
                number(literal, integer, self.budget.lenient)
            }
            Some(_) => Err(self.syntax("a value should begin here")),
            None => Err(self.syntax("the JSON text ends early")),
        }
    }

    const fn takes(&self, fault: Fault) -> bool {
        self.budget.lenient.allows(fault)
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, Reject> {
        self.at += 1;
        let mut members: Members<'a> = Vec::new();
        self.skip_space();
        if self.eat(b'}') {
            return Ok(Node::Map(members));
        }
        members.reserve(8);
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.syntax("a name in quotes should be here"));
            }
            let name = self.string()?;
            self.skip_space();
            if !self.eat(b':') {
                return Err(self.syntax("a colon should be here"));
            }
            self.skip_space();
            members.push((name, self.value(depth)?));
            self.skip_space();
            if self.eat(b'}') {
                distinct(&mut members, self.budget.lenient)?;
                return Ok(Node::Map(members));
            }
            if !self.eat(b',') {
                return Err(self.syntax("a comma or the end of the object should be here"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, Reject> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.eat(b']') {
            return Ok(Node::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth)?);
            self.skip_space();
            if self.eat(b']') {
                return Ok(Node::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.syntax("a comma or the end of the array should be here"));
            }
        }
    }

    /// A string, its opening quote under the cursor; borrowed unless it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, Reject> {
        self.at += 1;
        let mut unescaped = String::new();
        let mut plain_from = self.at;
        loop {
            let rest = &self.bytes[self.at..];
            let stop = rest
                .iter()
                .position(|b| *b < 0x20 || *b == b'"' || *b == b'\\');
            let Some(stop) = stop else {
                self.at = self.bytes.len();
                return Err(self.syntax("a string does not end"));
            };
            self.at += stop;
            // Both ends are next to ASCII bytes, so they are character boundaries.
            let plain = &self.text[plain_from..self.at];
            match rest[stop] {
                b'"' => {
                    self.at += 1;
                    if unescaped.is_empty() {
                        return Ok(Cow::Borrowed(plain));
                    }
                    unescaped.push_str(plain);
                    return Ok(Cow::Owned(unescaped));
                }
                b'\\' => {
                    unescaped.push_str(plain);
                    self.at += 1;
                    unescaped.push(self.escape()?);
                    plain_from = self.at;
                }
                _ => return Err(self.syntax("a control character in a string is not escaped")),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, Reject> {
        let escape = self.peek();
        self.at += 1;
        Ok(match escape {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.syntax("not an escape that JSON knows"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, Reject> {
        let lone = || {
            Reject::new(
                Class::Encoding,
                "half of a surrogate pair is not a character",
            )
        };
        let lone = |parser: &Self| match parser.takes(Fault::InvalidUtf8) {
            true => Ok(char::REPLACEMENT_CHARACTER),
            false => Err(lone()),
        };
        let first = self.four_hex_digits()?;
        let code = match first {
            0xd800..=0xdbff => {
                let after = self.at;
                if !(self.eat(b'\\') && self.eat(b'u')) {
                    self.at = after;
                    return lone(self);
                }
                let second = self.four_hex_digits()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    // A character of its own, or another half.
                    self.at = after;
                    return lone(self);
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        char::from_u32(code).map_or_else(|| lone(self), Ok)
    }

    fn four_hex_digits(&mut self) -> Result<u32, Reject> {
        let digits = self.bytes.get(self.at..self.at + 4).unwrap_or_default();
        let code = digits
            .iter()
            .try_fold(0, |code, byte| {
                Some(code * 16 + char::from(*byte).to_digit(16)?)
            })
            .filter(|_| digits.len() == 4)
            .ok_or_else(|| self.syntax("four hexadecimal digits should be here"))?;
        self.at += 4;
        Ok(code)
    }

    fn word(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, Reject> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(node)
        } else {
            Err(self.syntax("a value should begin here"))
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn syntax(&self, what: &str) -> Reject {
        Reject::new(Class::Syntax, format!("{what} (byte {})", self.at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::ELEMENTS_MAX, *};

    fn class(text: &str) -> Result<(), &'static str> {
        decode(text.as_bytes(), Lenient::STRICT)
            .map(|_| ())
            .map_err(|reject| reject.class.as_str())
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "{",
            "[",
            "]",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "NaN",
            "-Infinity",
            "nul",
            "tru",
            "truex",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "1 2",
            "{} {}",
            "\u{feff}{}",
            "[1 2]",
            "'a'",
            "/**/1",
            " ",
        ] {
            assert_eq!(class(text), Err("syntax"), "{text}");
        }
    }

    #[test]
    fn names_that_repeat_are_refused_also_when_escaped_and_in_large_objects() {
        assert_eq!(class(r#"{"a":1,"\u0061":2}"#), Err("duplicate_key"));
        assert_eq!(class(r#"{"a":1,"b":{"a":2}}"#), Ok(()));
        let members: Vec<String> = (0..300).map(|n| format!("\"m{n}\":{n}")).collect();
        assert_eq!(class(&format!("{{{}}}", members.join(","))), Ok(()));
        assert_eq!(
            class(&format!("{{{},\"m7\":0}}", members.join(","))),
            Err("duplicate_key")
        );
    }

    #[test]
    fn integers_stay_exact_or_are_refused() {
        for (text, node) in [
            ("0", Node::Int(0)),
            ("-0", Node::Int(0)),
            ("9223372036854775807", Node::Int(i64::MAX)),
            ("-9223372036854775808", Node::Int(i64::MIN)),
            ("9223372036854775808", Node::UInt(1 << 63)),
            ("18446744073709551615", Node::UInt(u64::MAX)),
        ] {
            assert_eq!(
                decode(text.as_bytes(), Lenient::STRICT).unwrap(),
                node,
                "{text}"
            );
        }
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "1e999",
            "-1e999",
        ] {
            assert_eq!(class(text), Err("range"), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_unicode_is_refused() {
        assert_eq!(
            decode(b"\"\xff\"", Lenient::STRICT).unwrap_err().class,
            Class::Encoding
        );
        for text in [
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
            r#""\ud800x""#,
        ] {
            assert_eq!(class(text), Err("encoding"), "{text}");
        }
        let smile = decode(br#""\ud83d\ude00""#, Lenient::STRICT).unwrap();
        assert_eq!(smile, Node::Text("😀".into()));
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(class(&nested(64)), Ok(()));
        assert_eq!(class(&nested(65)), Err("limit"));
        assert_eq!(class(&"[".repeat(100_000)), Err("limit"));
        let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert_eq!(class(&many(ELEMENTS_MAX - 1)), Ok(()));
        assert_eq!(class(&many(ELEMENTS_MAX)), Err("limit"));
    }

    fn same(ours: &Node<'_>, theirs: &serde_json::Value) -> bool {
        match (ours, theirs) {
            (Node::Null, serde_json::Value::Null) => true,
            (Node::Bool(a), serde_json::Value::Bool(b)) => a == b,
            (Node::Int(a), serde_json::Value::Number(b)) => {
                // serde_json makes a float of "-0".
                b.as_i64() == Some(*a) || (*a == 0 && b.as_f64() == Some(0.0))
            }
            (Node::UInt(a), serde_json::Value::Number(b)) => b.as_u64() == Some(*a),
            (Node::Float(a), serde_json::Value::Number(b)) => {
                b.as_f64().is_some_and(|b| a.value.to_bits() == b.to_bits())
            }
            (Node::Text(a), serde_json::Value::String(b)) => a == b,
            (Node::Array(a), serde_json::Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Node::Map(a), serde_json::Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(name, a)| b.get(name.as_ref()).is_some_and(|b| same(a, b)))
            }
            _ => false,
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::hash_map(any::<String>(), inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_back(value in value(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let node = decode(text.as_bytes(), Lenient::STRICT).unwrap();
            prop_assert!(same(&node, &value), "{text}: {node:?}");
        }

        #[test]
        fn nothing_is_taken_that_serde_json_refuses_and_only_known_things_are_refused(
            text in r#"([\[\]{}:,"\\0-9.eE+\-ntfu a-c]|true|null|\\u[0-9a-f]{4}|"a"|"b":|é){0,24}"#,
        ) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match (decode(text.as_bytes(), Lenient::STRICT), theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert!(same(&ours, &theirs), "{text}"),
                (Ok(ours), Err(error)) => prop_assert!(false, "{text}: we read {ours:?}, but {error}"),
                (Err(reject), Ok(_)) => prop_assert!(
                    matches!(reject.class, Class::DuplicateKey | Class::Range | Class::Limit), "{text}: {reject}"
                ),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
