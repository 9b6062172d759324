//! An event of the gateway as patterns see it, without writing it out as JSON first.
//!
//! Patterns see exactly what destinations receive ([`crate::event::json`]), and beside it
//! `values`: the value of every measurement by its name. `docs/rules.md` shows both.

use std::collections::BTreeSet;

use base64::Engine as _;

use super::{
    decimal::Decimal,
    fields::Fields,
    paths::{PathId, Paths, ROOT},
    pattern::Pattern,
    term::Scalar,
};
use crate::event::{self, Event, Measurement, Timestamp, Value, json};

/// Where patterns ask for parts of an event.
#[derive(Debug, Default)]
pub(super) struct View {
    attributes: Vec<(Attribute, PathId)>,
    measurements: Option<PathId>,
    tags: Option<PathId>,
    values: Option<PathId>,
}

/// What stands beside `data` in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    SpecVersion,
    Id,
    Source,
    Type,
    Subject,
    Time,
    DataContentType,
    RecordedTime,
    PartitionKey,
    Sequence,
    TraceParent,
    Site,
    Device,
    MqttTopic,
    IdSource,
    TimeSource,
    EventKey,
    TimeMarks,
    CorrectedTime,
    ReplayedTime,
}

impl Attribute {
    const NAMES: [(&'static str, Self); 20] = [
        ("specversion", Self::SpecVersion),
        ("id", Self::Id),
        ("source", Self::Source),
        ("type", Self::Type),
        ("subject", Self::Subject),
        ("time", Self::Time),
        ("datacontenttype", Self::DataContentType),
        ("recordedtime", Self::RecordedTime),
        ("partitionkey", Self::PartitionKey),
        ("sequence", Self::Sequence),
        ("traceparent", Self::TraceParent),
        ("site", Self::Site),
        ("device", Self::Device),
        ("mqtttopic", Self::MqttTopic),
        ("idsource", Self::IdSource),
        ("timesource", Self::TimeSource),
        ("eventkey", Self::EventKey),
        ("timemarks", Self::TimeMarks),
        ("correctedtime", Self::CorrectedTime),
        ("replayedtime", Self::ReplayedTime),
    ];

    /// Its text, if the event has it.
    fn of(self, event: &Event) -> Option<Scalar<'_>> {
        let text = |text: &'_ str| Some(Scalar::Text(text.to_owned().into()));
        Some(match self {
            Self::SpecVersion => borrowed("1.0"),
            Self::Id => match (&event.id, event.corrected) {
                (Some(id), None) => borrowed(id),
                _ => return text(&event.attributes().id()),
            },
            Self::Source => return text(&event::source(event.site.as_deref(), &event.device)),
            Self::Type => borrowed(&event.kind),
            Self::Subject | Self::Device => borrowed(&event.device),
            Self::Time => time(event.time),
            Self::DataContentType => borrowed("application/json"),
            Self::RecordedTime => time(event.received),
            Self::PartitionKey => borrowed(event.partition_key()),
            Self::Sequence => return text(&format!("{:020}", event.sequence?)),
            Self::TraceParent => borrowed(event.traceparent.as_deref()?),
            Self::Site => borrowed(event.site.as_deref()?),
            Self::MqttTopic => borrowed(&event.topic),
            Self::IdSource => borrowed(event.id_source.as_str()),
            Self::TimeSource => borrowed(event.time_source.as_str()),
            Self::EventKey => return text(&event.key.to_string()),
            Self::TimeMarks => return text(&event.marks.text()?),
            Self::CorrectedTime => time(event.corrected?),
            Self::ReplayedTime => time(event.replayed?),
        })
    }
}

fn borrowed(text: &str) -> Scalar<'_> {
    Scalar::Text(text.into())
}

/// An instant as destinations receive it.
fn time(at: Timestamp) -> Scalar<'static> {
    let mut quoted = Vec::new();
    json::time(at, &mut quoted);
    let text = String::from_utf8_lossy(&quoted);
    Scalar::Text(text.trim_matches('"').to_owned().into())
}

/// The names at the top of a pattern that no event has: typing errors, mostly.
pub fn unknown_fields(pattern: &Pattern) -> BTreeSet<&str> {
    let fields = pattern.alternatives.iter().flat_map(|one| &one.fields);
    let tops = fields.filter_map(|field| field.path.split('.').next());
    let is_known = |top: &str| {
        let mut attributes = Attribute::NAMES.iter();
        ["data", "values"].contains(&top) || attributes.any(|(name, _)| *name == top)
    };
    tops.filter(|top| !is_known(top)).collect()
}

impl View {
    /// What the paths of some patterns ask for.
    pub(super) fn of(paths: &Paths) -> Self {
        let asked = |(name, attribute): (&str, Attribute)| {
            let path = paths.child(ROOT, name)?;
            paths.is_end(path).then_some((attribute, path))
        };
        let data = paths.child(ROOT, "data");
        let within = |name| data.and_then(|data| paths.child(data, name));
        Self {
            attributes: Attribute::NAMES.into_iter().filter_map(asked).collect(),
            measurements: within("m"),
            tags: within("tags"),
            values: paths.child(ROOT, "values"),
        }
    }

    /// Adds the fields of an event.
    pub(super) fn flatten<'e>(&self, event: &'e Event, paths: &Paths, fields: &mut Fields<'e>) {
        for (attribute, path) in &self.attributes {
            if let Some(value) = attribute.of(event) {
                fields.add(*path, value);
            }
        }
        let mut adding = Adding { paths, fields };
        if let Some(path) = self.measurements {
            let array = adding.fields.array();
            for (index, measurement) in (0..).zip(&event.measurements) {
                adding.fields.enter(array, index);
                adding.measurement(path, measurement);
                adding.fields.leave();
            }
        }
        if let Some(path) = self.tags {
            for (name, value) in &event.tags {
                adding.member(path, name, |_| borrowed(value));
            }
        }
        if let Some(path) = self.values {
            for measurement in &event.measurements {
                if let Some(child) = paths.child(path, &measurement.name) {
                    adding.value(child, &measurement.value);
                }
            }
        }
    }
}

struct Adding<'e, 'f> {
    paths: &'f Paths,
    fields: &'f mut Fields<'e>,
}

impl<'e> Adding<'e, '_> {
    fn member(&mut self, path: PathId, name: &str, value: impl FnOnce(&mut Self) -> Scalar<'e>) {
        let child = self.paths.child(path, name);
        if let Some(child) = child.filter(|child| self.paths.is_end(*child)) {
            let value = value(self);
            self.fields.add(child, value);
        }
    }

    fn measurement(&mut self, path: PathId, measurement: &'e Measurement) {
        self.member(path, "n", |_| borrowed(&measurement.name));
        if let Some(child) = self.paths.child(path, "v") {
            self.value(child, &measurement.value);
        }
        if let Some(unit) = &measurement.unit {
            self.member(path, "u", |_| borrowed(unit));
        }
        if let Some(word) = measurement.quality.word() {
            self.member(path, "q", |_| borrowed(word));
        }
        if let Some(at) = measurement.time {
            self.member(path, "t", |_| time(at));
        }
    }

    fn value(&mut self, path: PathId, value: &'e Value) {
        let scalar = match value {
            Value::Array(items) => {
                let array = self.fields.array();
                for (index, item) in (0..).zip(items) {
                    // Bytes are written as an object.
                    if let Value::Array(_) | Value::Map(_) | Value::Bytes(_) = item {
                        self.fields.enter(array, index);
                        self.value(path, item);
                        self.fields.leave();
                    } else {
                        self.value(path, item);
                    }
                }
                return;
            }
            Value::Map(members) => {
                for (name, member) in members {
                    if let Some(child) = self.paths.child(path, name) {
                        self.value(child, member);
                    }
                }
                return;
            }
            Value::Bytes(bytes) => {
                let encoded = |_: &mut Self| {
                    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                    Scalar::Text(text.into())
                };
                self.member(path, "b64", encoded);
                return;
            }
            _ if !self.paths.is_end(path) => return,
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Int(n) => Scalar::Number(Decimal::from(*n)),
            Value::UInt(n) => Scalar::Number(Decimal::from(*n)),
            Value::Float(x) => Decimal::from_f64(*x).map_or(Scalar::Null, Scalar::Number),
            Value::Text(text) => borrowed(text),
        };
        self.fields.add(path, scalar);
    }
}
