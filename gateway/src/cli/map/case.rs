//! One case of a file of vectors: a message, a mapping, and what came of it.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::Value as Json;

use crate::{
    config::Config,
    event::{Event, Timestamp},
    normalise::{
        Births, Class, Mapping, Message, Normalised, Reject, Scratch, decode::Format, normalise,
    },
};

/// The client that sends every message.
const CLIENT: &str = "vectors";

/// Runs the messages before it, and the message of a case, under its mapping.
/// `nonce` makes events that nothing identifies differ from case to case.
///
/// # Errors
/// When the case is not of the documented shape, or its mapping is refused.
pub(super) fn run(case: &Json, nonce: [u8; 16]) -> Result<Result<Normalised, Reject>> {
    let mapping = mapping(case.get("config").context("the case has no \"config\"")?)?;
    let births = Births::default();
    let message = case.get("mqtt").context("the case has no \"mqtt\"")?;
    let before = case.get("before").and_then(Json::as_array);
    for earlier in before.into_iter().flatten() {
        let earlier = one(&mapping, earlier, message, &births, nonce)?;
        if let Err(reject) = earlier {
            bail!("a message before this one is refused: {reject}");
        }
    }
    one(&mapping, message, message, &births, nonce)
}

/// Runs one message; what it leaves out is as in `otherwise`.
fn one(
    mapping: &Mapping,
    message: &Json,
    otherwise: &Json,
    births: &Births,
    nonce: [u8; 16],
) -> Result<Result<Normalised, Reject>> {
    let text = |name: &str| {
        let found = message.get(name).or_else(|| otherwise.get(name));
        found.and_then(Json::as_str)
    };
    let topic: Arc<str> = text("topic")
        .context("the message has no \"topic\"")?
        .into();
    let payload = match message.get("payload").and_then(Json::as_str) {
        Some(payload) => payload.as_bytes().to_vec(),
        None => {
            let encoded = message.get("payload_b64").and_then(Json::as_str);
            let encoded = encoded.context("the message has no \"payload_b64\"")?;
            base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .context("\"payload_b64\" is not base64")?
        }
    };
    let properties = message.get("user_properties").and_then(Json::as_object);
    let user: Vec<(Arc<str>, Arc<str>)> = properties
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into())))
        .collect();
    let message = Message {
        topic: &topic,
        client_id: &CLIENT.into(),
        identity: None,
        payload: &payload,
        content_type: message.get("content_type").and_then(Json::as_str),
        user: &user,
        received: instant(text("received").context("the message has no \"received\"")?)?,
        nonce,
        delivery: None,
        births,
    };
    let Some(resolved) = mapping.resolve(&topic, None) else {
        let reason = "the mapping does not take the topic";
        return Ok(Err(Reject::new(Class::Unmapped, reason)));
    };
    Ok(normalise(
        mapping,
        &resolved,
        &message,
        &mut Scratch::default(),
    ))
}

/// An RFC 3339 time.
pub(super) fn instant(text: &str) -> Result<Timestamp> {
    let at: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("{text:?} is no time"))?;
    Ok(Timestamp::from_nanos(at.as_nanosecond().try_into()?))
}

/// The mapping of a case, read as the configuration's are. A case leaves nothing to
/// defaults that look into the payload: without a format it is JSON, and without a
/// time or a sequence there is none.
fn mapping(config: &Json) -> Result<Mapping> {
    let Json::Object(members) = config else {
        bail!("\"config\" is not an object");
    };
    let mut text = "[[mapping]]\n".to_owned();
    for (name, value) in members {
        if !value.is_null() {
            text.push_str(&format!("{} = {}\n", quoted(name), toml(value)));
        }
    }
    let format = members.get("format").and_then(Json::as_str);
    if !members.contains_key("preset") {
        if format.is_none() {
            text.push_str("format = \"json\"\n");
        }
        let looks = Format::WORDS.iter().any(|(word, known)| {
            format.unwrap_or("json") == *word
                && matches!(
                    known,
                    Format::Auto | Format::Json | Format::Scalar | Format::Cbor | Format::MsgPack
                )
        });
        for (key, nothing) in [("time", "received"), ("sequence", "none")] {
            if looks && !members.contains_key(key) {
                text.push_str(&format!("{key} = \"{nothing}\"\n"));
            }
        }
    }
    let mut config = Config::from_text(&text, Path::new(""), &|_| None)
        .with_context(|| format!("the mapping is refused: {config}"))?;
    Ok(config.ingest.mappings.swap_remove(0))
}

/// A value in one line of TOML.
fn toml(value: &Json) -> String {
    match value {
        Json::Null => "\"\"".to_owned(),
        Json::Bool(b) => b.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => quoted(&text.replace("${", "$${")),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            let members: Vec<String> = members
                .map(|(name, value)| format!("{} = {}", quoted(name), toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}

/// A text in quotes, with the escapes that TOML and JSON share.
fn quoted(text: &str) -> String {
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// What came of a case, in the terms of the file.
pub(super) fn outcome(outcome: &Result<Normalised, Reject>) -> Json {
    match outcome {
        Err(reject) => {
            serde_json::json!({ "error": reject.class.as_str(), "reason": reject.reason })
        }
        Ok(done) => {
            let events: Vec<Json> = done.events.iter().map(event).collect();
            let mut json = serde_json::json!({ "events": events });
            if let Some(rejected) = &done.rejected {
                let elements = rejected.elements.iter().map(|(index, reject)| {
                    serde_json::json!({ "index": index, "error": reject.class.as_str() })
                });
                json["rejected"] = elements.collect();
            }
            json
        }
    }
}

/// An event in the terms of the file.
pub(super) fn event(event: &Event) -> Json {
    let mut json = Vec::new();
    event.to_json(None, &mut json);
    let whole: Json = serde_json::from_slice(&json).unwrap_or_default();
    let measurements = whole["data"]["m"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| {
            let mut measurement = serde_json::json!({ "name": m["n"], "value": m["v"] });
            for (short, long) in [("u", "unit"), ("q", "quality"), ("t", "time")] {
                if let Some(value) = m.get(short) {
                    measurement[long] = value.clone();
                }
            }
            measurement
        });
    let kind = event.kind.strip_prefix("iot.");
    let kind = kind.and_then(|kind| kind.strip_suffix(".v1"));
    serde_json::json!({
        "device": whole["device"],
        "time": whole["time"],
        "time_source": whole["timesource"],
        "measurements": measurements.collect::<Json>(),
        "id_source": whole["idsource"],
        "kind": kind.unwrap_or(&event.kind),
        "tags": whole["data"].get("tags").cloned().unwrap_or_else(|| serde_json::json!({})),
    })
}
