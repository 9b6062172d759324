//! A command: what a device is asked to do once, and what became of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Refusal, names::check_text};
use crate::{admin, event::Timestamp};

const NAME_BYTES_MAX: usize = 256;

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = CommandState)]
pub enum State {
    /// Accepted; the device has not subscribed yet, or has no room.
    Queued,
    /// In the durable queue of the device's session, or handed to its connection.
    Sent,
    /// The device said that it is done.
    Acknowledged,
    /// The device said that it cannot be done.
    Failed,
    /// Its deadline passed. If it was sent nobody knows whether it was done.
    Expired,
    /// Somebody took it back before it was sent.
    Cancelled,
}

impl State {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The `type` of the event that tells of it.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Queued => "penstock.command.queued",
            Self::Sent => "penstock.command.sent",
            Self::Acknowledged => "penstock.command.acknowledged",
            Self::Failed => "penstock.command.failed",
            Self::Expired => "penstock.command.expired",
            Self::Cancelled => "penstock.command.cancelled",
        }
    }

    /// Whether nothing more is expected.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent)
    }

    /// The number of its phase in the table.
    pub(super) const fn phase(self) -> i64 {
        match self {
            Self::Queued => 0,
            Self::Sent => 1,
            _ => 2,
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its place among all commands of this gateway; 0 before it has one.
    #[serde(skip)]
    pub number: u64,
    /// A UUID.
    pub id: String,
    /// Who is to do it.
    pub device: String,
    /// What is the same in every copy of the request that placed it.
    pub key: String,
    /// What is to be done, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The rest of it.
    pub payload: Value,
    /// At which QoS it is delivered.
    pub qos: u8,
    /// Who placed it.
    pub actor: String,
    /// The rules of which it came, if it did: what its events carry as a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// What tells it from others with the same key.
    pub digest: String,
    /// How far it is.
    pub state: State,
    /// When it was placed; like all others in milliseconds since 1970.
    pub created_ms: i64,
    /// Until when it is to be done.
    pub deadline_ms: i64,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_ms: Option<i64>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// What the device said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Value>,
    /// When, if that was after the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<i64>,
    /// Why it is over, where the state does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Command {
    /// What the broker knows it by: the bytes of its UUID.
    pub(super) fn token(&self) -> [u8; 16] {
        uuid::Uuid::parse_str(&self.id).map_or([0; 16], uuid::Uuid::into_bytes)
    }

    /// As people see it.
    pub fn show(&self) -> Value {
        let at = |ms: i64| admin::instant(Timestamp::from_millis(ms));
        let maybe = |ms: Option<i64>| ms.map_or(Value::Null, at);
        json!(CommandShown {
            number: self.number,
            id: self.id.clone(),
            device: self.device.clone(),
            key: self.key.clone(),
            name: self.name.clone(),
            payload: self.payload.clone(),
            qos: self.qos,
            actor: self.actor.clone(),
            state: self.state,
            created: at(self.created_ms),
            deadline: at(self.deadline_ms),
            sent: maybe(self.sent_ms),
            ended: maybe(self.ended_ms),
            reply: self.reply.clone(),
            late: maybe(self.late_ms),
            reason: self.reason.clone(),
        })
    }
}

/// A command to a device.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Command)]
pub struct CommandShown {
    /// Its place among all commands of this gateway.
    pub number: u64,
    /// A UUID.
    pub id: String,
    /// Who is to do it.
    pub device: String,
    /// What is the same in every copy of the request that placed it.
    pub key: String,
    /// What is to be done, in a word.
    pub name: Option<String>,
    /// The rest of it.
    pub payload: Value,
    /// At which QoS it is delivered.
    pub qos: u8,
    /// Who placed it.
    pub actor: String,
    /// How far it is.
    pub state: State,
    /// When it was placed.
    #[schema(value_type = String, format = DateTime)]
    pub created: Value,
    /// Until when it is to be done.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Value,
    /// When it was sent.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent: Value,
    /// When it was over.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Value,
    /// What the device said.
    pub reply: Option<Value>,
    /// When, if that was after the deadline.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub late: Value,
    /// Why it is over, where the state does not say it.
    pub reason: Option<String>,
}

/// A command that is to be placed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Order {
    /// Who is to do it.
    pub device: String,
    /// What, in a word.
    pub name: Option<String>,
    /// The rest of it.
    pub payload: Value,
    /// At which QoS; 1 where nobody says it.
    pub qos: u8,
    /// Until when.
    pub deadline: Deadline,
    /// The rules of which it comes; the same request all the same.
    #[serde(skip)]
    pub rules: Option<String>,
}

/// Until when a command is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Deadline {
    /// As long from now as the configuration says.
    Default,
    /// So many seconds from now.
    Secs(u64),
    /// This instant, in milliseconds since 1970.
    At(i64),
}

impl Order {
    /// Reads one out of JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(device: &str, mut members: Map<String, Value>) -> Result<Self, Refusal> {
        const KNOWN: &str = "name, payload, qos, deadline, deadline_secs";
        let name = match members.remove("name") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => {
                check_text("the name of a command", &name, NAME_BYTES_MAX)?;
                Some(name)
            }
            Some(_) => return Err(Refusal::invalid("the name of a command is a text")),
        };
        let qos = match members.remove("qos") {
            None | Some(Value::Null) => 1,
            Some(qos) => match qos.as_u64() {
                Some(0) => 0,
                Some(1) => 1,
                Some(2) => 2,
                _ => return Err(Refusal::invalid("qos is 0, 1 or 2")),
            },
        };
        let null = |value: &Value| !value.is_null();
        let at = members.remove("deadline").filter(null);
        let secs = members.remove("deadline_secs").filter(null);
        let deadline = match (at, secs) {
            (None, None) => Deadline::Default,
            (None, Some(secs)) => {
                Deadline::Secs(secs.as_u64().filter(|secs| *secs > 0).ok_or_else(|| {
                    Refusal::invalid("deadline_secs is a whole number of seconds from 1 on")
                })?)
            }
            (Some(at), None) => {
                let at = at.as_str().and_then(admin::parse_instant);
                let at = at.ok_or_else(|| {
                    Refusal::invalid("deadline is an instant such as \"2026-01-31T12:00:00Z\"")
                })?;
                Deadline::At(at.as_millis())
            }
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid(
                    "a command has one deadline: say deadline or deadline_secs",
                ));
            }
        };
        let payload = members.remove("payload").unwrap_or(Value::Null);
        if let Some(unknown) = members.keys().next() {
            return Err(Refusal::invalid(format!(
                "a command has no {unknown:?}; it has {KNOWN}"
            )));
        }
        Ok(Self {
            device: device.to_owned(),
            name,
            payload,
            qos,
            deadline,
            rules: None,
        })
    }
}
