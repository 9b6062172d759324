//! An event bus: the keys of `[[destination]]` with `type = "eventbridge"`.

use super::{batching, is_name, read_account};
use crate::{
    config::reader::Table,
    forward::{Kind, eventbridge},
};

/// The bus that every account has.
const DEFAULT_BUS: &str = "default";

/// Reads the destination.
pub(in crate::config) fn read(table: &Table<'_, '_, '_>) -> Option<Kind> {
    let bus = table
        .parsed("bus", bus)
        .unwrap_or_else(|| DEFAULT_BUS.to_owned());
    let default = eventbridge::Config::new(bus);
    let config = eventbridge::Config {
        source: table.parsed("source", source).unwrap_or(default.source),
        check_bus: table.boolean("check_bus", default.check_bus),
        account: read_account(table),
        batching: batching::read(table, "event_bytes_max", &default.batching),
        bus: default.bus,
    };
    Some(Kind::EventBridge(config))
}

fn bus(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 256;
    let parts: Vec<&str> = text.split(':').collect();
    let is_arn = match parts[..] {
        ["arn", partition, "events", region, account, bus] => {
            let known = [partition, region, account];
            let name = bus.strip_prefix("event-bus/");
            known.iter().all(|part| is_name(part, "-", NAME_MAX))
                && name.is_some_and(|name| is_name(name, "_-./", NAME_MAX))
        }
        _ => false,
    };
    match is_arn || is_name(text, "_-./", NAME_MAX) {
        true => Ok(text.to_owned()),
        false => Err(
            "a bus is its name, 1 to 256 letters, digits, \"-\", \"_\", \".\" and \"/\", or its ARN, such as \"arn:aws:events:eu-central-1:123456789012:event-bus/telemetry\"",
        ),
    }
}

fn source(text: &str) -> Result<String, &'static str> {
    const CHARS_MAX: usize = 256;
    match (1..=CHARS_MAX).contains(&text.chars().count()) && !text.starts_with("aws.") {
        true => Ok(text.to_owned()),
        false => Err("a source has 1 to 256 characters and does not begin with \"aws.\""),
    }
}
