//! `[broker.limits]`: what one client, one address and one identity may take.

use std::time::Duration;

use penstock_broker::{Limits, Rates, acl::Pattern, listener};

use super::{auth::list, reader::Table, stages::bytes};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// A second of credit at least, or a steady client would be slowed by its own rhythm.
const BURST_MIN: Duration = Duration::from_secs(1);
const BURST_MAX: Duration = Duration::from_secs(3600);

/// Beyond that nobody could say which counts.
const RATES_MAX: usize = 1_000;

pub(super) fn limits(
    table: Table<'_, '_, '_>,
    packet_bytes_max: usize,
    listeners: &[listener::Config],
) -> Limits {
    let default = Limits::default();
    let connections = |key, default: usize| -> usize { table.number(key, 0..=1_000_000, default) };
    let rate = |key, default: u32| -> u32 { table.number(key, 0..=u32::MAX.into(), default) };
    let limits = Limits {
        connections_per_address_max: connections(
            "connections_per_address_max",
            default.connections_per_address_max,
        ),
        connections_per_identity_max: connections(
            "connections_per_identity_max",
            default.connections_per_identity_max,
        ),
        connect_rate_max: rate("connect_rate_max", default.connect_rate_max),
        connect_rate_per_address_max: rate(
            "connect_rate_per_address_max",
            default.connect_rate_per_address_max,
        ),
        publish_rate_max: rate("publish_rate_max", default.publish_rate_max),
        publish_bytes_rate_max: table.size(
            "publish_bytes_rate_max",
            0..=TIB,
            default.publish_bytes_rate_max,
        ),
        rates: Vec::new(),
        publish_burst: table.duration(
            "publish_burst",
            BURST_MIN..=BURST_MAX,
            default.publish_burst,
        ),
        topic_bytes_max: table.number("topic_bytes_max", 1..=4096, default.topic_bytes_max),
        topic_levels_max: table.number("topic_levels_max", 1..=128, default.topic_levels_max),
        memory_max: bytes(table.size("memory_max", 16 * MIB..=TIB, default.memory_max as u64)),
    };
    let tables = table.tables("rate").unwrap_or_default();
    if tables.len() > RATES_MAX {
        let what = format!("{} entries; there can be {RATES_MAX}", tables.len());
        table.mistake(table.span("rate").as_ref(), "rate", what);
    }
    let of = tables.iter().map(|table| rates(table, &limits, listeners));
    let rates = of.collect();
    let limits = Limits { rates, ..limits };
    // A quarter of it is for packets that are being read, and four must fit.
    let least = packet_bytes_max.saturating_mul(16);
    if limits.memory_max < least {
        let what = format!(
            "memory_max should be at least 16 times packet_bytes_max, {least} bytes; \
             make memory_max larger or packet_bytes_max smaller"
        );
        table.mistake(table.span("memory_max").as_ref(), "memory_max", what);
    }
    table.finish();
    limits
}

/// Rates of some clients; what is left away is as for all.
fn rates(table: &Table<'_, '_, '_>, common: &Limits, listeners: &[listener::Config]) -> Rates {
    let known = |name: &str| {
        if listeners.iter().any(|one| one.name == name) {
            return Ok(name.to_owned());
        }
        let names: Vec<_> = listeners.iter().map(|one| &*one.name).collect();
        Err(format!(
            "no listener has this name; there are {}",
            names.join(", ")
        ))
    };
    let rates = Rates {
        users: list(table, "users", Pattern::parse),
        listeners: list(table, "listeners", known),
        publish_rate_max: table.number(
            "publish_rate_max",
            0..=u32::MAX.into(),
            common.publish_rate_max,
        ),
        publish_bytes_rate_max: table.size(
            "publish_bytes_rate_max",
            0..=TIB,
            common.publish_bytes_rate_max,
        ),
    };
    if table.span("users").is_none() && table.span("listeners").is_none() {
        let what = "is for nobody in particular; name users or listeners, or set the rate in \
                    [broker.limits] for all";
        table.mistake(None, "", what);
    }
    table.finish();
    rates
}
