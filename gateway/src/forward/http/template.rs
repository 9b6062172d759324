//! Bodies for receivers that take no `CloudEvents`: a text with places to fill in.
//!
//! `{{NAME}}` is filled in with the JSON of what is named, quotes and all, or `null`
//! where the event has none; `{{NAME:text}}` with the same as the inside of a JSON
//! string; `{{NAME:s}}`, `:ms` and `:ns` with a time as a number since 1970. So what a
//! device sends can never end a string and begin something else. It is no language: no
//! conditions, no loops but the one over the events of a batch.

use reqwest::header::HeaderValue;
use serde_json::Value;

use crate::event::{
    Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, View,
};

/// Attributes that can be named.
const ATTRIBUTES: [&str; 20] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "recordedtime",
    "partitionkey",
    "sequence",
    "traceparent",
    "site",
    "device",
    "mqtttopic",
    "idsource",
    "timesource",
    "timemarks",
    "correctedtime",
    "replayedtime",
    "eventkey",
];

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    event: Vec<Part>,
    begin: String,
    between: Option<String>,
    end: String,
    content_type: HeaderValue,
}

/// What is around the events of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Between {
    /// Before the first.
    pub begin: String,
    /// Between two; without it each event is a request of its own.
    pub between: Option<String>,
    /// After the last.
    pub end: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(What, As),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Event,
    Data,
    Attribute(&'static str),
    Values,
    Value(String),
    Unit(String),
    Tags,
    Tag(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Json,
    Text,
    /// Since 1970, in a unit of so many nanoseconds.
    Since(i64),
}

impl Template {
    /// Reads the text for one event, and tries it on one where JSON must come of it.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn parse(event: &str, around: Between, content_type: &str) -> Result<Self, String> {
        let template = Self {
            event: parts(event)?,
            begin: around.begin,
            between: around.between,
            end: around.end,
            content_type: HeaderValue::try_from(content_type)
                .map_err(|_| format!("`{content_type}` cannot be a content type"))?,
        };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence == "application/json" || essence.ends_with("+json") {
            template.is_json()?;
        }
        Ok(template)
    }

    pub(super) const fn takes_one(&self) -> bool {
        self.between.is_none()
    }

    pub(super) const fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    /// Appends the body for these events.
    pub(super) fn render<'v>(&self, views: impl Iterator<Item = View<'v>>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.begin.as_bytes());
        for (n, view) in views.enumerate() {
            if n > 0 {
                out.extend_from_slice(self.between.as_deref().unwrap_or_default().as_bytes());
            }
            self.render_one(&view, out);
        }
        out.extend_from_slice(self.end.as_bytes());
    }

    fn render_one(&self, view: &View<'_>, out: &mut Vec<u8>) {
        let mut json = Vec::with_capacity(512);
        view.to_json(None, &mut json);
        let event: Value = serde_json::from_slice(&json).expect("an event is JSON");
        for part in &self.event {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Place(what, As::Json) => write(&what.of(&event), out),
                Part::Place(what, As::Text) => write_inside(&what.of(&event), out),
                Part::Place(what, As::Since(unit)) => {
                    let nanos = what.time(view).map(Timestamp::as_nanos);
                    let number = nanos.map(|nanos| nanos.div_euclid(*unit));
                    write(&number.map_or(Value::Null, Value::from), out);
                }
            }
        }
    }

    /// Whether an event becomes JSON.
    fn is_json(&self) -> Result<(), String> {
        let mut sample_cbor = Vec::new();
        sample().to_cbor(&mut sample_cbor);
        let view = View::parse(&sample_cbor).map_err(|error| error.to_string())?;
        let views = if self.takes_one() { 1 } else { 2 };
        let mut body = Vec::new();
        self.render(std::iter::repeat_n(view, views), &mut body);
        match serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "no JSON comes of it ({error}): {}",
                String::from_utf8_lossy(&body)
            )),
        }
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, after) = after.split_once("}}").ok_or("\"{{\" without \"}}\"")?;
        parts.push(Part::Text(before.to_owned()));
        parts.push(parse_place(place.trim())?);
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    parts.retain(|part| *part != Part::Text(String::new()));
    if !parts.iter().any(|part| matches!(part, Part::Place(..))) {
        return Err("nothing of the event is in it; for example {{event}}".to_owned());
    }
    Ok(parts)
}

fn parse_place(place: &str) -> Result<Part, String> {
    // Names of measurements may have colons in them, words for how to write do not.
    let (name, how) = match place.rsplit_once(':') {
        Some((name, "text")) => (name, As::Text),
        Some((name, "s")) => (name, As::Since(1_000_000_000)),
        Some((name, "ms")) => (name, As::Since(1_000_000)),
        Some((name, "ns")) => (name, As::Since(1)),
        _ => (place, As::Json),
    };
    let what = match name.split_once('.') {
        Some(("values", name)) => What::Value(name.to_owned()),
        Some(("units", name)) => What::Unit(name.to_owned()),
        Some(("tags", name)) => What::Tag(name.to_owned()),
        _ => match name {
            "event" => What::Event,
            "data" => What::Data,
            "values" => What::Values,
            "tags" => What::Tags,
            name => match ATTRIBUTES.into_iter().find(|known| *known == name) {
                Some(known) => What::Attribute(known),
                None => {
                    return Err(format!(
                        "{{{{{place}}}}}: there is event, data, values, values.NAME, units.NAME, tags, tags.NAME, and the attributes {}; each also with :text behind it, and times with :s, :ms or :ns",
                        ATTRIBUTES.join(", ")
                    ));
                }
            },
        },
    };
    let is_time = matches!(
        what,
        What::Attribute("time" | "recordedtime" | "correctedtime" | "replayedtime")
    );
    if matches!(how, As::Since(_)) && !is_time {
        return Err(format!(
            "{{{{{place}}}}}: only time, recordedtime, correctedtime and replayedtime can be numbers since 1970"
        ));
    }
    Ok(Part::Place(what, how))
}

impl What {
    fn of(&self, event: &Value) -> Value {
        let measured = || event["data"]["m"].as_array().into_iter().flatten();
        // Of several with one name the last counts.
        let of = |name: &str, member: &str| {
            let named = measured().rev().find(|m| m["n"] == *name);
            named.map_or(Value::Null, |m| m[member].clone())
        };
        match self {
            Self::Event => event.clone(),
            Self::Data => event["data"].clone(),
            Self::Attribute(name) => event[name].clone(),
            Self::Values => measured()
                .filter_map(|m| Some((m["n"].as_str()?.to_owned(), m["v"].clone())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Self::Value(name) => of(name, "v"),
            Self::Unit(name) => of(name, "u"),
            Self::Tags => match &event["data"]["tags"] {
                Value::Null => serde_json::Map::new().into(),
                tags => tags.clone(),
            },
            Self::Tag(name) => event["data"]["tags"][name].clone(),
        }
    }

    fn time(&self, view: &View<'_>) -> Option<Timestamp> {
        let Self::Attribute(name) = self else {
            return None;
        };
        match *name {
            "time" => Some(view.attributes.time),
            "recordedtime" => Some(view.attributes.received),
            "correctedtime" => view.attributes.corrected,
            _ => view.attributes.replayed,
        }
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("writing to memory cannot fail");
}

/// As the inside of a JSON string; nothing of what is not there.
fn write_inside(value: &Value, out: &mut Vec<u8>) {
    let text = match value {
        Value::Null => return,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut quoted = Vec::with_capacity(text.len() + 2);
    crate::event::json::string(&text, &mut quoted);
    out.extend_from_slice(&quoted[1..quoted.len() - 1]);
}

/// An event to try a template on.
fn sample() -> Event {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Event {
        key: Key([7; 16]),
        id: None,
        id_source: IdSource::Content,
        kind: "iot.telemetry.v1".into(),
        device: "press-7".into(),
        site: Some("pune".into()),
        time: at,
        time_source: TimeSource::Device,
        received: at,
        sequence: Some(1),
        partition_key: None,
        topic: "devices/press-7/telemetry".into(),
        traceparent: None,
        measurements: vec![Measurement {
            name: "temperature".into(),
            value: crate::event::Value::Float(21.5),
            unit: Some("Cel".into()),
            quality: Quality::Good,
            time: None,
        }],
        tags: vec![("line".into(), "L\"1\"".into())],
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cbor(event: &Event) -> Vec<u8> {
        let mut bytes = Vec::new();
        event.to_cbor(&mut bytes);
        bytes
    }

    fn rendered(text: &str) -> String {
        let template = Template::parse(text, Between::default(), "text/plain").unwrap();
        let bytes = cbor(&sample());
        let mut out = Vec::new();
        template.render([View::parse(&bytes).unwrap()].into_iter(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn places_are_filled_in_with_json_text_or_numbers_since_1970() {
        for (text, expect) in [
            ("{{device}}", "\"press-7\""),
            ("<{{device:text}}>", "<press-7>"),
            (
                "{{ values.temperature }} {{units.temperature}}",
                "21.5 \"Cel\"",
            ),
            ("{{values.temperature:text}}", "21.5"),
            ("{{values}}", r#"{"temperature":21.5}"#),
            (
                "{{values.none}}|{{values.none:text}}|{{traceparent}}",
                "null||null",
            ),
            ("{{tags.line}}", r#""L\"1\"""#),
            ("\"{{tags.line:text}}\"", r#""L\"1\"""#),
            ("\"{{tags:text}}\"", r#""{\"line\":\"L\\\"1\\\"\"}""#),
            (
                "{{time:s}} {{time:ms}} {{time:ns}}",
                "1700000000 1700000000000 1700000000000000000",
            ),
            ("{{time}}", "\"2023-11-14T22:13:20Z\""),
            ("{{correctedtime:ms}}", "null"),
            (r#"{"a":{"b":{{site}}}}"#, r#"{"a":{"b":"pune"}}"#),
        ] {
            assert_eq!(rendered(text), expect, "{text}");
        }
        assert!(rendered("{{event}}").contains("\"specversion\":\"1.0\""));
    }

    #[test]
    fn the_events_of_a_batch_stand_between_what_is_around_them() {
        let around = Between {
            begin: "[".to_owned(),
            between: Some(",".to_owned()),
            end: "]".to_owned(),
        };
        let template = Template::parse("{{id}}", around, "application/json").unwrap();
        let bytes = cbor(&sample());
        let view = View::parse(&bytes).unwrap();
        let mut out = Vec::new();
        template.render([view, view].into_iter(), &mut out);
        let id = "\"07070707070707070707070707070707\"";
        assert_eq!(String::from_utf8(out).unwrap(), format!("[{id},{id}]"));
    }

    #[test]
    fn what_cannot_work_is_said_with_the_place_and_what_there_is() {
        let check = |text: &str, content_type: &str, expect: &str| {
            let error = Template::parse(text, Between::default(), content_type).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("{{devise}}", "text/plain", "{{devise}}: there is event");
        check("{{device", "text/plain", "without");
        check("nothing", "text/plain", "{{event}}");
        check("{{device:ms}}", "text/plain", "only time");
        check("{{device}}", "a\nb", "content type");
        check(
            r#"{"d":{{device:text}}}"#,
            "application/json",
            "no JSON comes of it",
        );
        check(
            r#"{"d":{{device}},}"#,
            "application/vnd.x+json; v=1",
            "no JSON",
        );
    }

    #[test]
    fn no_name_of_a_device_ends_a_string_and_begins_something_else() {
        let text = r#"{"d":"{{device:text}}","v":{{values}}}"#;
        let template = Template::parse(text, Between::default(), "application/json").unwrap();
        for device in [
            "\"},{\"x\":\"",
            "\\",
            "\u{0}\n\u{7f}",
            "{{id}}",
            "é\u{2028}",
        ] {
            let event = Event {
                device: device.into(),
                ..sample()
            };
            let bytes = cbor(&event);
            let mut out = Vec::new();
            template.render([View::parse(&bytes).unwrap()].into_iter(), &mut out);
            let json: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(json["d"], device);
        }
    }
}
