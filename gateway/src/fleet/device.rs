//! A device as the registry knows it.

use std::{collections::BTreeMap, sync::Arc};

use penstock_broker::Addressee;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Refusal,
    names::{check_id, check_text},
};
use crate::{admin, event::Timestamp};

const TEXT_BYTES_MAX: usize = 256;
const TAGS_MAX: usize = 64;
/// A year.
const INTERVAL_SECS_MAX: u64 = 31_536_000;

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name: the `device` of its events.
    pub id: String,
    /// 1 when it was added, one more with each change.
    pub version: u64,
    /// What can be changed.
    #[serde(flatten)]
    pub fields: Fields,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: i64,
    /// Whether it is there, where births and deaths of its Sparkplug node say so and not
    /// its clients.
    #[serde(skip)]
    pub heard: Option<bool>,
}

/// What can be said of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
#[schema(as = DeviceFields)]
pub struct Fields {
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Words that people look for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The user as whom it connects; without one that of its name, or an anonymous client
    /// with its name for an identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The identifier of the client that is this device, whatever user it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How often it says something, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_interval_secs: Option<u64>,
}

/// The names of [`Fields`].
const FIELDS: [&str; 6] = [
    "name",
    "site",
    "tags",
    "user",
    "client_id",
    "expected_interval_secs",
];

/// A device that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its name.
    pub id: String,
    /// The rest.
    pub fields: Fields,
}

/// How a device is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Everything that can be changed is to be this.
    Replace(Fields),
    /// These members are to be this, and those that are null are to go (RFC 7396).
    Merge(Map<String, Value>),
}

impl Device {
    /// Which clients are this device.
    pub fn addressee(&self) -> Addressee {
        match (&self.fields.user, &self.fields.client_id) {
            (Some(user), _) => Addressee::User(Arc::from(&**user)),
            (None, Some(client)) => Addressee::Client(Arc::from(&**client)),
            (None, None) => Addressee::Name(Arc::from(&*self.id)),
        }
    }

    /// As people see it.
    pub fn show(&self) -> Value {
        json!(self.shown(None))
    }

    /// The same, with whether it is there.
    pub(super) fn shown(&self, online: Option<bool>) -> DeviceShown {
        DeviceShown {
            id: self.id.clone(),
            version: self.version,
            created: admin::instant(Timestamp::from_millis(self.created_ms)),
            updated: admin::instant(Timestamp::from_millis(self.updated_ms)),
            online,
            fields: self.fields.clone(),
        }
    }
}

/// A device of the registry.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Device)]
pub struct DeviceShown {
    /// Its name: the `device` of its events.
    pub id: String,
    /// 1 when it was added, one more with each change.
    pub version: u64,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created: Value,
    /// When it was changed last.
    #[schema(value_type = String, format = DateTime)]
    pub updated: Value,
    /// Whether it is there; not said of one that was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// What can be changed.
    #[serde(flatten)]
    pub fields: Fields,
}

impl Fields {
    /// Reads them out of JSON.
    ///
    /// # Errors
    /// When a member is unknown, or not what it should be.
    pub fn read(members: Map<String, Value>) -> Result<Self, Refusal> {
        if let Some(unknown) = members.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(Refusal::invalid(format!(
                "a device has no {unknown:?}; it has {}",
                FIELDS.join(", ")
            )));
        }
        let members = members.into_iter().filter(|(_, value)| !value.is_null());
        let fields: Self = serde_json::from_value(Value::Object(members.collect()))
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        fields.check()?;
        Ok(fields)
    }

    fn check(&self) -> Result<(), Refusal> {
        for (what, text) in [
            ("name", &self.name),
            ("site", &self.site),
            ("user", &self.user),
            ("client_id", &self.client_id),
        ] {
            if let Some(text) = text {
                check_text(what, text, TEXT_BYTES_MAX)?;
            }
        }
        if self.tags.len() > TAGS_MAX {
            return Err(Refusal::invalid(format!(
                "a device has {TAGS_MAX} tags at most"
            )));
        }
        for (name, value) in &self.tags {
            check_text("the name of a tag", name, TEXT_BYTES_MAX)?;
            check_text("the value of a tag", value, TEXT_BYTES_MAX)?;
        }
        if self.user.is_some() && self.client_id.is_some() {
            return Err(Refusal::invalid(
                "a device is known by its user or by its client_id; leave one of them away",
            ));
        }
        match self.expected_interval_secs {
            Some(secs) if !(1..=INTERVAL_SECS_MAX).contains(&secs) => Err(Refusal::invalid(
                format!("expected_interval_secs is from 1 to {INTERVAL_SECS_MAX}"),
            )),
            _ => Ok(()),
        }
    }
}

impl Draft {
    /// Reads one out of JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(mut members: Map<String, Value>) -> Result<Self, Refusal> {
        let Some(Value::String(id)) = members.remove("id") else {
            return Err(Refusal::invalid("a device has an \"id\", which is a text"));
        };
        check_id(&id)?;
        Ok(Self {
            id,
            fields: Fields::read(members)?,
        })
    }
}

impl Changes {
    /// The fields after the change.
    pub(super) fn apply(&self, before: &Fields) -> Result<Fields, Refusal> {
        let members = match self {
            Self::Replace(fields) => return Ok(fields.clone()),
            Self::Merge(members) => members,
        };
        let mut whole = json!(before);
        merge(&mut whole, &Value::Object(members.clone()));
        match whole {
            Value::Object(whole) => Fields::read(whole),
            _ => Err(Refusal::invalid("a device is an object")),
        }
    }
}

/// Changes a document as a merge patch says (RFC 7396).
pub(super) fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        document.clone_from(patch);
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(members) = document else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(members) => members,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_takes_away_what_is_null() {
        // The examples of RFC 7396, appendix A.
        for (document, patch, expect) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            let mut merged = document.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, expect, "{document} and {patch}");
        }
    }

    #[test]
    fn what_a_device_may_not_be_is_said_in_words() {
        for (draft, expect) in [
            (json!({}), "a device has an \"id\", which is a text"),
            (
                json!({"id": "waiting"}),
                "\"waiting\" is no id of a device: the API has another meaning for it",
            ),
            (
                json!({"id": "a", "sight": "x"}),
                "a device has no \"sight\"; it has name, site, tags, user, client_id, expected_interval_secs",
            ),
            (
                json!({"id": "a", "user": "u", "client_id": "c"}),
                "a device is known by its user or by its client_id; leave one of them away",
            ),
            (
                json!({"id": "a", "expected_interval_secs": 0}),
                "expected_interval_secs is from 1 to 31536000",
            ),
            (
                json!({"id": "a", "site": ""}),
                "site has 1 to 256 bytes, and no control characters",
            ),
        ] {
            let refused = Draft::read(members(draft)).expect_err("it is refused");
            assert_eq!(refused.to_string(), expect);
        }
    }

    #[test]
    fn a_device_is_its_user_its_client_or_whoever_has_its_name() {
        let device = |fields: Value| {
            let draft = Draft::read(members(fields)).expect("a device");
            Device {
                id: draft.id,
                version: 1,
                fields: draft.fields,
                created_ms: 0,
                updated_ms: 0,
                heard: None,
            }
        };
        let name = |text: &str| Arc::<str>::from(text);
        for (draft, expect) in [
            (json!({"id": "a"}), Addressee::Name(name("a"))),
            (json!({"id": "a", "user": "u"}), Addressee::User(name("u"))),
            (
                json!({"id": "a", "client_id": "c"}),
                Addressee::Client(name("c")),
            ),
        ] {
            assert_eq!(device(draft).addressee(), expect);
        }
    }
}
