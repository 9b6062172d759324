//! What an event is to local subscribers, by a rule.

use std::sync::Arc;

use bytes::Bytes;
use penstock_broker::{Properties, Publish, QoS};

use crate::{
    event::{
        Event, Key, View,
        message::{self, KEY_PROPERTY, VIA_PROPERTY, escape},
    },
    gateway_id::GatewayId,
    rules::{Actions, action::Topic},
};

/// The user property with the name of the rule.
const RULE_PROPERTY: &str = "penstock-rule";
/// The longest topic that the protocol can carry.
const TOPIC_BYTES_MAX: usize = 65_535;

/// Where the message of an event goes.
///
/// # Errors
/// When that is no topic.
pub(super) fn name(topic: &Topic, event: &Event) -> Result<String, String> {
    let name = topic.name.fill(&event.attributes(), escape);
    if name.len() > TOPIC_BYTES_MAX {
        return Err(format!("its topic would have {} bytes", name.len()));
    }
    Ok(name)
}

/// The message.
///
/// # Errors
/// When there can be none.
pub(super) fn publish(
    name: String,
    rule: &str,
    actions: &Actions,
    event: &Event,
    gateway: &GatewayId,
) -> Result<Publish, String> {
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    let view = View::parse(&body).map_err(|error| error.to_string())?;
    let (payload, media_type) = match &actions.transform {
        None => {
            let form = message::Payload::Json;
            (form.encode(&view), form.media_type())
        }
        Some(transform) => {
            let given = transform.apply(rule, event);
            let media_type = match transform.is_json() {
                true => "application/json",
                false => "text/plain",
            };
            let given = given.map_err(|error| error.to_string())?;
            (given.into_bytes(), media_type)
        }
    };
    let key = key("topic", rule, view.attributes.delivery_key());
    let own = [
        (KEY_PROPERTY, key.to_string()),
        (RULE_PROPERTY, rule.to_owned()),
    ];
    let named = message::properties(&view.attributes).into_iter();
    let user = named.filter(|(name, _)| *name != KEY_PROPERTY).chain(own);
    let via = message::via(&view, gateway).into_iter();
    let properties = Properties {
        payload_is_utf8: Some(true),
        content_type: Some(media_type.into()),
        user: user
            .map(|(name, value)| (name.into(), value.into()))
            .chain(via.map(|id| (VIA_PROPERTY.into(), id)))
            .collect(),
        ..Properties::default()
    };
    Ok(Publish {
        topic: name.into(),
        payload: Bytes::from(payload),
        qos: QoS::AtLeastOnce,
        retain: actions.topic.as_ref().is_some_and(|topic| topic.retain),
        dup: false,
        properties: Some(Arc::new(properties)),
        delivery: None,
    })
}

/// The idempotency key of what a rule makes of an event: the same each time.
pub(super) fn key(what: &str, rule: &str, of: Key) -> Key {
    let mut hasher = blake3::Hasher::new();
    for part in [what, rule] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&of.0);
    let mut key = Key([0; 16]);
    key.0.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}
