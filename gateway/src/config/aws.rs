//! What reaches Amazon's services: the keys of `[[destination]]` with `type = "kinesis"`.

use std::time::Duration;

use super::{
    reader::{Table, Text},
    stages::bytes,
};
use crate::forward::{
    Kind,
    aws::{Account, Keys},
    kinesis::{self, Order},
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What the service takes where everything was raised.
const RECORD_BYTES_MAX: u64 = 10 * MIB;
const REQUEST_BYTES_MAX: u64 = 10 * MIB;
/// What it takes, whatever was raised.
const REQUEST_RECORDS_MAX: u64 = 500;

/// Reads a destination that is a data stream.
pub(super) fn read_kinesis(table: &Table<'_, '_, '_>) -> Option<Kind> {
    let stream = table.required("stream", "\"telemetry\"");
    let stream = stream.and_then(|text| table.parse("stream", &text, stream_name));
    let default = kinesis::Config::new(String::new());
    let orders = [("strict", Order::Strict), ("relaxed", Order::Relaxed)];
    let size = |key, most, default| table.size(key, KIB..=most, default as u64);
    let request_bytes = size("request_bytes", REQUEST_BYTES_MAX, default.request_bytes);
    let record_bytes_max = size(
        "record_bytes_max",
        RECORD_BYTES_MAX,
        default.record_bytes_max,
    );
    if record_bytes_max > request_bytes {
        let key = match table.span("record_bytes_max") {
            Some(_) => "record_bytes_max",
            None => "request_bytes",
        };
        let what = "record_bytes_max should be at most request_bytes";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    let config = kinesis::Config {
        account: read_account(table),
        aggregate: table.boolean("aggregate", default.aggregate),
        order: table.word("order", &orders, default.order),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        linger: table.duration(
            "linger",
            Duration::ZERO..=Duration::from_secs(3_600),
            default.linger,
        ),
        in_flight: table.number("in_flight", 1..=64, default.in_flight),
        request_records: table.number(
            "request_records",
            1..=REQUEST_RECORDS_MAX,
            default.request_records,
        ),
        request_bytes: bytes(request_bytes),
        record_bytes_max: bytes(record_bytes_max),
        stream: stream?,
    };
    Some(Kind::Kinesis(config))
}

fn read_account(table: &Table<'_, '_, '_>) -> Account {
    let default = Account::default();
    let endpoint = table.text("endpoint");
    let endpoint = endpoint.and_then(|text| table.parse("endpoint", &text, address));
    let region = table.text("region");
    let region = region.and_then(|text| table.parse("region", &text, region_name));
    Account {
        region,
        endpoint,
        profile: table.text("profile").map(|text| text.value),
        keys: read_keys(table),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        connect_timeout: table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout),
    }
}

fn read_keys(table: &Table<'_, '_, '_>) -> Option<Keys> {
    const ID: &str = "access_key_id";
    const SECRET: &str = "secret_access_key";
    const TOKEN: &str = "session_token";
    let (id, secret, token) = (table.text(ID), table.text(SECRET), table.text(TOKEN));
    let wrong = |key: &str, what: &str| table.mistake(table.span(key).as_ref(), key, what);
    if id.is_some() != secret.is_some() {
        let key = if id.is_some() { ID } else { SECRET };
        let what = "access_key_id and secret_access_key go together; the other one is missing";
        wrong(key, what);
    }
    if token.is_some() && id.is_none() {
        let what = "goes with access_key_id and secret_access_key, which are missing";
        wrong(TOKEN, what);
    }
    if id.is_some() && table.span("profile").is_some() {
        let what = "either profile, or access_key_id and secret_access_key";
        wrong("profile", what);
    }
    let value = |text: Text| text.value;
    Some(Keys {
        id: value(id?),
        secret: value(secret?).into(),
        token: token.map(|text| text.value.into()),
    })
}

fn stream_name(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 128;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name = (1..=NAME_MAX).contains(&text.len()) && text.chars().all(word);
    let is_arn = text.starts_with("arn:") && text.contains(":kinesis:") && text.contains("stream/");
    match is_name || is_arn {
        true => Ok(text.to_owned()),
        false => Err(
            "a stream is its name, 1 to 128 letters, digits, \"-\", \"_\" and \".\", or its ARN, such as \"arn:aws:kinesis:eu-central-1:123456789012:stream/telemetry\"",
        ),
    }
}

fn region_name(text: &str) -> Result<String, &'static str> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !text.is_empty() && text.chars().all(word) {
        true => Ok(text.to_owned()),
        false => Err("a region has lower-case letters, digits and \"-\", such as \"eu-central-1\""),
    }
}

fn address(text: &str) -> Result<String, &'static str> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        true => Ok(text.to_owned()),
        false => Err("an endpoint is a URL that begins with http:// or https://"),
    }
}

#[cfg(test)]
mod tests;
