//! A data stream: the keys of `[[destination]]` with `type = "kinesis"`.

use std::time::Duration;

use super::{KIB, LINGER_MAX, MIB, ORDERS, check_fits, is_name, read_account};
use crate::{
    config::{reader::Table, stages::bytes},
    forward::{Kind, kinesis},
};

/// What the service takes where everything was raised.
const RECORD_BYTES_MAX: u64 = 10 * MIB;
const REQUEST_BYTES_MAX: u64 = 10 * MIB;
/// What it takes, whatever was raised.
const REQUEST_RECORDS_MAX: u64 = 500;

/// Reads the destination.
pub(in crate::config) fn read(table: &Table<'_, '_, '_>) -> Option<Kind> {
    let stream = table.required("stream", "\"telemetry\"");
    let stream = stream.and_then(|text| table.parse("stream", &text, stream_name));
    let default = kinesis::Config::new(String::new());
    let size = |key, most, default| table.size(key, KIB..=most, default as u64);
    let request_bytes = size("request_bytes", REQUEST_BYTES_MAX, default.request_bytes);
    let record_bytes_max = size(
        "record_bytes_max",
        RECORD_BYTES_MAX,
        default.record_bytes_max,
    );
    check_fits(table, "record_bytes_max", record_bytes_max, request_bytes);
    let config = kinesis::Config {
        account: read_account(table),
        aggregate: table.boolean("aggregate", default.aggregate),
        order: table.word("order", &ORDERS, default.order),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        linger: table.duration("linger", Duration::ZERO..=LINGER_MAX, default.linger),
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

fn stream_name(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 128;
    let is_arn = text.starts_with("arn:") && text.contains(":kinesis:") && text.contains("stream/");
    match is_name(text, "_-.", NAME_MAX) || is_arn {
        true => Ok(text.to_owned()),
        false => Err(
            "a stream is its name, 1 to 128 letters, digits, \"-\", \"_\" and \".\", or its ARN, such as \"arn:aws:kinesis:eu-central-1:123456789012:stream/telemetry\"",
        ),
    }
}

#[cfg(test)]
mod tests;
