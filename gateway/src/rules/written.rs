//! Terms and values written out as JSON, for people.

use std::fmt;

use super::{
    decimal::Decimal,
    json::{Node, Value},
    term::{Range, Scalar, Term},
};

/// A text in quotes.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        crate::event::json::string(self.0, &mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => Quoted(text).fmt(f),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = |f: &mut fmt::Formatter<'_>, name: &str, text: &str| {
            write!(f, "{{\"{name}\":{}}}", Quoted(text))
        };
        let any_case = |f: &mut fmt::Formatter<'_>, name: &str, text: &str| {
            let text = Quoted(text);
            write!(f, "{{\"{name}\":{{\"equals-ignore-case\":{text}}}}}")
        };
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Address(address) => Quoted(&address.to_string()).fmt(f),
            Self::Prefix(text) => operator(f, "prefix", text),
            Self::Suffix(text) => operator(f, "suffix", text),
            Self::PrefixIgnoreCase(text) => any_case(f, "prefix", text.text()),
            Self::SuffixIgnoreCase(text) => any_case(f, "suffix", text.text()),
            Self::EqualsIgnoreCase(text) => operator(f, "equals-ignore-case", text.text()),
            Self::Wildcard(wildcard) => operator(f, "wildcard", &wildcard.to_string()),
            Self::Numeric(range) => range.fmt(f),
            Self::Cidr(range) => operator(f, "cidr", &range.to_string()),
            Self::Exists => f.write_str("{\"exists\":true}"),
            Self::Absent => f.write_str("{\"exists\":false}"),
            Self::AnythingBut(not) => anything_but(not, f),
        }
    }
}

/// Values stand in one list; other terms of one kind in one list of that operator.
fn anything_but(not: &[Term], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let plain = |term: &Term| {
        matches!(
            term,
            Term::Text(_) | Term::Number(_) | Term::Address(_) | Term::Null | Term::Bool(_)
        )
    };
    f.write_str("{\"anything-but\":")?;
    if not.iter().all(plain) {
        write!(f, "{}", List(not))?;
    } else if let [one] = not {
        write!(f, "{one}")?;
    } else {
        // Each is an object with one name: the names are the same, the values differ.
        let written: Vec<String> = not.iter().map(Term::to_string).collect();
        let parts = written.iter().map(|one| one.split_once(':'));
        let parts: Vec<_> = parts.map(|part| part.unwrap_or_default()).collect();
        let name = parts.first().map_or("", |(name, _)| name);
        let values: Vec<_> = parts
            .iter()
            .map(|(_, value)| value.strip_suffix('}').unwrap_or(value))
            .collect();
        write!(f, "{name}:[{}]}}", values.join(","))?;
    }
    f.write_str("}")
}

/// Terms in an array.
pub(super) struct List<'a>(pub(super) &'a [Term]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (n, term) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            term.fmt(f)?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"numeric\":[")?;
        match (&self.lower, &self.upper) {
            (Some((lower, true)), Some((upper, true))) if lower == upper => {
                write!(f, "\"=\",{lower}")?;
            }
            (lower, upper) => {
                if let Some((bound, within)) = lower {
                    write!(f, "\">{}\",{bound}", if *within { "=" } else { "" })?;
                }
                if lower.is_some() && upper.is_some() {
                    f.write_str(",")?;
                }
                if let Some((bound, within)) = upper {
                    write!(f, "\"<{}\",{bound}", if *within { "=" } else { "" })?;
                }
            }
        }
        f.write_str("]}")
    }
}

impl fmt::Display for Decimal {
    /// As a person would write it, without an exponent where that is not long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digits, point) = self.digits();
        if self.is_negative() {
            f.write_str("-")?;
        }
        let count = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or(0));
        match point {
            _ if digits.is_empty() => f.write_str("0"),
            point if (-5..=0).contains(&point) => write!(f, "0.{}{digits}", zeros(-point)),
            point if point >= count && point <= 21 => {
                write!(f, "{digits}{}", zeros(point - count))
            }
            point if point > 0 && point < count => {
                let (whole, rest) = digits.split_at(usize::try_from(point).unwrap_or(0));
                write!(f, "{whole}.{rest}")
            }
            point => {
                let (first, rest) = digits.split_at(1);
                let dot = if rest.is_empty() { "" } else { "." };
                write!(f, "{first}{dot}{rest}e{}", point.saturating_sub(1))
            }
        }
    }
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Number(text) => f.write_str(text),
            Value::Text(text) => Quoted(text).fmt(f),
            Value::Array(items) => {
                f.write_str("[")?;
                for (n, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if n > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Object(members) => {
                f.write_str("{")?;
                for (n, member) in members.iter().enumerate() {
                    let comma = if n > 0 { "," } else { "" };
                    write!(f, "{comma}{}:{}", Quoted(&member.name), member.node)?;
                }
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{json, pattern::Pattern};

    #[test]
    fn terms_are_written_as_patterns_have_them() {
        for terms in [
            r#"["a \"b\"",null,true,5]"#,
            r#"["10.0.0.1",{"exactly":"x"}]"#,
            r#"[{"prefix":"a"},{"suffix":"b"},{"equals-ignore-case":"C"}]"#,
            r#"[{"prefix":{"equals-ignore-case":"a"}},{"suffix":{"equals-ignore-case":"b"}}]"#,
            r#"[{"wildcard":"a*\\*\\\\*"}]"#,
            r#"[{"numeric":["=",5]},{"numeric":[">",1,"<=",2.5]},{"numeric":["<",-3]}]"#,
            r#"[{"cidr":"10.0.0.0/8"}]"#,
            r#"[{"exists":true},{"exists":false}]"#,
            r#"[{"anything-but":["a","b"]},{"anything-but":[5]}]"#,
            r#"[{"anything-but":{"prefix":"a"}},{"anything-but":{"suffix":["a","b"]}}]"#,
            r#"[{"anything-but":{"equals-ignore-case":["a","b"]}}]"#,
        ] {
            let pattern = Pattern::parse(&format!("{{\"f\":{terms}}}")).unwrap();
            let written = List(&pattern.alternatives[0].fields[0].terms).to_string();
            let again = Pattern::parse(&format!("{{\"f\":{written}}}")).unwrap();
            assert_eq!(again, pattern, "{terms} {written}");
        }
    }

    proptest! {
        #[test]
        fn a_number_that_is_written_reads_as_itself(
            text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?(e[+-]?[0-9]{1,4})?",
        ) {
            let number = Decimal::parse(&text).unwrap();
            let written = number.to_string();
            prop_assert!(json::parse(&written).is_ok(), "{written}");
            prop_assert_eq!(Decimal::parse(&written), Some(number), "{} {}", text, written);
        }
    }
}
