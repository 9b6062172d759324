//! The topic that a device publishes to: `devices/{device}/telemetry`.

use std::str::FromStr;

/// A checked topic with places for the device and its profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(String);

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.replace("{device}", "").replace("{profile}", "");
        if bare.contains(['{', '}']) {
            return Err(format!(
                "`{text}`: only {{device}} and {{profile}} can be filled in"
            ));
        }
        if text.contains(['+', '#', '\0']) {
            return Err(format!("`{text}`: a topic to publish to has no + and no #"));
        }
        if text.is_empty() || text.len() > 1_024 {
            return Err("a topic has 1 to 1024 bytes".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl Template {
    /// The topic of one device.
    pub(crate) fn fill(&self, device: &str, profile: &str) -> String {
        self.0
            .replace("{device}", device)
            .replace("{profile}", profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_with_device_and_profile() {
        let template: Template = "site/a/{profile}/{device}/telemetry".parse().unwrap();
        assert_eq!(
            template.fill("env-0001", "env"),
            "site/a/env/env-0001/telemetry"
        );
    }

    #[test]
    fn a_topic_that_cannot_be_published_to_is_refused() {
        for text in [
            "",
            "a/+/b",
            "a/#",
            "a/{site}/b",
            "a/{device",
            "a\0b",
            &"x".repeat(1_025),
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }
}
