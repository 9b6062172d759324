//! The examples of docs/mapping.md come out as they are written there.

use std::{fmt::Write as _, fs, path::Path};

use super::*;
use crate::config::Config;

/// What becomes of a message, in a line for each event.
fn became(config: &Config, topic: &str, payload: &str) -> Vec<String> {
    let topic: Arc<str> = topic.into();
    let site = config.ingest.site.as_ref();
    let mut mappings = config.ingest.mappings.iter();
    let found = mappings.find_map(|m| Some((m, m.resolve(&topic, site)?)));
    let (mapping, resolved) = found.expect("a mapping takes the topic");
    let message = Message {
        topic: &topic,
        client_id: &"c1".into(),
        identity: None,
        payload: payload.as_bytes(),
        content_type: None,
        user: &[],
        received: RECEIVED,
        nonce: [1; 16],
        delivery: None,
        births: &Births::default(),
    };
    match normalise(mapping, &resolved, &message, &mut Scratch::default()) {
        Err(reject) => vec![format!(
            "quarantined ({}): {}",
            reject.class.as_str(),
            reject.reason
        )],
        Ok(done) if done.dropped > 0 && done.events.is_empty() => vec!["dropped".to_owned()],
        Ok(done) => done.events.iter().map(line).collect(),
    }
}

fn line(event: &Event) -> String {
    let mut line = String::new();
    for (n, m) in event.measurements.iter().enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        let value = match &m.value {
            Value::Float(x) => x.to_string(),
            other => serde_json::to_string(other).unwrap(),
        };
        write!(line, "{comma}{} {value}", m.name).unwrap();
        if let Some(unit) = &m.unit {
            write!(line, " {unit}").unwrap();
        }
    }
    line
}

#[test]
#[cfg(feature = "cel")]
fn the_examples_of_the_documentation_come_out_as_they_are_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mapping.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut config, mut messages, mut configurations) = (None, 0, 0);
    for block in text.split("\n```").skip(1).step_by(2) {
        let (kind, body) = block.split_once('\n').unwrap();
        match kind {
            "toml" => {
                let read = Config::from_text(body, Path::new(""), &|_| None);
                config = Some(read.unwrap_or_else(|mistakes| panic!("{mistakes}\n{body}")));
                configurations += 1;
            }
            "text" => {
                let config = config.as_ref().unwrap();
                for example in body.split_inclusive('\n').fold(Vec::new(), examples) {
                    let (topic, payload) = example[0].split_once(' ').unwrap();
                    let expect: Vec<_> = example[1..].to_vec();
                    assert_eq!(became(config, topic, payload), expect, "{}", example[0]);
                    messages += 1;
                }
            }
            _ => {}
        }
    }
    assert!(
        configurations >= 4 && messages >= 10,
        "{configurations} {messages}"
    );
}

/// Gathers each message with the lines that say what becomes of it.
fn examples<'t>(mut all: Vec<Vec<&'t str>>, line: &'t str) -> Vec<Vec<&'t str>> {
    let line = line.trim_end();
    match (line.strip_prefix("= "), all.last_mut()) {
        (Some(expect), Some(last)) => last.push(expect),
        _ => all.push(vec![line]),
    }
    all
}
