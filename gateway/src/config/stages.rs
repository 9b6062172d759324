//! The tables of single stages: `[broker]`, `[store]`, `[dedup]`, `[log]`.

use std::{path::Path, sync::Arc, time::Duration};

use super::{keep, limits, listener, reader::Table, shed};
use crate::{
    event::message::Payload,
    events, query,
    store::{OnFull, Shed},
    telemetry::{self, Format},
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// The journal's queue holds 32 MiB of entries, and a packet may become an event
/// and a quarantined rest of itself.
const PACKET_BYTES_MAX: u64 = 8 * MIB;
/// Below this SQLite's own pages and the write-ahead log leave no room.
const STORE_BYTES_MIN: u64 = 8 * MIB;

pub(super) fn broker(
    table: Table<'_, '_, '_>,
    dir: &Path,
    auth: penstock_broker::auth::Config,
) -> penstock_broker::Config {
    let default = penstock_broker::Config::default();
    let listeners = listener::read(&table, dir);
    let packet_bytes_max = bytes(table.size(
        "packet_bytes_max",
        KIB..=PACKET_BYTES_MAX,
        default.packet_bytes_max as u64,
    ));
    let configs: Vec<_> = listeners.iter().map(|one| one.config.clone()).collect();
    let limits = limits::limits(table.table("limits"), packet_bytes_max, &configs);
    let config = penstock_broker::Config {
        listeners: configs,
        auth,
        connections_max: table.number("connections_max", 1..=1_000_000, default.connections_max),
        packet_bytes_max,
        connect_timeout: table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout),
        receive_max: table.number("receive_max", 1..=65_535, default.receive_max),
        outbound_in_flight_max: table.number(
            "outbound_in_flight_max",
            1..=65_535,
            default.outbound_in_flight_max,
        ),
        outbound_queue_bytes_max: bytes(table.size(
            "outbound_queue_bytes_max",
            KIB..=1024 * MIB,
            default.outbound_queue_bytes_max as u64,
        )),
        subscriptions_per_client_max: table.number(
            "subscriptions_per_client_max",
            1..=1_000_000,
            default.subscriptions_per_client_max,
        ),
        keep_alive_max: table.duration_or_never(
            "keep_alive_max",
            Duration::from_secs(1)..=Duration::from_secs(65_535),
            default.keep_alive_max,
        ),
        response_information: table
            .parsed("response_information", response_information)
            .map(Arc::from),
        sys_interval: table
            .duration_or_never(
                "sys_interval",
                Duration::from_secs(1)..=DAY,
                Some(default.sys_interval),
            )
            .unwrap_or_default(),
        limits,
        keep: keep::keep(&table),
    };
    listener::check(&table, &listeners, &config);
    table.finish();
    config
}

/// A topic, or the beginning of one, that clients append to.
fn response_information(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > 1024 || text.contains(['+', '#', '\0']) {
        return Err(
            "this is the beginning of topics for responses, such as \"responses/{client}/\": \
             at most 1024 bytes, without + and #",
        );
    }
    Ok(text.to_owned())
}

pub(super) fn events(table: Table<'_, '_, '_>) -> events::Config {
    let default = events::Config::default();
    let config = events::Config {
        format: table.word("format", &Payload::WORDS, default.format),
    };
    table.finish();
    config
}

pub(super) fn read(table: Table<'_, '_, '_>) -> query::Config {
    let default = query::Config::default();
    let keep = |key, default| table.duration(key, Duration::from_secs(60)..=3_650 * DAY, default);
    let config = query::Config {
        events_keep: keep("events_keep", default.events_keep),
        raw_keep: keep("raw_keep", default.raw_keep),
        minute_keep: keep("minute_keep", default.minute_keep),
        hour_keep: keep("hour_keep", default.hour_keep),
        enabled: table.boolean("enabled", default.enabled),
        size_max: table.size("size_max", 8 * MIB..=TIB, default.size_max),
        series_max: table.number("series_max", 1..=10_000_000, default.series_max),
    };
    keeps(&table, &config);
    table.finish();
    config
}

/// The coarser, the longer: a series is forgotten with its hours, and an answer in long
/// steps goes at least as far back as one in short ones.
fn keeps(table: &Table<'_, '_, '_>, config: &query::Config) {
    let keeps = [
        ("raw_keep", config.raw_keep),
        ("minute_keep", config.minute_keep),
        ("hour_keep", config.hour_keep),
    ];
    for pair in keeps.windows(2) {
        let [(finer, short), (coarser, long)] = [pair[0], pair[1]];
        if long < short {
            let key = match table.span(coarser) {
                Some(_) => coarser,
                None => finer,
            };
            let what = format!(
                "{coarser} should be at least {finer}; make {coarser} longer or {finer} shorter"
            );
            table.mistake(table.span(key).as_ref(), key, what);
        }
    }
}

/// What `[store]` and `[dedup]` say; the rest of the journal's settings come from elsewhere.
pub(super) struct Journal {
    pub(super) max_bytes: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) keep_delivered: Option<Duration>,
    pub(super) on_full: OnFull,
    pub(super) shed: Vec<Shed>,
    pub(super) reserve_bytes: u64,
    pub(super) dedup_age: Duration,
    pub(super) dedup_count: usize,
    pub(super) dedup_memory_bytes: usize,
}

/// Reads the tables. `keeps` says whether messages are kept as they came: then delivered
/// events stay as long as undelivered ones would, unless `keep_delivered` says otherwise.
pub(super) fn journal(store: Table<'_, '_, '_>, dedup: Table<'_, '_, '_>, keeps: bool) -> Journal {
    let on_full = [
        ("push-back", OnFull::PushBack),
        ("drop-oldest", OnFull::DropOldest),
    ];
    let ages = Duration::from_secs(1)..=36_500 * DAY;
    let max_age = store.duration_or_never("age_max", ages.clone(), Some(7 * DAY));
    let otherwise = keeps.then(|| max_age.unwrap_or(7 * DAY));
    let journal = Journal {
        max_bytes: store.size("size_max", STORE_BYTES_MIN..=16 * TIB, 1024 * MIB),
        max_age,
        keep_delivered: store.duration_or_never("keep_delivered", ages, otherwise),
        on_full: store.word("on_full", &on_full, OnFull::PushBack),
        shed: shed::read(&store),
        reserve_bytes: store.size("reserve", 64 * KIB..=1024 * MIB, 16 * MIB),
        dedup_age: dedup.duration("age_max", Duration::from_secs(1)..=365 * DAY, DAY),
        dedup_count: dedup.number("keys_max", 1_000..=1_000_000_000, 2_000_000),
        dedup_memory_bytes: bytes(dedup.size("memory_max", MIB..=64 * 1024 * MIB, 128 * MIB)),
    };
    if journal.reserve_bytes > journal.max_bytes / 2 {
        let key = if store.span("reserve").is_some() {
            "reserve"
        } else {
            "size_max"
        };
        let what =
            "reserve should be at most half of size_max; make reserve smaller or size_max larger";
        store.mistake(store.span(key).as_ref(), key, what);
    }
    store.finish();
    dedup.finish();
    journal
}

pub(super) fn log(table: Table<'_, '_, '_>) -> telemetry::Config {
    let default = telemetry::Config::default();
    let level = |text: &str| match telemetry::Config::level_is_valid(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "a level is error, warn, info, debug or trace, or a filter such as \"info,penstock::forward=debug\"",
        ),
    };
    let formats = [("text", Format::Text), ("json", Format::Json)];
    let config = telemetry::Config {
        level: table.parsed("level", level).unwrap_or(default.level),
        format: table.word("format", &formats, default.format),
    };
    table.finish();
    config
}

/// Sizes in memory; their bounds keep them within it.
pub(super) fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
