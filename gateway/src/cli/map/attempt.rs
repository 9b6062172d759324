//! `penstock map try`: what one message becomes under the configured mappings,
//! which key it gets, and why.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    sync::Arc,
};

use anyhow::{Context as _, Result};

use super::case;
use crate::{
    cli::{ConfigFile, output::tame},
    clock::{Clock as _, SystemClock},
    config::Config,
    event::{Event, IdSource, Timestamp},
    normalise::{Births, Message, Scratch, normalise},
};

/// Steps that are shown; a batch of thousands has many.
const STEPS_MAX: usize = 200;

/// A message to try.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The topic that it is published on
    #[arg(long, short, value_name = "TOPIC")]
    topic: String,
    /// The client that publishes it
    #[arg(long, value_name = "ID", default_value = "client")]
    client_id: String,
    /// The user that the client was let in as
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The MQTT 5 content type
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// An MQTT 5 user property; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    property: Vec<(String, String)>,
    /// The payload as text; @FILE reads a file, - standard input
    #[arg(value_name = "PAYLOAD")]
    payload: String,
}

fn property(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=');
    let (name, value) = pair.ok_or("a property is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Tries the message, and says in lines what becomes of it.
///
/// # Errors
/// When the configuration or the payload cannot be read.
pub(super) fn run(args: &Args) -> Result<String> {
    let config = args.file.load()?;
    let payload = match args.payload.strip_prefix('@') {
        Some(path) => fs::read(path).with_context(|| format!("failed to read {path}"))?,
        None if args.payload == "-" => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.context("failed to read standard input")?;
            bytes
        }
        None => args.payload.as_bytes().to_vec(),
    };
    Ok(explain(&config, args, &payload, SystemClock.now()))
}

fn explain(config: &Config, args: &Args, payload: &[u8], received: Timestamp) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _fine = explain_to(&mut out, config, args, payload, received);
    out
}

fn explain_to(
    out: &mut String,
    config: &Config,
    args: &Args,
    payload: &[u8],
    received: Timestamp,
) -> std::fmt::Result {
    let topic: Arc<str> = args.topic.as_str().into();
    let site = config.ingest.site.as_ref();
    let mappings = config.ingest.mappings.iter().enumerate();
    let mut taking = mappings.filter_map(|(n, m)| Some((n, m, m.resolve(&topic, site)?)));
    let Some((number, mapping, resolved)) = taking.next() else {
        return write!(out, "quarantined (unmapped): no mapping takes the topic");
    };
    writeln!(
        out,
        "mapping {} of {}",
        number + 1,
        config.ingest.mappings.len()
    )?;
    let content_type = args.content_type.as_deref();
    let format = mapping.format.resolve(content_type, payload);
    let words = crate::normalise::decode::Format::WORDS;
    let word = words.iter().find(|(_, known)| *known == format);
    writeln!(
        out,
        "read as {}",
        word.map_or("sparkplug", |(word, _)| word)
    )?;
    let user: Vec<(Arc<str>, Arc<str>)> = args
        .property
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
        .collect();
    let message = Message {
        topic: &topic,
        client_id: &args.client_id.as_str().into(),
        identity: args.user.as_deref(),
        payload,
        content_type,
        user: &user,
        received,
        nonce: [0; 16],
        delivery: None,
        births: &Births::default(),
    };
    let mut scratch = Scratch::explaining();
    let done = normalise(mapping, &resolved, &message, &mut scratch);
    for step in scratch.steps().iter().take(STEPS_MAX) {
        writeln!(out, "{}", tame(step))?;
    }
    if let Some(more) = scratch.steps().len().checked_sub(STEPS_MAX + 1) {
        writeln!(out, "and {} steps more", more + 1)?;
    }
    let done = match done {
        Ok(done) => done,
        Err(reject) => {
            let reason = tame(&reject.reason);
            return write!(out, "quarantined ({}): {reason}", reject.class.as_str());
        }
    };
    if done.events.is_empty() && done.rejected.is_none() && done.dropped > 0 {
        return write!(
            out,
            "dropped by the mapping: acknowledged, counted, and not kept"
        );
    }
    if done.events.is_empty() && done.rejected.is_none() {
        return write!(out, "no data: acknowledged, and nothing is kept");
    }
    for (number, event) in (1..).zip(&done.events) {
        writeln!(out, "\nevent {number}: {}", why(event))?;
        let json = serde_json::to_string_pretty(&case::event(event)).unwrap_or_default();
        writeln!(out, "{json}")?;
    }
    for (index, reject) in done.rejected.iter().flat_map(|rejected| &rejected.elements) {
        let reason = tame(&reject.reason);
        writeln!(
            out,
            "\nelement {index} quarantined ({}): {reason}",
            reject.class.as_str()
        )?;
    }
    out.truncate(out.trim_end().len());
    Ok(())
}

/// The key, and what it was taken from.
fn why(event: &Event) -> String {
    let key = event.key;
    match event.id_source {
        IdSource::Explicit => format!("key {key}, from the id that came with the message"),
        IdSource::Field => format!("key {key}, from the fields of \"id\""),
        IdSource::Protocol => format!("key {key}, from the protocol's own identity"),
        IdSource::Sequence => format!("key {key}, from the sequence, with time, boot id and content"),
        IdSource::Content => format!("key {key}, from the content, because the device's time is fine enough or dedup says so"),
        IdSource::None => {
            "a random key: nothing tells a resend of this from another reading, so nothing is dropped"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn tried(topic: &str, payload: &[u8]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/devices.toml");
        let config = Config::load(Some(&path)).unwrap();
        let args = Args {
            file: ConfigFile {
                config: None::<PathBuf>,
            },
            topic: topic.to_owned(),
            client_id: "c".to_owned(),
            user: None,
            content_type: None,
            property: Vec::new(),
            payload: String::new(),
        };
        let received = Timestamp::from_millis(1_772_366_400_000);
        explain(&config, &args, payload, received)
    }

    #[test]
    fn what_a_message_becomes_is_said_with_its_key_and_why() {
        let said = tried(
            "zigbee2mqtt/kitchen/lamp",
            br#"{"power":5,"last_seen":1772366390123}"#,
        );
        for part in [
            "mapping 3 of ",
            "read as json\n",
            "\nevent 1: key ",
            ", from the content, because",
            "\"device\": \"kitchen/lamp\"",
            "\"name\": \"power\"",
            "2026-03-01T11:59:50.123Z",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        let said = tried("zigbee2mqtt/kitchen", br#"{"power":5}"#);
        assert!(said.contains("a random key: nothing tells"), "{said}");
    }

    #[test]
    fn what_is_refused_says_why() {
        for (topic, payload, expect) in [
            (
                "nowhere",
                "1",
                "quarantined (unmapped): no mapping takes the topic",
            ),
            ("zigbee2mqtt/a", "{", "quarantined (syntax): "),
            (
                "tele/p/STATE",
                r#"{"Time":"soon"}"#,
                "quarantined (type): \"soon\" is not a date and time",
            ),
            (
                "homie/5/c/e/t",
                "",
                "no data: acknowledged, and nothing is kept",
            ),
            (
                "/tenants/a/devices/d/events/s/jsonarray",
                r#"[{"timestamp":1},{"timestamp":true}]"#,
                "element 1 quarantined (type): the time is a boolean",
            ),
        ] {
            let said = tried(topic, payload.as_bytes());
            assert!(said.contains(expect), "{topic}: {said}");
        }
    }
}
