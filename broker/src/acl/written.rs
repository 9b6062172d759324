//! Rules as somebody else writes them in JSON: in a token's claim, or in the answer
//! of an authentication service.
//!
//! ```json
//! [{"publish": ["devices/{user}/#"], "subscribe": ["commands/{user}/+"], "qos_max": 1},
//!  {"allow": false, "publish": ["#"]}]
//! ```
//!
//! They are for the client that they come with, so they name no users. A rule
//! with a mistake in it makes all of them unusable: left out, a denial would be lost.

use serde::Deserialize;

use super::{Filter, Rule, Rules};
use crate::QoS;

/// Most rules that come with one client, and most filters in them.
const RULES_MAX: usize = 64;
const FILTERS_MAX: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    allow: bool,
    publish: Vec<String>,
    subscribe: Vec<String>,
    qos_max: u8,
    retain: bool,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            allow: true,
            publish: Vec::new(),
            subscribe: Vec::new(),
            qos_max: 2,
            retain: true,
        }
    }
}

impl Rules {
    /// Reads rules that somebody wrote for one client.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, String> {
        let written = Vec::<Written>::deserialize(value).map_err(|error| error.to_string())?;
        let filters: usize = written
            .iter()
            .map(|rule| rule.publish.len() + rule.subscribe.len())
            .sum();
        if written.len() > RULES_MAX || filters > FILTERS_MAX {
            return Err(format!(
                "more than {RULES_MAX} rules or {FILTERS_MAX} filters for one client"
            ));
        }
        let rules = written.into_iter().map(Written::compile);
        Ok(Self(rules.collect::<Result<_, _>>()?))
    }
}

impl Written {
    fn compile(self) -> Result<Rule, String> {
        let compile = |texts: Vec<String>| -> Result<Vec<Filter>, String> {
            texts
                .iter()
                .map(|text| Filter::parse(text).map_err(|error| format!("{text:?}: {error}")))
                .collect()
        };
        Ok(Rule {
            allow: self.allow,
            publish: compile(self.publish)?,
            subscribe: compile(self.subscribe)?,
            qos_max: match self.qos_max {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                2 => QoS::ExactlyOnce,
                other => return Err(format!("qos_max is {other}; it is 0, 1 or 2")),
            },
            retain: self.retain,
            ..Rule::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_in_json_are_the_rules_they_look_like() {
        let rules = Rules::from_json(&json!([
            {"publish": ["devices/{user}/#"], "qos_max": 1, "retain": false},
            {"allow": false, "subscribe": ["#"]},
        ]))
        .unwrap();
        assert_eq!(
            rules.0[0],
            Rule {
                publish: vec![Filter::parse("devices/{user}/#").unwrap()],
                qos_max: QoS::AtLeastOnce,
                retain: false,
                ..Rule::default()
            }
        );
        assert!(!rules.0[1].allow);
    }

    #[test]
    fn a_mistake_makes_all_of_them_unusable() {
        for bad in [
            json!({}),
            json!("#"),
            json!([{"publsh": ["#"]}]),
            json!([{"publish": ["#"]}, {"publish": ["a/#/b"]}]),
            json!([{"publish": ["#"], "qos_max": 3}]),
            json!([{"users": ["x"]}]),
            json!(vec![json!({}); RULES_MAX + 1]),
            json!([{"publish": vec!["a"; FILTERS_MAX + 1]}]),
        ] {
            assert!(Rules::from_json(&bad).is_err(), "{bad}");
        }
    }
}
