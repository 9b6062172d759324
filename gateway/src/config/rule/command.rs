//! `[rule.command]`: a command to a device.

use std::time::Duration;

use crate::{
    config::{reader::Table, unit::Written},
    rules::{
        action::{Addressee, Command},
        transform::Transform,
    },
};

/// Bytes of a command's name, at most.
const NAME_BYTES_MAX: usize = 256;

/// Reads it. No command has more time than `deadline_max`.
pub(super) fn read(table: &Table<'_, '_, '_>, deadline_max: Duration) -> Option<Command> {
    const SECOND: Duration = Duration::from_secs(1);
    const YEAR: Duration = Duration::from_hours(365 * 24);
    if !table.is_present() {
        return None;
    }
    let paths = table.pairs("paths");
    let paths = || paths.iter().map(|(name, path)| (&**name, &*path.value));
    let device = table.parsed("device", |text| Addressee::parse(paths(), text));
    let name = |text: &str| {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        Transform::text(paths(), text).map_err(|error| error.to_string())
    };
    let name = table.parsed("name", name);
    let payload = |text: &str| {
        let read = Transform::new(paths(), text).map_err(|error| error.to_string())?;
        match read.is_json() {
            true => Ok(read),
            false => Err(
                "is not JSON once its places are filled in; for example payload = '{\"open\": <t>}'"
                    .to_owned(),
            ),
        }
    };
    let payload = table.parsed("payload", payload);
    let qos = table.number("qos", 0..=2, 1);
    let written = table.span("deadline");
    let deadline = table.duration("deadline", SECOND..=YEAR, SECOND);
    let deadline = written.as_ref().map(|_| deadline);
    if deadline.is_some_and(|deadline| deadline > deadline_max) {
        let what = format!(
            "is longer than deadline_max of [commands], {}",
            Written(deadline_max)
        );
        table.mistake(written.as_ref(), "deadline", what);
    }
    table.finish();
    Some(Command {
        device,
        name,
        payload,
        qos,
        deadline,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    fn mistakes(command: &str) -> String {
        let text = format!(
            "[commands]\ndeadline_max = \"2d\"\n[[rule]]\nname = \"shut\"\n\
             pattern = '{{\"device\": [\"b7\"]}}'\n[rule.command]\n{command}\n"
        );
        match Config::from_text(&text, Path::new(""), &|_| None) {
            Ok(config) => {
                assert!(config.rules[0].actions.command.is_some());
                String::new()
            }
            Err(mistakes) => mistakes.to_string(),
        }
    }

    #[test]
    fn a_command_is_read_or_said_to_be_wrong_with_its_line_and_key() {
        for fine in [
            "",
            "name = \"close\"\nqos = 2\ndeadline = \"10m\"",
            "device = \"valve-{device}\"\npayload = '{\"by\": \"{}\"}'",
            "device = \"<v>\"\nname = \"<v>\"\npayload = '<v>'\npaths = { v = \"$.data.tags.valve\" }",
        ] {
            assert_eq!(mistakes(fine), "", "{fine}");
        }
        for (wrong, said) in [
            (
                "qos = 3",
                ":7: rule[1].command.qos: 3 is not between 0 and 2",
            ),
            (
                "deadline = \"3d\"",
                ":7: rule[1].command.deadline: is longer than",
            ),
            (
                "payload = 'closed'",
                "rule[1].command.payload: \"closed\": is not JSON once",
            ),
            (
                "device = \"<v>\"",
                "rule[1].command.device: \"<v>\": <v> has no path",
            ),
            ("device = \"\"", "leave the key away for the event's own"),
            ("device = \"{valve}\"", "only {site}, {device} and {type}"),
            (
                "device = \"{device}<v>\"\npaths = { v = \"$.device\" }",
                "places of both kinds",
            ),
            ("name = \"\"", "a name has 1 to 256 bytes"),
            ("topic = \"x\"", "rule[1].command.topic: is not a key"),
        ] {
            let mistakes = mistakes(wrong);
            assert!(mistakes.contains(said), "{wrong}: {mistakes}");
        }
    }
}
