//! A proposal of mappings and schemas, from messages that were seen.
//!
//! Topics that look alike, by their first level and their number of levels, share a
//! mapping. Nothing is left out: without `values` every leaf stays a measurement, and
//! schemas only mark what is otherwise. A proposal is tried on the very messages that
//! it was made of before it is shown.

mod fields;
mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

use crate::{
    config::Config,
    dictionary::Known,
    event::Timestamp,
    normalise::{
        Births, Message, Scratch,
        decode::{self, Compression, Format, Lenient, Node},
        normalise,
        schema::{self as schemas_of, Mismatch, Schema, Schemas},
    },
};
use fields::Fields;

/// Messages that are looked at; what comes beyond is not.
pub const MESSAGES_MAX: usize = 10_000;
/// Bytes of payloads that are looked at.
pub const BYTES_MAX: usize = 32 << 20;
/// Mappings that are proposed.
const MAPPINGS_MAX: usize = 64;

/// A message that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// On which topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What to write into a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Mappings and schemas, in TOML.
    pub config: String,
    /// The files of the schemas, by name.
    pub schemas: Vec<(String, String)>,
    /// What became of the messages under it.
    pub tried: Tried,
}

/// What became of the messages that were seen, under a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    /// Messages of which all became events.
    pub fine: usize,
    /// Messages that are no data.
    pub nothing: usize,
    /// Messages that would be quarantined, or a part of them.
    pub quarantined: usize,
    /// Events that are not as their schema says.
    pub mismatched: usize,
}

/// Protocols that are known by the first level of their topics.
const KNOWN: [(&str, &str, &str); 6] = [
    ("spBv1.0", "spBv1.0/#", "sparkplug"),
    ("zigbee2mqtt", "zigbee2mqtt/{device...}", "zigbee2mqtt"),
    ("homeassistant", "homeassistant/#", "ha-discovery"),
    (
        "application",
        "application/{application}/device/{dev_eui}/event/{event}",
        "chirpstack",
    ),
    ("v3", "v3/{application}/devices/{dev}/up", "tts"),
    ("te", "te/{device...}", "thin-edge"),
];

/// One mapping to propose.
struct Group<'m> {
    messages: Vec<&'m Observed>,
}

/// Proposes mappings and schemas for what was seen; `None` where nothing was.
pub fn propose(observed: &[Observed], received: Timestamp) -> Option<Proposal> {
    let mut groups: BTreeMap<(usize, &str), Group<'_>> = BTreeMap::new();
    for message in observed {
        let levels = message.topic.split('/').count();
        let first = message.topic.split('/').next().unwrap_or_default();
        let known = KNOWN.iter().any(|(level, ..)| *level == first);
        let levels = if known { 0 } else { levels };
        let group = groups.entry((levels, first));
        let group = group.or_insert_with(|| Group {
            messages: Vec::new(),
        });
        group.messages.push(message);
    }
    if groups.is_empty() {
        return None;
    }
    let mut config = String::new();
    let mut schemas = Vec::new();
    let mut names = BTreeSet::new();
    let left = groups.len().saturating_sub(MAPPINGS_MAX);
    for ((_, first), group) in groups.into_iter().take(MAPPINGS_MAX) {
        let known = KNOWN.iter().find(|(level, ..)| *level == first);
        // Writing to a string cannot fail.
        let _fine = match known {
            Some((_, topic, preset)) => writeln!(
                config,
                "# {} messages.\n[[mapping]]\ntopic = \"{topic}\"\npreset = \"{preset}\"\n",
                group.messages.len()
            ),
            None => {
                let mut name = slug(first);
                while !names.insert(name.clone()) {
                    name.push_str("-x");
                }
                mapping(&mut config, &mut schemas, &group, &name, received);
                Ok(())
            }
        };
    }
    if left > 0 {
        let _fine = writeln!(
            config,
            "# {left} other kinds of topics were seen: look at fewer at a time."
        );
    }
    if !schemas_of::BUILT {
        // A configuration that this very program refuses would be no proposal.
        config.push_str("# No schemas: this build has none (feature \"schema\").\n");
    }
    let tried = tried(&config, &schemas, observed, received);
    Some(Proposal {
        config,
        schemas,
        tried,
    })
}

/// A word for the name of a file and of a type.
fn slug(level: &str) -> String {
    let word: String = level
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(32)
        .collect();
    match word.is_empty() {
        true => "telemetry".to_owned(),
        false => word.to_ascii_lowercase(),
    }
}

/// One mapping, with the schema of what it takes.
fn mapping(
    config: &mut String,
    schemas: &mut Vec<(String, String)>,
    group: &Group<'_>,
    name: &str,
    received: Timestamp,
) {
    let topics: Vec<Vec<&str>> = group
        .messages
        .iter()
        .map(|message| message.topic.split('/').collect())
        .collect();
    let (topic, device) = template(&topics);
    let kind = format!("{name}.v1");
    let mut fields = Fields::default();
    let mut unread = 0;
    for message in &group.messages {
        let payload = decode::inflate(
            Compression::Auto,
            &message.payload,
            Lenient::STRICT,
            &Known::default(),
        );
        let node = payload.as_ref().ok().and_then(|payload| {
            let format = Format::Auto.resolve(None, payload);
            decode::decode(format, payload).ok()
        });
        match node {
            Some(node) => fields.add(&node, received),
            None => unread += 1,
        }
    }
    let _fine = writeln!(config, "# {} messages.", group.messages.len());
    if unread > 0 {
        let _fine = writeln!(
            config,
            "# {unread} of them cannot be read, and would be quarantined."
        );
    }
    let _fine = writeln!(config, "[[mapping]]\ntopic = {}", quoted(&topic));
    let _fine = match device {
        true => writeln!(config, "device = \"{{device}}\""),
        false => writeln!(
            config,
            "device = \"{{client}}\" # no level of the topic told devices apart: look at more of them, or put {{device}} into the topic"
        ),
    };
    let _fine = writeln!(config, "type = {}", quoted(&kind));
    fields.write(config);
    config.push('\n');
    if schemas_of::BUILT
        && let Some(schema) = fields.schema(&kind)
    {
        let file = format!("{name}.schema.json");
        let _fine = writeln!(
            config,
            "[[schema]]\ntype = {}\nfile = {}\non_mismatch = \"tag\" # or quarantine, once it is right\n",
            quoted(&kind),
            quoted(&file)
        );
        schemas.push((file, schema));
    }
}

/// The topic of a mapping that takes all of these, and whether it names devices.
fn template(topics: &[Vec<&str>]) -> (String, bool) {
    let levels = topics.first().map_or(0, Vec::len);
    let mut named = false;
    let mut parts = Vec::with_capacity(levels);
    for level in 0..levels {
        let values: BTreeSet<&str> = topics.iter().map(|topic| topic[level]).collect();
        let first = values.first().copied().unwrap_or_default();
        let before = level.checked_sub(1).map(|before| topics[0][before]);
        let after_devices = before.is_some_and(|before| {
            matches!(before, "device" | "devices" | "sensor" | "sensors" | "dev")
        });
        let literal = !first.contains(['{', '}', '+', '#']);
        parts.push(match values.len() {
            1 if literal && (named || !after_devices) => first.to_owned(),
            _ if !named => {
                named = true;
                "{device}".to_owned()
            }
            _ => format!("{{level{}}}", level + 1),
        });
    }
    (parts.join("/"), named)
}

/// A text in TOML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace("${", "$${")
}

/// Runs the messages under a proposal.
fn tried(
    config: &str,
    schemas: &[(String, String)],
    observed: &[Observed],
    received: Timestamp,
) -> Tried {
    let mut tried = Tried::default();
    // The files of the schemas are not there yet.
    let mappings = config.split("[[schema]]").map(|part| {
        let at = part.find("\n\n").filter(|_| part.starts_with("\ntype"));
        at.map_or(part, |at| &part[at..])
    });
    let read = Config::from_text(&mappings.collect::<String>(), Path::new(""), &|_| None);
    let Ok(mut read) = read else {
        tried.quarantined = observed.len();
        return tried;
    };
    let parsed = schemas.iter().filter_map(|(file, text)| {
        let kind = format!("{}.v1", file.strip_suffix(".schema.json")?);
        Schema::parse(&kind, Mismatch::Tag, text).ok()
    });
    let schemas = Schemas::new(parsed.collect());
    for mapping in &mut read.ingest.mappings {
        mapping.schemas = schemas.clone();
    }
    let births = Births::default();
    for message in observed {
        let topic: Arc<str> = message.topic.as_str().into();
        let mut mappings = read.ingest.mappings.iter();
        let found = mappings.find_map(|m| Some((m, m.resolve(&topic, None)?)));
        let Some((mapping, resolved)) = found else {
            tried.quarantined += 1;
            continue;
        };
        let message = Message {
            topic: &topic,
            client_id: &"learn".into(),
            identity: None,
            payload: &message.payload,
            content_type: None,
            user: &[],
            received,
            nonce: [0; 16],
            delivery: None,
            births: &births,
        };
        match normalise(mapping, &resolved, &message, &mut Scratch::default()) {
            Ok(done) => {
                tried.mismatched += done.mismatched;
                match (done.rejected.is_some(), done.events.is_empty()) {
                    (true, _) => tried.quarantined += 1,
                    (false, true) => tried.nothing += 1,
                    (false, false) => tried.fine += 1,
                }
            }
            Err(_) => tried.quarantined += 1,
        }
    }
    tried
}

/// Whether a node is a list of objects, and so a batch.
fn batch<'n, 'a>(node: &'n Node<'a>) -> Option<&'n [Node<'a>]> {
    match node {
        Node::Array(items) if !items.is_empty() => {
            let objects = items.iter().all(|item| matches!(item, Node::Map(_)));
            objects.then_some(items)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
