//! `[[destination]]`: how fast it is fed, and when; hours of whatever has some.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{mapping, reader::Table};
use crate::{
    forward::pace::{Budget, Config, Period},
    hours::{Cron, Window},
};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const TIB: u64 = 1 << 40;
/// Windows of one destination or rule, at most.
const WINDOWS_MAX: usize = 32;

/// Reads the keys about it, and `[[destination.window]]`.
pub(super) fn read(table: &Table<'_, '_, '_>) -> Config {
    let is_given = |key| table.span(key).is_some();
    let rate_records = table.number("rate_records", 1..=1_000_000_000, 1);
    let rate_bytes = table.size("rate_bytes", 1..=TIB, 1);
    let budget = table.size("budget", 1..=1024 * TIB, 1);
    let periods = [("day", Period::Day), ("month", Period::Month)];
    let period = table.word("budget_period", &periods, Period::Month);
    if is_given("budget_period") && !is_given("budget") {
        let what = "is for a budget; for example budget = \"500MiB\"";
        table.mistake(table.span("budget_period").as_ref(), "budget_period", what);
    }
    Config {
        records_per_sec: is_given("rate_records").then_some(rate_records),
        bytes_per_sec: is_given("rate_bytes").then_some(rate_bytes),
        budget: is_given("budget").then_some(Budget {
            bytes: budget,
            period,
        }),
        windows: windows(table),
        time_zone: time_zone(table),
        latency_max: table.duration("latency_max", MILLI..=DAY, Config::LATENCY_MAX),
    }
}

/// Its hours: the key `window`.
pub(super) fn windows(table: &Table<'_, '_, '_>) -> Vec<Window> {
    let windows = table.tables("window").unwrap_or_default();
    if windows.len() > WINDOWS_MAX {
        let what = format!("{} windows; there can be {WINDOWS_MAX}", windows.len());
        table.mistake(table.span("window").as_ref(), "window", what);
    }
    windows.iter().filter_map(window).collect()
}

/// Whose hours these are.
pub(super) fn time_zone(table: &Table<'_, '_, '_>) -> TimeZone {
    mapping::zone(table, "time_zone").unwrap_or(TimeZone::UTC)
}

fn window(table: &Table<'_, '_, '_>) -> Option<Window> {
    let opens = table.required("opens", "\"0 22 * * *\"");
    let opens = opens.and_then(|text| {
        table.parse("opens", &text, |text| {
            Cron::parse(text).map_err(|error| {
                format!(
                    "{error}; five fields say minute, hour, day of the month, month and day of \
                     the week, such as \"0 22 * * *\" for ten every night"
                )
            })
        })
    });
    if table.span("length").is_none() {
        table.mistake(None, "length", "is missing; for example length = \"4h\"");
    }
    let length = table.duration("length", MINUTE..=31 * DAY, MINUTE);
    table.finish();
    Some(Window {
        opens: opens?,
        length,
    })
}
