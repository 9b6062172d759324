//! What a device should be, and what it says that it is.
//!
//! Both are documents, changed by merge patches (RFC 7396): operators change what is
//! desired, the device what is reported. What is desired has a version, so that nobody
//! changes what somebody else has changed meanwhile; the device alone reports, and needs
//! none.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{admin, event::Timestamp};

/// The shadow of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Whose.
    pub device: String,
    /// The version of what is desired: 0 before anything was, one more with each change.
    pub version: u64,
    /// What the device should be.
    pub desired: Map<String, Value>,
    /// When that was changed last, in milliseconds since 1970.
    pub desired_ms: Option<i64>,
    /// How often it reported a change.
    pub reported_version: u64,
    /// What the device says that it is.
    pub reported: Map<String, Value>,
    /// When it did last, in milliseconds since 1970.
    pub reported_ms: Option<i64>,
    /// The device is gone: what is retained for it is to be forgotten, and this with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gone: bool,
}

impl Shadow {
    /// That of a device of which nothing was said.
    pub(super) fn new(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            version: 0,
            desired: Map::new(),
            desired_ms: None,
            reported_version: 0,
            reported: Map::new(),
            reported_ms: None,
            is_gone: false,
        }
    }

    /// What is desired and not reported so.
    pub fn delta(&self) -> Map<String, Value> {
        delta(&self.desired, &self.reported)
    }

    /// As people see it.
    pub fn show(&self) -> Value {
        let at = |ms: Option<i64>| {
            ms.map_or(Value::Null, |ms| admin::instant(Timestamp::from_millis(ms)))
        };
        json!(ShadowShown {
            device: self.device.clone(),
            version: self.version,
            desired: self.desired.clone(),
            desired_changed: at(self.desired_ms),
            reported_version: self.reported_version,
            reported: self.reported.clone(),
            reported_changed: at(self.reported_ms),
            delta: self.delta(),
        })
    }

    /// What the device is told.
    pub(super) fn told(&self) -> Value {
        json!({
            "version": self.version,
            "desired": self.desired,
            "delta": self.delta(),
        })
    }
}

/// What a device should be, and says that it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Shadow)]
pub struct ShadowShown {
    /// The device.
    pub device: String,
    /// Of what is desired: one more with each change.
    pub version: u64,
    /// What it should be.
    #[schema(value_type = Object)]
    pub desired: Map<String, Value>,
    /// When that changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub desired_changed: Value,
    /// The version that the device has said that it knows.
    pub reported_version: u64,
    /// What it says that it is.
    #[schema(value_type = Object)]
    pub reported: Map<String, Value>,
    /// When that changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub reported_changed: Value,
    /// What is desired and not reported so.
    #[schema(value_type = Object)]
    pub delta: Map<String, Value>,
}

/// The members of `desired` that `reported` does not have, or has otherwise; of objects in
/// both only what differs within.
fn delta(desired: &Map<String, Value>, reported: &Map<String, Value>) -> Map<String, Value> {
    let mut differs = Map::new();
    for (name, wanted) in desired {
        match (wanted, reported.get(name)) {
            (_, Some(said)) if said == wanted => {}
            (Value::Object(wanted), Some(Value::Object(said))) => {
                differs.insert(name.clone(), Value::Object(delta(wanted, said)));
            }
            _ => {
                differs.insert(name.clone(), wanted.clone());
            }
        }
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delta_is_what_is_desired_and_not_so() {
        let map = |value: Value| value.as_object().cloned().expect("an object");
        for (desired, reported, expect) in [
            (json!({}), json!({"a": 1}), json!({})),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), json!({})),
            (json!({"a": 1}), json!({"a": 2}), json!({"a": 1})),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": 1, "c": 3}}),
                json!({"a": {"c": 2}}),
            ),
            (
                json!({"a": {"b": 1}}),
                json!({"a": 1}),
                json!({"a": {"b": 1}}),
            ),
            (
                json!({"a": [1, 2]}),
                json!({"a": [1]}),
                json!({"a": [1, 2]}),
            ),
            // A number is its value, not how it is written: these two are written apart.
            (json!({"a": 1}), json!({"a": 1.0}), json!({"a": 1})),
        ] {
            assert_eq!(delta(&map(desired), &map(reported)), map(expect));
        }
    }
}
