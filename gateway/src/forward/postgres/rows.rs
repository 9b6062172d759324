//! Events as rows: for each column of [`schema`](super::schema) an array of its values.
//!
//! Neither `text` nor `jsonb` can have U+0000, which JSON of devices may: it is written as
//! U+2400, the symbol for it. Times have microseconds there; what is finer is in the event's
//! own JSON, or cut off in rows of measurements.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::config::Layout;
use crate::{
    event::{CborError, Event, Key, Measurement, Timestamp, Value, json},
    forward::batch::Item,
};

/// What is written for U+0000.
const NUL: &str = "\u{2400}";
/// Integers up to this, and no others, are exact in a double.
const EXACT_MAX: u64 = 1 << f64::MANTISSA_DIGITS;

/// What a row takes beside its texts, about.
const ROW_BYTES: usize = 128;

/// The columns of some rows, each an array with the type that it has on the wire.
pub(super) type Columns = Vec<(Box<dyn ToSql + Sync + Send>, Type)>;

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Event(#[from] CborError),
    /// Rows of measurements repeat what their event says once.
    #[error("rows of {bytes} bytes, above the {bytes_max} that are made at once")]
    TooLarge { bytes: usize, bytes_max: usize },
}

/// The rows of some events, of `bytes_max` bytes in all, about.
pub(super) fn of(items: &[Item], layout: Layout, bytes_max: usize) -> Result<Columns, Error> {
    match layout {
        Layout::Event => Ok(of_events(items)),
        Layout::Measurement => of_measurements(items, bytes_max),
    }
}

fn of_events(items: &[Item]) -> Columns {
    let mut rows = Rows::with_capacity(items.len());
    let mut events = Vec::with_capacity(items.len());
    for item in items {
        let view = item.view();
        let attributes = &view.attributes;
        rows.delivery_keys.push(uuid(attributes.delivery_key()));
        rows.keys.push(uuid(attributes.key));
        rows.corrected.push(attributes.corrected.map(instant));
        rows.times.push(instant(attributes.time));
        rows.received.push(instant(attributes.received));
        rows.devices.push(plain(attributes.device).into_owned());
        rows.sites
            .push(attributes.site.map(|site| plain(site).into_owned()));
        rows.kinds.push(plain(attributes.kind).into_owned());
        let mut text = Vec::with_capacity(512);
        view.to_json(None, &mut text);
        events.push(plain_json(text));
    }
    let mut columns = rows.into_columns();
    columns.push((Box::new(events), Type::TEXT_ARRAY));
    columns
}

fn of_measurements(items: &[Item], bytes_max: usize) -> Result<Columns, Error> {
    let mut rows = Rows::with_capacity(items.len());
    let mut values = Values::default();
    let mut numbers: Vec<i32> = Vec::with_capacity(items.len());
    let mut bytes = 0_usize;
    for item in items {
        let event = item.record().event()?;
        let tags = tags(&event);
        // Before any of it is made: a message may have thousands of values, and tags of
        // almost its size.
        let repeated = ROW_BYTES
            + event.device.len()
            + event.site.as_ref().map_or(0, |site| site.len())
            + event.kind.len()
            + tags.as_ref().map_or(0, String::len);
        let rows_bytes = repeated.saturating_mul(event.measurements.len().max(1));
        bytes = bytes
            .saturating_add(rows_bytes)
            .saturating_add(item.record().body.len());
        if bytes > bytes_max {
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        let mut measurements = event.measurements.iter().map(Some).collect::<Vec<_>>();
        if measurements.is_empty() {
            // It was there, and says so in a row without a name.
            measurements.push(None);
        }
        for (n, measurement) in (0..).zip(measurements) {
            numbers.push(n);
            rows.push(&event, measurement.and_then(|one| one.time));
            values.push(tags.as_deref(), measurement);
        }
    }
    let mut columns = rows.into_columns();
    columns.insert(1, (Box::new(numbers), Type::INT4_ARRAY));
    columns.extend(values.into_columns());
    Ok(columns)
}

/// The columns that rows of both layouts have.
struct Rows {
    delivery_keys: Vec<Uuid>,
    keys: Vec<Uuid>,
    corrected: Vec<Option<SystemTime>>,
    times: Vec<SystemTime>,
    received: Vec<SystemTime>,
    devices: Vec<String>,
    sites: Vec<Option<String>>,
    kinds: Vec<String>,
}

impl Rows {
    fn with_capacity(count: usize) -> Self {
        Self {
            delivery_keys: Vec::with_capacity(count),
            keys: Vec::with_capacity(count),
            corrected: Vec::with_capacity(count),
            times: Vec::with_capacity(count),
            received: Vec::with_capacity(count),
            devices: Vec::with_capacity(count),
            sites: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
        }
    }

    /// A row of an event, with another time than its own.
    fn push(&mut self, event: &Event, time: Option<Timestamp>) {
        self.delivery_keys
            .push(uuid(event.attributes().delivery_key()));
        self.keys.push(uuid(event.key));
        self.corrected.push(event.corrected.map(instant));
        self.times.push(instant(time.unwrap_or(event.time)));
        self.received.push(instant(event.received));
        self.devices.push(plain(&event.device).into_owned());
        self.sites
            .push(event.site.as_deref().map(|site| plain(site).into_owned()));
        self.kinds.push(plain(&event.kind).into_owned());
    }

    fn into_columns(self) -> Columns {
        vec![
            (Box::new(self.delivery_keys), Type::UUID_ARRAY),
            (Box::new(self.keys), Type::UUID_ARRAY),
            (Box::new(self.corrected), Type::TIMESTAMPTZ_ARRAY),
            (Box::new(self.times), Type::TIMESTAMPTZ_ARRAY),
            (Box::new(self.received), Type::TIMESTAMPTZ_ARRAY),
            (Box::new(self.devices), Type::TEXT_ARRAY),
            (Box::new(self.sites), Type::TEXT_ARRAY),
            (Box::new(self.kinds), Type::TEXT_ARRAY),
        ]
    }
}

/// The columns that only rows of measurements have.
#[derive(Default)]
struct Values {
    names: Vec<Option<String>>,
    numbers: Vec<Option<f64>>,
    others: Vec<Option<String>>,
    units: Vec<Option<String>>,
    qualities: Vec<Option<&'static str>>,
    tags: Vec<Option<String>>,
}

impl Values {
    fn push(&mut self, tags: Option<&str>, measurement: Option<&Measurement>) {
        let text = |text: &str| plain(text).into_owned();
        let (number, other) = match measurement {
            Some(one) => split(&one.value),
            None => (None, None),
        };
        self.names.push(measurement.map(|one| text(&one.name)));
        self.numbers.push(number);
        self.others.push(other);
        let unit = measurement.and_then(|one| one.unit.as_deref());
        self.units.push(unit.map(text));
        self.qualities
            .push(measurement.and_then(|one| one.quality.word()));
        self.tags.push(tags.map(ToOwned::to_owned));
    }

    fn into_columns(self) -> Columns {
        vec![
            (Box::new(self.names), Type::TEXT_ARRAY),
            (Box::new(self.numbers), Type::FLOAT8_ARRAY),
            (Box::new(self.others), Type::TEXT_ARRAY),
            (Box::new(self.units), Type::TEXT_ARRAY),
            (Box::new(self.qualities), Type::TEXT_ARRAY),
            (Box::new(self.tags), Type::TEXT_ARRAY),
        ]
    }
}

/// A number as such, and as JSON what no number says exactly.
fn split(value: &Value) -> (Option<f64>, Option<String>) {
    let whole = || {
        let mut text = Vec::new();
        json::value(value, &mut text);
        Some(plain_json(text))
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "what is lost is said exactly beside it"
    )]
    match *value {
        Value::Null => (None, None),
        Value::Float(x) => (Some(x), None),
        Value::Int(n) if n.unsigned_abs() <= EXACT_MAX => (Some(n as f64), None),
        Value::Int(n) => (Some(n as f64), whole()),
        Value::UInt(n) => (Some(n as f64), whole()),
        _ => (None, whole()),
    }
}

fn tags(event: &Event) -> Option<String> {
    if event.tags.is_empty() {
        return None;
    }
    let mut text = vec![b'{'];
    for (n, (name, value)) in event.tags.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        json::string(name, &mut text);
        text.push(b':');
        json::string(value, &mut text);
    }
    text.push(b'}');
    Some(plain_json(text))
}

const fn uuid(key: Key) -> Uuid {
    Uuid::from_bytes(key.0)
}

fn instant(at: Timestamp) -> SystemTime {
    let since = Duration::from_nanos(at.as_nanos().unsigned_abs());
    match at.as_nanos() >= 0 {
        true => UNIX_EPOCH + since,
        false => UNIX_EPOCH - since,
    }
}

/// Text without U+0000.
fn plain(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', NUL).into(),
        false => text.into(),
    }
}

/// JSON whose strings are without U+0000.
fn plain_json(json: Vec<u8>) -> String {
    const ESCAPED: &[u8] = br"\u0000";
    let text = String::from_utf8(json).expect("JSON is UTF-8");
    if memchr::memmem::find(text.as_bytes(), ESCAPED).is_none() {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        // The backslash and what it stands before; `\\` is no beginning of `\u0000`.
        let escape = &rest[at..];
        let length = if escape.as_bytes().starts_with(ESCAPED) {
            plain.push_str(NUL);
            ESCAPED.len()
        } else {
            plain.push_str(&escape[..2]);
            2
        };
        rest = &escape[length..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_nul_in_json_is_written_as_its_symbol_and_nothing_else_changes() {
        let check = |json: &str, expect: &str| {
            assert_eq!(plain_json(json.as_bytes().to_vec()), expect);
        };
        check(r#"{"a":"b\u0000c"}"#, "{\"a\":\"b\u{2400}c\"}");
        check(r#""\\u0000""#, r#""\\u0000""#);
        check(r#""\\\u0000\n\u0001ü""#, "\"\\\\\u{2400}\\n\\u0001ü\"");
        check("\"\\\"\\u0000\\u0000\"", "\"\\\"\u{2400}\u{2400}\"");
    }

    proptest! {
        #[test]
        fn json_without_nul_says_what_it_said(text in "[\0\\\\u0\"ü\n]{0,40}") {
            let json = serde_json::to_vec(&text).unwrap();
            let plain: String = serde_json::from_str(&plain_json(json)).unwrap();
            prop_assert_eq!(plain, text.replace('\0', NUL));
        }
    }

    #[test]
    fn an_event_that_would_be_many_large_rows_is_refused_before_they_are_made() {
        let record = crate::forward::testing::record(1, 1);
        let mut event = record.event().unwrap();
        event.measurements = vec![event.measurements[0].clone(); 1_000];
        event.tags = vec![("note".into(), "x".repeat(100_000).into())];
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        let body = body.into();
        let item = Item::check(crate::record::Record { body, ..record }).unwrap();
        let items = [item];
        let rows = of(&items, Layout::Measurement, 32 << 20);
        assert!(matches!(rows, Err(Error::TooLarge { .. })));
        assert_eq!(of(&items, Layout::Event, 32 << 20).unwrap().len(), 9);
    }

    #[test]
    fn what_no_double_says_exactly_is_said_beside_it() {
        let json = |text: &str| Some(text.to_owned());
        for (value, expect) in [
            (Value::Null, (None, None)),
            (Value::Float(21.5), (Some(21.5), None)),
            (Value::Int(-7), (Some(-7.0), None)),
            (Value::Int(1 << 53), (Some(9_007_199_254_740_992.0), None)),
            (
                Value::Int((1 << 53) + 1),
                (Some(9_007_199_254_740_992.0), json("9007199254740993")),
            ),
            (
                Value::UInt(u64::MAX),
                (
                    Some(18_446_744_073_709_551_615.0),
                    json("18446744073709551615"),
                ),
            ),
            (Value::Bool(true), (None, json("true"))),
            (Value::Text("on".to_owned()), (None, json("\"on\""))),
        ] {
            assert_eq!(split(&value), expect, "{value:?}");
        }
    }
}
