//! The tables `[devices]`, `[commands]` and `[shadow]`.

use std::time::Duration;

use super::{reader::Table, stages::bytes};
use crate::fleet::{self, Payload, topic_objection};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

/// Reads them; by default their tables may take a quarter of the journal.
pub(super) fn read(
    devices: Table<'_, '_, '_>,
    commands: Table<'_, '_, '_>,
    shadow: Table<'_, '_, '_>,
    journal_bytes_max: u64,
) -> fleet::Config {
    let default = fleet::Config::default();
    let topic = |text: &str| match topic_objection(text) {
        Some(objection) => Err(objection),
        None => Ok(text.to_owned()),
    };
    let config = fleet::Config {
        devices_max: devices.number("devices_max", 1..=10_000_000, default.devices_max),
        topic: commands
            .parsed("topic", topic)
            .map_or(default.topic, Into::into),
        orders: commands.parsed("orders", topic).map(Into::into),
        shadow_topic: shadow
            .parsed("topic", topic)
            .map_or(default.shadow_topic, Into::into),
        shadow_bytes_max: bytes(shadow.size(
            "bytes_max",
            16..=256 * KIB,
            default.shadow_bytes_max as u64,
        )),
        payload: commands.word("payload", &Payload::WORDS, default.payload),
        deadline: commands.duration("deadline", SECOND..=365 * DAY, default.deadline),
        deadline_max: commands.duration("deadline_max", SECOND..=365 * DAY, default.deadline_max),
        payload_bytes_max: bytes(commands.size(
            "payload_bytes_max",
            16..=1024 * KIB,
            default.payload_bytes_max as u64,
        )),
        open_per_device_max: commands.number(
            "open_per_device_max",
            1..=1_000,
            default.open_per_device_max,
        ),
        open_max: commands.number("open_max", 1..=10_000_000, default.open_max),
        bytes_max: commands.size("bytes_max", 1024 * KIB..=1024 * GIB, journal_bytes_max / 4),
        keep: commands.duration("keep", SECOND..=3_650 * DAY, default.keep),
        keep_max: commands.number("keep_max", 1..=10_000_000, default.keep_max),
    };
    if config.orders.as_ref() == Some(&config.topic) {
        let what = "devices hear commands on that topic; place them on another one";
        commands.mistake(commands.span("orders").as_ref(), "orders", what);
    }
    if config.deadline > config.deadline_max {
        let key = match commands.span("deadline") {
            Some(_) => "deadline",
            None => "deadline_max",
        };
        let what =
            "deadline should be at most deadline_max; make deadline shorter or deadline_max longer";
        commands.mistake(commands.span(key).as_ref(), key, what);
    }
    if config.bytes_max >= journal_bytes_max
        && let Some(span) = commands.span("bytes_max")
    {
        let what = "bytes_max should be less than size_max of [store]: telemetry needs room too; make bytes_max smaller or size_max larger";
        commands.mistake(Some(&span), "bytes_max", what);
    }
    devices.finish();
    commands.finish();
    shadow.finish();
    config
}
