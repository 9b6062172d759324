//! The terms of a field: values and operators.

use crate::rules::{
    address::{self, Cidr},
    decimal::Decimal,
    ignore_case::IgnoreCase,
    json::{Error, Member, Node, Value},
    term::{Range, Term},
    wildcard::Wildcard,
};

const OPERATORS: &str =
    "exists, prefix, suffix, equals-ignore-case, wildcard, numeric, cidr, anything-but and exactly";

/// The terms in an array.
pub(super) fn terms(at: usize, items: &[Node<'_>]) -> Result<Vec<Term>, Error> {
    if items.is_empty() {
        return Err(Error::new(
            at,
            "an empty array fits nothing; for a field that is not there write [{\"exists\": false}]",
        ));
    }
    items.iter().map(term).collect()
}

fn term(node: &Node<'_>) -> Result<Term, Error> {
    match &node.value {
        Value::Null => Ok(Term::Null),
        Value::Bool(value) => Ok(Term::Bool(*value)),
        Value::Number(text) => number(node.at, text).map(Term::Number),
        Value::Text(text) => Ok(match address::literal(text) {
            Some(address) => Term::Address(address),
            None => Term::Text(text.as_ref().into()),
        }),
        Value::Object(members) => operator(node.at, members),
        Value::Array(_) => Err(Error::new(
            node.at,
            "an array within an array; a value is a text, a number, true, false, null or an operator",
        )),
    }
}

/// The one member of an object with a single name.
fn single<'m, 'a>(at: usize, members: &'m [Member<'a>]) -> Result<&'m Member<'a>, Error> {
    match members {
        [one] => Ok(one),
        [] => Err(Error::new(
            at,
            format!("an empty object is no operator; known are {OPERATORS}"),
        )),
        [_, second, ..] => Err(Error::new(
            second.at,
            "one operator in each object; put others in objects of their own beside it",
        )),
    }
}

fn operator(at: usize, members: &[Member<'_>]) -> Result<Term, Error> {
    let Member { at, name, node } = single(at, members)?;
    match &**name {
        "exactly" => text(name, node).map(|text| Term::Text(text.into())),
        "prefix" => affix(name, node, Term::Prefix, Term::PrefixIgnoreCase),
        "suffix" => affix(name, node, Term::Suffix, Term::SuffixIgnoreCase),
        "equals-ignore-case" => text(name, node).map(ignore_case),
        "wildcard" => text(name, node).and_then(|text| wildcard(node.at, text)),
        "exists" => match node.value {
            Value::Bool(true) => Ok(Term::Exists),
            Value::Bool(false) => Ok(Term::Absent),
            ref other => Err(wrong(node.at, name, "true or false", other)),
        },
        "cidr" => {
            let range = Cidr::parse(text(name, node)?);
            range
                .map(Term::Cidr)
                .map_err(|what| Error::new(node.at, what))
        }
        "numeric" => numeric(node).map(Term::Numeric),
        "anything-but" => anything_but(node).map(|not| Term::AnythingBut(not.into())),
        _ => Err(Error::new(
            *at,
            format!("{name:?} is no operator; known are {OPERATORS}"),
        )),
    }
}

fn wrong(at: usize, name: &str, wanted: &str, found: &Value<'_>) -> Error {
    Error::new(at, format!("{name:?} takes {wanted}, not {}", found.kind()))
}

fn text<'n>(name: &str, node: &'n Node<'_>) -> Result<&'n str, Error> {
    match &node.value {
        Value::Text(text) => Ok(text),
        other => Err(wrong(node.at, name, "a text", other)),
    }
}

fn ignore_case(text: &str) -> Term {
    Term::EqualsIgnoreCase(IgnoreCase::new(text))
}

fn wildcard(at: usize, text: &str) -> Result<Term, Error> {
    let parsed = Wildcard::parse(text);
    parsed
        .map(Term::Wildcard)
        .map_err(|what| Error::new(at, what))
}

/// The beginning or end of a text, as it is or in any case.
fn affix(
    name: &str,
    node: &Node<'_>,
    exact: fn(Box<str>) -> Term,
    any_case: fn(IgnoreCase) -> Term,
) -> Result<Term, Error> {
    match &node.value {
        Value::Text(text) => Ok(exact(text.as_ref().into())),
        Value::Object(members) => {
            let inner = single(node.at, members)?;
            if inner.name != "equals-ignore-case" {
                let what = format!("{name:?} takes a text, or {{\"equals-ignore-case\": a text}}");
                return Err(Error::new(inner.at, what));
            }
            text(&inner.name, &inner.node).map(|text| any_case(IgnoreCase::new(text)))
        }
        other => Err(wrong(
            node.at,
            name,
            "a text, or {\"equals-ignore-case\": a text}",
            other,
        )),
    }
}

fn number(at: usize, text: &str) -> Result<Decimal, Error> {
    let number = Decimal::parse(text).filter(Decimal::is_in_reach);
    number.ok_or_else(|| Error::new(at, "the power of ten is larger than any that is compared"))
}

fn numeric(node: &Node<'_>) -> Result<Range, Error> {
    const FORM: &str = "one comparison, such as [\">\", 5], or a lower and an upper one, such as [\">=\", 0, \"<\", 100]";
    let Value::Array(items) = &node.value else {
        return Err(wrong(node.at, "numeric", FORM, &node.value));
    };
    let mut comparisons = items.chunks(2).map(comparison);
    let Some(first) = comparisons.next() else {
        return Err(Error::new(node.at, format!("\"numeric\" takes {FORM}")));
    };
    let (operator, bound) = first?;
    let upper = match (operator, comparisons.next()) {
        ("=", None) => {
            return Ok(Range {
                lower: Some((bound.clone(), true)),
                upper: Some((bound, true)),
            });
        }
        ("<" | "<=", None) => {
            return Ok(Range {
                lower: None,
                upper: Some((bound, operator == "<=")),
            });
        }
        (_, None) => None,
        (">" | ">=", Some(second)) => match second? {
            ("<", upper) => Some((upper, false)),
            ("<=", upper) => Some((upper, true)),
            _ => return Err(Error::new(items[2].at, format!("\"numeric\" takes {FORM}"))),
        },
        (_, Some(_)) => {
            return Err(Error::new(items[0].at, format!("\"numeric\" takes {FORM}")));
        }
    };
    if let Some(third) = items.get(4) {
        return Err(Error::new(third.at, format!("\"numeric\" takes {FORM}")));
    }
    if upper.as_ref().is_some_and(|(upper, _)| bound >= *upper) {
        let what = "the lower number should be less than the upper one";
        return Err(Error::new(items[1].at, what));
    }
    Ok(Range {
        lower: Some((bound, operator == ">=")),
        upper,
    })
}

/// An operator and its number.
fn comparison(pair: &[Node<'_>]) -> Result<(&'static str, Decimal), Error> {
    let unknown = |node: &Node<'_>| Error::new(node.at, "a comparison is one of = < <= > >=");
    let Value::Text(name) = &pair[0].value else {
        return Err(unknown(&pair[0]));
    };
    let known = ["=", "<", "<=", ">", ">="];
    let operator = known.into_iter().find(|known| known == name);
    let operator = operator.ok_or_else(|| unknown(&pair[0]))?;
    match pair.get(1) {
        Some(Node {
            at,
            value: Value::Number(text),
        }) => Ok((operator, number(*at, text)?)),
        Some(other) => Err(Error::new(
            other.at,
            format!(
                "a number should follow {operator:?}, not {}",
                other.value.kind()
            ),
        )),
        None => Err(Error::new(
            pair[0].at,
            format!("a number should follow {operator:?}"),
        )),
    }
}

/// What a value must not be.
fn anything_but(node: &Node<'_>) -> Result<Vec<Term>, Error> {
    match &node.value {
        Value::Text(_) | Value::Number(_) => one(node).map(|term| vec![term]),
        Value::Array(items) => {
            let terms: Vec<_> = items.iter().map(one).collect::<Result<_, _>>()?;
            let is_text = |node: &Node<'_>| matches!(node.value, Value::Text(_));
            let Some(first) = items.first() else {
                return Err(Error::new(
                    node.at,
                    "\"anything-but\" of nothing; name a value",
                ));
            };
            match items.iter().find(|item| is_text(item) != is_text(first)) {
                Some(other) => Err(Error::new(
                    other.at,
                    "\"anything-but\" takes either texts or numbers, not both",
                )),
                None => Ok(terms),
            }
        }
        Value::Object(members) => within_anything_but(node.at, members),
        other => Err(wrong(
            node.at,
            "anything-but",
            "a text, a number, a list of either, or an operator",
            other,
        )),
    }
}

/// A text or number as it is; addresses are texts here.
fn one(node: &Node<'_>) -> Result<Term, Error> {
    match &node.value {
        Value::Text(text) => Ok(Term::Text(text.as_ref().into())),
        Value::Number(text) => number(node.at, text).map(Term::Number),
        other => Err(Error::new(
            node.at,
            format!(
                "\"anything-but\" has texts or numbers in its list, not {}",
                other.kind()
            ),
        )),
    }
}

fn within_anything_but(at: usize, members: &[Member<'_>]) -> Result<Vec<Term>, Error> {
    let Member { at, name, node } = single(at, members)?;
    let term = |node: &Node<'_>| {
        let text = text(name, node)?;
        if text.is_empty() && matches!(&**name, "prefix" | "suffix") {
            let what = format!("every text has an empty {name}, so nothing would fit");
            return Err(Error::new(node.at, what));
        }
        match &**name {
            "prefix" => Ok(Term::Prefix(text.into())),
            "suffix" => Ok(Term::Suffix(text.into())),
            "equals-ignore-case" => Ok(ignore_case(text)),
            "wildcard" => wildcard(node.at, text),
            _ => Err(Error::new(
                *at,
                format!(
                    "{name:?} is no operator of \"anything-but\"; known are prefix, suffix, equals-ignore-case and wildcard"
                ),
            )),
        }
    };
    // An unknown operator is said first, whatever it is given.
    let known = ["prefix", "suffix", "equals-ignore-case", "wildcard"].contains(&&**name);
    match &node.value {
        Value::Array(items) if known && items.is_empty() => Err(Error::new(
            node.at,
            format!("{name:?} of nothing; name a text"),
        )),
        Value::Array(items) if known => items.iter().map(term).collect(),
        Value::Text(_) => term(node).map(|term| vec![term]),
        _ if known => Err(wrong(
            node.at,
            name,
            "a text or a list of texts",
            &node.value,
        )),
        _ => Err(Error::new(
            *at,
            format!(
                "{name:?} is no operator of \"anything-but\"; known are prefix, suffix, equals-ignore-case and wildcard"
            ),
        )),
    }
}
