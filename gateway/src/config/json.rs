//! A rule in JSON, as the TOML that is read.

use serde_json::Value;

/// Levels within each other, at most.
const DEPTH_MAX: usize = 16;
/// Keys with a pattern, or with what is JSON in a text, which may be an object.
const DOCUMENTS: [&str; 3] = ["pattern", "clear", "payload"];

/// The text with a rule in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn rule(text: &str) -> Result<String, String> {
    let rule: Value =
        serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if !rule.is_object() {
        return Err(
            "a rule is an object, such as {\"pattern\": {\"device\": [\"b7\"]}}".to_owned(),
        );
    }
    let mut toml = String::from("rule = [");
    write(&rule, 0, &mut toml)?;
    toml.push(']');
    Ok(toml)
}

fn write(value: &Value, depth: usize, toml: &mut String) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("there are more than {DEPTH_MAX} levels"));
    }
    match value {
        Value::Null => return Err("null is no value here; leave the key away".to_owned()),
        Value::Bool(_) | Value::Number(_) => toml.push_str(&value.to_string()),
        Value::String(text) => string(text, toml),
        Value::Array(items) => {
            toml.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    toml.push(',');
                }
                write(item, depth + 1, toml)?;
            }
            toml.push(']');
        }
        Value::Object(members) => {
            toml.push('{');
            for (n, (name, member)) in members.iter().enumerate() {
                if n > 0 {
                    toml.push(',');
                }
                string(name, toml);
                toml.push('=');
                match member {
                    Value::Object(_) if DOCUMENTS.contains(&&**name) => {
                        string(&member.to_string(), toml);
                    }
                    _ => write(member, depth + 1, toml)?,
                }
            }
            toml.push('}');
        }
    }
    Ok(())
}

/// A basic string of TOML: as in JSON, but for DEL.
fn string(text: &str, toml: &mut String) {
    toml.push_str(&Value::from(text).to_string().replace('\u{7f}', "\\u007F"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::config::Config;

    fn read(text: &str) -> Result<crate::rules::Rule, String> {
        Config::rule_of_json(text, &["lake".into()]).map_err(|mistakes| {
            let said = mistakes
                .iter()
                .map(|one| format!("{}: {}", one.key, one.what));
            said.collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn a_rule_in_json_has_the_keys_of_one_in_toml() {
        let rule = read(
            r#"{"name": "hot", "pattern": {"values": {"t": [{"numeric": [">", 80.5]}]}},
                "destinations": ["lake"], "priority": 3, "topic": "hot/{device}",
                "transform": {"paths": {"d": "$.device"}, "template": "{\"d\": \"<d>\"}"},
                "alarm": {"severity": "critical", "clear": {"values": {"t": [1]}}},
                "command": {"device": "valve-{device}", "payload": {"open": false}, "qos": 2},
                "window": {"absent": "5m"}}"#,
        );
        let rule = rule.unwrap();
        assert_eq!(&*rule.name, "hot");
        assert_eq!(rule.actions.priority, 3);
        let alarm = rule.actions.alarm.unwrap();
        let command = rule.actions.command.unwrap();
        assert!(command.payload.is_some() && command.device.is_some() && command.qos == 2);
        assert!(alarm.clear.is_some() && rule.actions.window.is_some());
    }

    #[test]
    fn mistakes_are_said_with_their_keys_and_nothing_is_read_from_this_machine() {
        for (text, part) in [
            ("5", "a rule is an object"),
            ("{", "it is not JSON"),
            (r#"{"name": null}"#, "null is no value here"),
            (
                r#"{"name": "a", "pattern": {"a": 5}, "destinations": ["lake"]}"#,
                "pattern: line 1",
            ),
            (
                r#"{"name": "a", "pattern": {"a": [5]}, "destinations": ["sea"]}"#,
                "destinations: \"sea\"",
            ),
            (
                r#"{"name": "a", "pattern": {"a": [5]}, "destination": ["lake"]}"#,
                "destination: is not a key",
            ),
            (
                r#"{"name": "a", "pattern_file": "/etc/passwd", "topic": "x"}"#,
                "has its pattern in it",
            ),
            (
                r#"{"name": "a", "pattern": {"a": [5]}, "topic": "x", "transform": {"template_file": "/etc/passwd"}}"#,
                "has its template in it",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
        let text =
            r#"{"name": "a", "pattern": {"a": ["${file:/etc/passwd}${HOME}"]}, "topic": "x"}"#;
        let pattern = crate::rules::Pattern::parse(r#"{"a": ["${file:/etc/passwd}${HOME}"]}"#);
        assert_eq!(read(text).unwrap().pattern, pattern.unwrap());
    }

    proptest! {
        #[test]
        fn whatever_text_there_is_in_json_is_the_same_in_toml(text in any::<String>()) {
            let mut toml = "a = ".to_owned();
            super::string(&text, &mut toml);
            let read: toml::Table = toml::from_str(&toml).unwrap();
            prop_assert_eq!(read["a"].as_str().unwrap(), text);
        }
    }
}
