//! One bare value: a number, `true`, `false`, or text.

use std::borrow::Cow;

use super::{Class, Fault, Float, Lenient, Node, Reject, json};

/// Decodes a scalar. White space around it is not part of it.
pub(super) fn decode(payload: &[u8], lenient: Lenient) -> Result<Node<'_>, Reject> {
    let text = super::utf8(payload)?;
    match text.trim_ascii() {
        "" => Err(empty()),
        "true" => Ok(Node::Bool(true)),
        "false" => Ok(Node::Bool(false)),
        // "007" is a name, not seven: what JSON would not call a number stays text.
        text if lenient.allows(Fault::Nan) && is_no_number(text) => Ok(json::NAN),
        text if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')) => strict(
            text.strip_prefix('+')
                .filter(|text| !text.starts_with('-'))
                .unwrap_or(text),
            lenient,
        )
        .unwrap_or(Ok(Node::Text(Cow::Borrowed(text)))),
        text => Ok(Node::Text(Cow::Borrowed(text))),
    }
}

/// The same where the mapping says that it is text: "+49" is not 49 then.
pub(in crate::normalise) fn text(payload: &[u8]) -> Result<Node<'_>, Reject> {
    match super::utf8(payload)?.trim_ascii() {
        "" => Err(empty()),
        text => Ok(Node::Text(Cow::Borrowed(text))),
    }
}

fn empty() -> Reject {
    Reject::new(Class::Empty, "the payload is only white space")
}

/// The number that a text spells, for a mapping that says it is one: with a sign,
/// leading zeros, nothing on one side of the point, and the words for "no number".
/// `None` where it is something else.
pub fn number(text: &str, lenient: Lenient) -> Option<Result<Node<'_>, Reject>> {
    let text = text.trim_ascii();
    if is_no_number(text) {
        return Some(Ok(json::NAN));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let signed = if text.starts_with('+') {
        unsigned
    } else {
        text
    };
    if let Some(number) = strict(signed, lenient) {
        return Some(number);
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let exact = signed.parse().map(Node::Int);
        match exact.or_else(|_| signed.parse().map(Node::UInt)) {
            Ok(exact) => return Some(Ok(exact)),
            Err(_) if lenient.allows(Fault::BigIntegers) => {}
            Err(_) => return Some(Err(json::beyond_64_bits())),
        }
    }
    let value = text.parse::<f64>().ok()?;
    Some(match value.is_finite() {
        true => Ok(Node::Float(Float {
            value,
            literal: None,
        })),
        false if lenient.allows(Fault::Nan) => Ok(json::NAN),
        false => Err(json::too_large()),
    })
}

/// Whether a text is a word for "no number", or for an infinity.
fn is_no_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    ["nan", "inf", "infinity"]
        .iter()
        .any(|word| unsigned.eq_ignore_ascii_case(word))
}

fn strict(text: &str, lenient: Lenient) -> Option<Result<Node<'_>, Reject>> {
    match json::number_literal(text.as_bytes()) {
        Some((length, integer)) if length == text.len() => {
            Some(json::number(text, integer, lenient))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_numbers_words_and_text_apart() {
        let text = |text: &'static str| Node::Text(text.into());
        for (payload, node) in [
            ("21", Node::Int(21)),
            (" -7\r\n", Node::Int(-7)),
            ("+5", Node::Int(5)),
            ("18446744073709551615", Node::UInt(u64::MAX)),
            ("true", Node::Bool(true)),
            ("false ", Node::Bool(false)),
            ("True", text("True")),
            ("ON", text("ON")),
            ("21,5", text("21,5")),
            ("007", text("007")),
            ("+", text("+")),
            ("++5", text("++5")),
            ("+-5", text("+-5")),
            ("2026-03-01", text("2026-03-01")),
            ("nan", text("nan")),
            ("1e", text("1e")),
            ("\u{e9}", text("\u{e9}")),
        ] {
            assert_eq!(
                decode(payload.as_bytes(), Lenient::STRICT),
                Ok(node),
                "{payload:?}"
            );
        }
        assert!(
            matches!(decode(b"21.5", Lenient::STRICT), Ok(Node::Float(x)) if x.value == 21.5 && x.literal.as_deref() == Some("21.5"))
        );
    }

    #[test]
    fn refuses_what_is_nothing_or_no_text_or_too_large() {
        for (payload, class) in [
            (&b" \n"[..], Class::Empty),
            (b"\xff", Class::Encoding),
            (b"99999999999999999999", Class::Range),
            (b"1e999", Class::Range),
        ] {
            assert_eq!(
                decode(payload, Lenient::STRICT).unwrap_err().class,
                class,
                "{payload:?}"
            );
        }
    }

    #[test]
    fn a_mapping_that_says_number_may_read_more() {
        for (text, node) in [
            ("007", Some(Node::Int(7))),
            ("+1", Some(Node::Int(1))),
            ("0", Some(Node::Int(0))),
            ("-007", Some(Node::Int(-7))),
            ("000", Some(Node::Int(0))),
            ("+000", Some(Node::Int(0))),
            ("018446744073709551615", Some(Node::UInt(u64::MAX))),
        ] {
            assert_eq!(
                number(text, Lenient::STRICT).map(Result::unwrap),
                node,
                "{text}"
            );
        }
        for (text, value) in [
            ("00.5", 0.5),
            (".5", 0.5),
            ("-.5", -0.5),
            ("+5.", 5.0),
            ("-00.25e1", -2.5),
            ("1.e3", 1000.0),
        ] {
            assert!(
                matches!(number(text, Lenient::STRICT), Some(Ok(Node::Float(x))) if x.value == value),
                "{text}"
            );
        }
        for text in [
            "-099999999999999999999",
            "0999999999999999999999",
            "01e400",
            ".1e999",
        ] {
            let reject = number(text, Lenient::STRICT).and_then(Result::err);
            assert_eq!(reject.map(|r| r.class), Some(Class::Range), "{text}");
        }
        for text in ["NaN", "-inf", "Infinity"] {
            assert!(
                matches!(number(text, Lenient::STRICT), Some(Ok(Node::Float(x))) if x.value.is_nan()),
                "{text}"
            );
        }
        for text in [
            "", "21,5", "ten", "+-1", "+", "0x10", "1_000", ".", "-.", ".e1", "1.2.3", "01e",
            "1e5.5", "e5", "0e+-1", "1 2",
        ] {
            assert!(number(text, Lenient::STRICT).is_none(), "{text}");
        }
    }
}
