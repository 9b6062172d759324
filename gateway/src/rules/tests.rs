//! The matcher against the vectors, and against a simple one.

mod cost;
mod docs;
mod random;
mod simple;
mod vectors;
mod view;

use crate::event::{
    Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value,
};

/// An event of a device with some numbers.
pub(crate) fn event_of(device: &str, values: &[(&str, f64)]) -> Event {
    let measurement = |(name, value): &(&str, f64)| Measurement {
        name: (*name).into(),
        value: Value::Float(*value),
        unit: None,
        quality: Quality::Good,
        time: None,
    };
    Event {
        key: Key([7; 16]),
        id: None,
        id_source: IdSource::Explicit,
        kind: "telemetry".into(),
        device: device.into(),
        site: None,
        time: Timestamp::from_millis(1_772_366_390_123),
        time_source: TimeSource::Device,
        received: Timestamp::from_millis(1_772_366_400_000),
        sequence: None,
        partition_key: None,
        topic: "devices/b7/telemetry".into(),
        traceparent: None,
        measurements: values.iter().map(measurement).collect(),
        tags: vec![],
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    }
}
