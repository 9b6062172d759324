//! Rules in JSON, as the TOML that is read.
//!
//! Lines stay what they are, so that what is said of the one is right of the other.

use serde_json::Value;

/// Levels within each other, at most.
const DEPTH_MAX: usize = 16;
/// Keys with a pattern, or with what is JSON in a text, which may be written as it is.
const DOCUMENTS: [&str; 3] = ["pattern", "clear", "payload"];

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) what: String,
}

/// The text with one rule in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn rule(text: &str) -> Result<String, Wrong> {
    let (toml, first) = convert(text)?;
    match first {
        b'{' => Ok(format!("rule = [{toml}]")),
        _ => Err(Wrong {
            line: 1,
            what: "a rule is an object, such as {\"pattern\": {\"device\": [\"b7\"]}}".to_owned(),
        }),
    }
}

/// The text with a rule, or with a list of them.
///
/// # Errors
/// What is wrong with it.
pub(super) fn rules(text: &str) -> Result<String, Wrong> {
    let (toml, first) = convert(text)?;
    match first {
        b'{' => Ok(format!("rule = [{toml}]")),
        b'[' => Ok(format!("rule = {toml}")),
        _ => Err(Wrong {
            line: 1,
            what: "rules are an object, or a list of them".to_owned(),
        }),
    }
}

/// The value, and how it begins.
fn convert(text: &str) -> Result<(String, u8), Wrong> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| Wrong {
        line: error.line(),
        what: format!("it is not JSON: {error}"),
    })?;
    let mut scan = Scan {
        text,
        at: 0,
        toml: String::with_capacity(text.len() + 16),
    };
    scan.space();
    let first = scan.next();
    scan.value(0, false)?;
    Ok((scan.toml, first))
}

/// Goes through a text that is known to be JSON.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    toml: String,
}

impl Scan<'_> {
    fn next(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(b' ')
    }

    fn wrong(&self, what: String) -> Wrong {
        Wrong {
            line: 1 + newlines(&self.text[..self.at]),
            what,
        }
    }

    /// Passes what stands between values, and keeps its lines.
    fn space(&mut self) {
        while self.at < self.text.len() && self.next().is_ascii_whitespace() {
            if self.next() == b'\n' {
                self.toml.push('\n');
            }
            self.at += 1;
        }
    }

    /// Passes one character, and writes another.
    fn exchange(&mut self, with: char) {
        self.at += 1;
        self.toml.push(with);
    }

    /// Writes a value. What is one of the documents becomes a text, whatever it is.
    fn value(&mut self, depth: usize, is_document: bool) -> Result<(), Wrong> {
        if depth > DEPTH_MAX {
            return Err(self.wrong(format!("there are more than {DEPTH_MAX} levels")));
        }
        match self.next() {
            b'"' => {
                let text = self.string()?;
                string(&text, &mut self.toml);
            }
            b'n' => {
                let what = "null is no value here; leave the key away";
                return Err(self.wrong(what.to_owned()));
            }
            _ if is_document => {
                let document = self.whole();
                string(document, &mut self.toml);
                let lines = newlines(document);
                self.toml.extend(std::iter::repeat_n('\n', lines));
            }
            b'{' => self.members(depth)?,
            b'[' => self.items(depth)?,
            _ => {
                let plain = self.whole();
                self.toml.push_str(plain);
            }
        }
        Ok(())
    }

    fn members(&mut self, depth: usize) -> Result<(), Wrong> {
        self.exchange('{');
        loop {
            self.space();
            match self.next() {
                b'}' => break,
                b',' => self.exchange(','),
                _ => {
                    let name = self.string()?;
                    string(&name, &mut self.toml);
                    self.space();
                    self.exchange('=');
                    self.space();
                    self.value(depth + 1, DOCUMENTS.contains(&&*name))?;
                }
            }
        }
        self.exchange('}');
        Ok(())
    }

    fn items(&mut self, depth: usize) -> Result<(), Wrong> {
        self.exchange('[');
        loop {
            self.space();
            match self.next() {
                b']' => break,
                b',' => self.exchange(','),
                _ => self.value(depth + 1, false)?,
            }
        }
        self.exchange(']');
        Ok(())
    }

    /// Passes a text. Half a character (`\ud800`) is JSON, and no text.
    fn string(&mut self) -> Result<String, Wrong> {
        let text = self.whole();
        serde_json::from_str(text).map_err(|error| self.wrong(format!("{text}: {error}")))
    }
}

impl<'t> Scan<'t> {
    /// Passes a whole value.
    fn whole(&mut self) -> &'t str {
        let (bytes, from) = (self.text.as_bytes(), self.at);
        let (mut depth, mut quoted) = (0_usize, false);
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'\\' if quoted => self.at += 1,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                byte if depth == 0 && byte.is_ascii_whitespace() => break,
                _ => {}
            }
            self.at += 1;
            let is_end = !quoted && matches!(byte, b'"' | b'}' | b']');
            if is_end && depth == 0 {
                break;
            }
        }
        &self.text[from..self.at]
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// A basic string of TOML: as in JSON, but for DEL.
fn string(text: &str, toml: &mut String) {
    toml.push_str(&Value::from(text).to_string().replace('\u{7f}', "\\u007F"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

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
    fn half_a_character_is_a_mistake_and_no_panic() {
        for json in [r#"{"name": "a\ud800"}"#, r#"{"a\ud800": 1}"#] {
            let wrong = super::rules(json).expect_err("no text");
            assert_eq!(wrong.line, 1, "{}", wrong.what);
        }
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

    #[test]
    fn lines_stay_what_they_are_whatever_stands_between_values() {
        let json = "\r\n{ \"a\" :\n [1, -2.5e3,\n\n true ,{} ,[]], \"pattern\":\n{\n\"x\": [\"}\\\"\\\\\"]\n}\n, \"payload\": 5 }\n";
        let toml = super::rules(json).unwrap();
        assert_eq!(
            toml,
            "rule = [\n{\"a\"=\n[1,-2.5e3,\n\ntrue,{},[]],\"pattern\"=\n\
             \"{\\n\\\"x\\\": [\\\"}\\\\\\\"\\\\\\\\\\\"]\\n}\"\n\n\n,\"payload\"=\"5\"}]"
        );
        let read: toml::Table = toml::from_str(&toml).unwrap();
        let pattern = read["rule"][0]["pattern"].as_str().unwrap();
        assert_eq!(pattern, "{\n\"x\": [\"}\\\"\\\\\"]\n}");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_of_json_is_what_stands_in_it(value in json()) {
            let value = serde_json::json!({ "value": value });
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let toml = super::rules(&text).unwrap();
                prop_assert_eq!(super::newlines(&toml), super::newlines(&text));
                let read: toml::Table = toml::from_str(&toml).unwrap();
                let read = serde_json::to_value(&read["rule"][0]).unwrap();
                prop_assert_eq!(&read, &value);
            }
        }

        #[test]
        fn no_text_is_too_much_for_it(text in ".{0,64}") {
            drop(super::rules(&text));
        }

        #[test]
        fn whatever_text_there_is_in_json_is_the_same_in_toml(text in any::<String>()) {
            let mut toml = "a = ".to_owned();
            super::string(&text, &mut toml);
            let read: toml::Table = toml::from_str(&toml).unwrap();
            prop_assert_eq!(read["a"].as_str().unwrap(), text);
        }
    }
}
