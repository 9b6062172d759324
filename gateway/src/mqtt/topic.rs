//! Topics for events, and filters as far as a client must understand them.
//!
//! In a template `{site}`, `{device}` and `{type}` each become part of one level:
//! `/`, `+`, `#`, `$`, `%` and control characters are written as `%XX` per UTF-8
//! byte, so that two devices never share a topic by accident. What is empty or
//! missing is `_`.

use crate::event::{Attributes, message::escape, template};

/// The longest topic that the protocol can carry.
const BYTES_MAX: usize = 65_535;

/// A topic with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(template::Template);

impl Template {
    /// Reads a template, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let parsed = template::Template::parse(text)?;
        let illegal = |c: char| c.is_control() || "+#}".contains(c);
        if parsed.is_empty() {
            return Err("a topic is not empty");
        }
        if parsed.texts().any(|text| text.contains(illegal)) {
            return Err("has characters that a topic to publish on cannot have");
        }
        if text.starts_with("$SYS/") || text.starts_with("$share/") {
            return Err("topics of the server's own cannot be published on");
        }
        Ok(Self(parsed))
    }

    /// A filter that matches every topic that the template can give.
    pub(crate) fn pattern(&self) -> String {
        self.0.pattern('/', "+")
    }

    /// The topic of an event, or why it can have none.
    pub(crate) fn fill(&self, of: &Attributes<'_>) -> Result<String, String> {
        let topic = self.0.fill(of, escape);
        match topic.len() {
            len if len > BYTES_MAX => Err(format!("its topic would have {len} bytes")),
            _ => Ok(topic),
        }
    }
}

/// Checks a topic filter (MQTT 5, section 4.7).
pub(crate) fn check_filter(filter: &str) -> Result<(), &'static str> {
    if filter.is_empty() || filter.len() > BYTES_MAX || filter.contains('\0') {
        return Err("a filter is not empty, and has at most 65535 bytes");
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let alone = level.len() == 1;
        if level.contains('#') && !(alone && levels.peek().is_none()) {
            return Err("\"#\" stands alone at the end");
        }
        if level.contains('+') && !alone {
            return Err("\"+\" stands alone in its level");
        }
    }
    Ok(())
}

/// The filter of a shared subscription without its group.
pub(crate) fn unshared(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    }
}

/// Whether a valid topic matches a valid filter, shared or not.
pub(crate) fn matches(topic: &str, filter: &str) -> bool {
    let filter = unshared(filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    overlaps(topic, filter)
}

/// Whether there is a topic that matches both filters.
pub(crate) fn overlaps(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (unshared(one).split('/'), unshared(other).split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_give_patterns_or_say_what_is_wrong() {
        let pattern = |text: &str| Template::parse(text).map(|template| template.pattern());
        let check = |text: &str, expect: &str| assert_eq!(pattern(text).as_deref(), Ok(expect));
        check("telemetry/{site}/{device}/{type}", "telemetry/+/+/+");
        check("plant-{site}/all", "+/all");
        check("$aws/rules/x/{device}", "$aws/rules/x/+");
        check("/events/", "/events/");
        for wrong in ["", "a/{unit}", "a/{site", "a/#", "a/+", "$SYS/x", "a/}"] {
            assert!(pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_overlap_when_a_topic_can_match_both() {
        for (one, other, expect) in [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "b/#", false),
            ("#", "a/b/c", true),
            ("a/b", "a/b/c", false),
            ("a/+/c", "a/b/+", true),
            ("$share/g/a/+", "a/b", true),
        ] {
            assert_eq!(overlaps(one, other), expect, "{one} {other}");
            assert_eq!(overlaps(other, one), expect, "{other} {one}");
        }
        assert!(matches("a/b", "#") && !matches("$SYS/a", "#") && matches("$SYS/a", "$SYS/+"));
    }

    #[test]
    fn filters_that_no_broker_takes_are_found() {
        for fine in ["a", "#", "+/a/#", "$share/g/a", "/"] {
            assert_eq!(check_filter(fine), Ok(()), "{fine}");
        }
        for wrong in ["", "a#", "#/a", "a+/b", "a/b#"] {
            assert!(check_filter(wrong).is_err(), "{wrong}");
        }
    }
}
