//! Sensor Measurement Lists (RFC 8428), resolved: base values filled in, names
//! whole, times absolute. One pack is one event.

use std::{borrow::Cow, sync::Arc};

use base64::Engine as _;

use super::Meaning;
use crate::{
    event::{Measurement, Quality, Timestamp, Value},
    normalise::{
        Class, Node, Normaliser, Reject,
        decode::{Fault, Float, Format, Lenient, quoted},
        measure::{self, NAME_BYTES_MAX},
        timestamp::{self, Said},
    },
};

/// The version that the RFC describes; later ones may mean something else.
const VERSION: i64 = 10;
/// Times below are relative to now (section 4.5.3): 2^28 seconds, in nanoseconds.
const RELATIVE_BELOW: i128 = (1 << 28) * 1_000_000_000;

/// Labels of CBOR (section 6), which the decoder gives as their digits.
const LABELS: [(&str, &str); 15] = [
    ("-1", "bver"),
    ("-2", "bn"),
    ("-3", "bt"),
    ("-4", "bu"),
    ("-5", "bv"),
    ("-6", "bs"),
    ("0", "n"),
    ("1", "u"),
    ("2", "v"),
    ("3", "vs"),
    ("4", "vb"),
    ("5", "s"),
    ("6", "t"),
    ("7", "ut"),
    ("8", "vd"),
];

/// What holds for the records that follow.
#[derive(Default)]
struct Base<'n> {
    name: &'n str,
    time: i128,
    /// One for all the records that have it.
    unit: Option<Arc<str>>,
    value: Option<&'n Node<'n>>,
    sum: Option<&'n Node<'n>>,
}

/// One record's fields, by their names in JSON.
#[derive(Default)]
struct Record<'n> {
    name: Option<&'n str>,
    unit: Option<Arc<str>>,
    value: Option<&'n Node<'n>>,
    text: Option<&'n str>,
    boolean: Option<bool>,
    data: Option<Cow<'n, [u8]>>,
    sum: Option<&'n Node<'n>>,
    time: Option<i128>,
    update: Option<&'n Node<'n>>,
}

/// When a record was measured.
#[derive(Clone, Copy, PartialEq)]
enum When {
    Now,
    Relative(Timestamp),
    Said(Said),
}

/// A whole pack.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    pack: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let message = of.message;
    let reader = Reader {
        labels: match of.format {
            Format::SenmlCbor => &LABELS,
            _ => &[],
        },
        lenient: of.mapping.lenient,
    };
    let Node::Array(records) = pack else {
        return Err(senml(format!("a pack is an array, not {}", pack.kind())));
    };
    let mut base = Base::default();
    let mut taken: Vec<(When, Measurement)> = Vec::with_capacity(records.len());
    let mut meaning = Meaning::default();
    for record in records {
        let record = reader.fields(record, &mut base)?;
        let value = match reader.content(&record, &base)? {
            Content::Base => continue,
            Content::Sum => None,
            Content::Value(value) => Some(value),
        };
        let name = name(&record, &base)?;
        let when = when(&record, &base, message.received);
        if when == When::Said(Said::Implausible) && meaning.tags.is_empty() {
            let nanos = base.time.saturating_add(record.time.unwrap_or(0));
            meaning
                .tags
                .push(("devicetime".into(), seconds(nanos).into()));
        }
        if let Some(update) = record.update {
            let text = crate::normalise::identity::text(update).unwrap_or_default();
            meaning
                .tags
                .push((format!("{name}.ut").into(), text.into()));
        }
        let unit = record.unit.or_else(|| base.unit.clone());
        let sum = record.sum.map(|sum| reader.plus(sum, base.sum));
        let sum = sum.transpose()?;
        let of = |name: &str, value, bad| Measurement {
            name: name.into(),
            value,
            unit: unit.clone(),
            quality: if bad { Quality::Bad } else { Quality::Good },
            time: None,
        };
        if let Some(value) = value {
            let bad = value == Value::Null;
            taken.push((when, of(&name, value, bad)));
        }
        if let Some(value) = sum {
            taken.push((when, of(&format!("{name}.sum"), value, false)));
        }
    }
    let Some((first, _)) = taken.first() else {
        return Err(senml("the pack has no values"));
    };
    meaning.relative = taken.iter().any(|(when, _)| !matches!(when, When::Said(_)));
    meaning.time = Some(match first {
        When::Now => Said::Nothing,
        When::Relative(at) => Said::Plausible {
            at: *at,
            fine: false,
        },
        When::Said(said) => match *said {
            Said::Plausible { at, fine } => Said::Plausible {
                at,
                fine: fine && !meaning.relative,
            },
            said => said,
        },
    });
    let at = |when: When| match when {
        When::Relative(at) | When::Said(Said::Plausible { at, .. }) => at,
        When::Now | When::Said(_) => message.received,
    };
    let own = at(*first);
    let measurements = taken.into_iter().map(|(when, measurement)| Measurement {
        time: Some(at(when)).filter(|at| *at != own),
        ..measurement
    });
    meaning.measurements = Some(measurements.collect());
    Ok(meaning)
}

/// What a record holds.
enum Content {
    /// Only what holds for those after it.
    Base,
    /// Only a sum.
    Sum,
    /// A value, and perhaps a sum.
    Value(Value),
}

/// How records are read.
struct Reader {
    /// Numbers of CBOR that stand for labels; in JSON a digit is no label.
    labels: &'static [(&'static str, &'static str)],
    lenient: Lenient,
}

impl Reader {
    fn fields<'n>(&self, record: &'n Node<'_>, base: &mut Base<'n>) -> Result<Record<'n>, Reject> {
        let Node::Map(members) = record else {
            return Err(senml(format!(
                "a record is an object, not {}",
                record.kind()
            )));
        };
        let mut fields = Record::default();
        let mut seen = Vec::with_capacity(members.len().min(LABELS.len()));
        for (label, node) in members {
            let known = self.labels.iter();
            let known = known.clone().find(|(digits, _)| *digits == label.as_ref());
            let label: &str = match known {
                Some((_, name)) => name,
                None => label,
            };
            // By its name, and once more by its number.
            if let Some((_, name)) = LABELS.iter().find(|(_, name)| *name == label) {
                if seen.contains(name) && !self.lenient.allows(Fault::DuplicateKeys) {
                    let reason = format!("the label {label:?} is there twice in one record");
                    return Err(Reject::new(Class::DuplicateKey, reason));
                }
                seen.push(name);
            }
            match label {
                "bver" => match node {
                    Node::Int(version) if (1..=VERSION).contains(version) => {}
                    _ => return Err(senml(format!("only version {VERSION} is known"))),
                },
                "bn" => base.name = text(label, node)?,
                "bt" => base.time = time(label, node)?,
                "bu" => base.unit = Some(measure::unit(text(label, node)?)?),
                "bv" => base.value = Some(number(label, node)?),
                "bs" => base.sum = Some(number(label, node)?),
                "n" => fields.name = Some(text(label, node)?),
                "u" => fields.unit = Some(measure::unit(text(label, node)?)?),
                "v" => fields.value = Some(number(label, node)?),
                "vs" => fields.text = Some(text(label, node)?),
                "vb" => match node {
                    Node::Bool(boolean) => fields.boolean = Some(*boolean),
                    _ => return Err(wrong(label, "a boolean", node)),
                },
                "vd" => fields.data = Some(data(node)?),
                "s" => fields.sum = Some(number(label, node)?),
                "t" => fields.time = Some(time(label, node)?),
                "ut" => fields.update = Some(number(label, node)?),
                // Who says so wants not to be understood by halves (section 4.4).
                _ if label.ends_with('_') => {
                    return Err(senml(format!(
                        "{} must be understood, and is not",
                        quoted(label)
                    )));
                }
                _ if !self.labels.is_empty()
                    && label.bytes().all(|b| b.is_ascii_digit() || b == b'-') =>
                {
                    return Err(senml(format!("label {} is not known", quoted(label))));
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn content(&self, record: &Record<'_>, base: &Base<'_>) -> Result<Content, Reject> {
        let values = [
            record.value.is_some(),
            record.text.is_some(),
            record.boolean.is_some(),
            record.data.is_some(),
        ];
        if values.iter().filter(|there| **there).count() > 1 {
            return Err(senml("a record has two values"));
        }
        let value = match record {
            Record { value: Some(v), .. } => Some(self.plus(v, base.value)?),
            Record {
                text: Some(text), ..
            } => Some(Value::Text((*text).to_owned())),
            Record {
                boolean: Some(b), ..
            } => Some(Value::Bool(*b)),
            Record {
                data: Some(data), ..
            } => Some(Value::Bytes(data.to_vec())),
            _ => None,
        };
        match (value, record.sum, record.name, base.value) {
            (Some(value), ..) => Ok(Content::Value(value)),
            (None, Some(_), ..) => Ok(Content::Sum),
            // The base value is the value.
            (None, None, Some(_), Some(value)) => Ok(Content::Value(value.to_value())),
            (None, None, None, _) if record.time.is_none() && record.unit.is_none() => {
                Ok(Content::Base)
            }
            _ => Err(senml("a record has neither a value nor a sum")),
        }
    }

    /// A number with another one added; integers stay exact, or do not fit.
    fn plus(&self, node: &Node<'_>, base: Option<&Node<'_>>) -> Result<Value, Reject> {
        let Some(base) = base else {
            return Ok(node.to_value());
        };
        let whole = |node: &Node<'_>| match node {
            Node::Int(n) => Some(i128::from(*n)),
            Node::UInt(n) => Some(i128::from(*n)),
            _ => None,
        };
        if let Some(sum) = whole(node).zip(whole(base)).map(|(a, b)| a + b) {
            let exact = i64::try_from(sum).map(Value::Int);
            let exact = exact.or_else(|_| u64::try_from(sum).map(Value::UInt));
            match exact {
                Ok(exact) => return Ok(exact),
                Err(_) if self.lenient.allows(Fault::BigIntegers) => {}
                Err(_) => {
                    let reason = "a value with its base value does not fit 64 bits";
                    return Err(Reject::new(Class::Range, reason));
                }
            }
        }
        let rounds = |node: &Node<'_>| !measure::is_exact(&node.to_value());
        if (rounds(node) || rounds(base)) && !self.lenient.allows(Fault::BigIntegers) {
            let reason = "a value and its base value have more digits than their sum can have";
            return Err(Reject::new(Class::Range, reason));
        }
        let both = measure::float(node).zip(measure::float(base));
        match both.map(|(a, b)| (a + b, a.is_finite() && b.is_finite())) {
            Some((sum, _)) if sum.is_finite() => Ok(Value::Float(sum)),
            Some((_, true)) if !self.lenient.allows(Fault::Nan) => {
                let reason = "a value with its base value is too large";
                Err(Reject::new(Class::Range, reason))
            }
            _ => Ok(Value::Null),
        }
    }
}

/// The name of a record (section 4.5.1).
fn name(record: &Record<'_>, base: &Base<'_>) -> Result<String, Reject> {
    let name = format!("{}{}", base.name, record.name.unwrap_or_default());
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '/' | '_');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(fine) {
        return Err(senml(format!("{} is not a name", quoted(&name))));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(measure::name_too_long());
    }
    Ok(name)
}

fn when(record: &Record<'_>, base: &Base<'_>, received: Timestamp) -> When {
    let nanos = base.time.saturating_add(record.time.unwrap_or(0));
    if nanos == 0 {
        return When::Now;
    }
    if nanos.abs() < RELATIVE_BELOW {
        let at = i128::from(received.as_nanos()) + nanos;
        return match timestamp::said(Some(at), false, received) {
            Said::Plausible { at, .. } => When::Relative(at),
            said => When::Said(said),
        };
    }
    When::Said(timestamp::said(
        Some(nanos),
        nanos % 1_000_000_000 != 0,
        received,
    ))
}

/// Nanoseconds as seconds, with all their digits.
fn seconds(nanos: i128) -> String {
    let (whole, rest) = (nanos / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{rest:09}", whole.unsigned_abs());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text<'n>(label: &str, node: &'n Node<'_>) -> Result<&'n str, Reject> {
    match node {
        Node::Text(text) => Ok(text),
        _ => Err(wrong(label, "text", node)),
    }
}

fn number<'n>(label: &str, node: &'n Node<'_>) -> Result<&'n Node<'n>, Reject> {
    match node {
        Node::Int(_) | Node::UInt(_) | Node::Float(_) => Ok(node),
        _ => Err(wrong(label, "a number", node)),
    }
}

fn time(label: &str, node: &Node<'_>) -> Result<i128, Reject> {
    if let Node::Float(Float { value, .. }) = node
        && !value.is_finite()
    {
        return Err(Reject::new(Class::Range, "a time is not a number"));
    }
    let node = number(label, node)?;
    timestamp::seconds(node)
        .ok_or_else(|| Reject::new(Class::Range, "a time is beyond all calendars"))
}

/// Bytes; in JSON as text (section 5.1), with or without padding.
fn data<'n>(node: &'n Node<'_>) -> Result<Cow<'n, [u8]>, Reject> {
    match node {
        Node::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
        Node::Text(text) => {
            let bare = text.trim_end_matches('=');
            base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(bare)
                .map(Cow::Owned)
                .map_err(|_| senml("\"vd\" is not base64 of URLs"))
        }
        _ => Err(wrong("vd", "data", node)),
    }
}

fn wrong(label: &str, wanted: &str, node: &Node<'_>) -> Reject {
    let reason = format!("{label:?} should be {wanted}, not {}", node.kind());
    Reject::new(Class::Senml, reason)
}

fn senml(reason: impl Into<Cow<'static, str>>) -> Reject {
    Reject::new(Class::Senml, reason)
}
