//! A bucket: the keys of `[[destination]]` with `type = "s3"`.

use std::{path::Path, time::Duration};

use super::{KIB, LINGER_MAX, MIB, is_name, read_account};
use crate::{
    config::{destination::read_tls, reader::Table, stages::bytes},
    forward::{
        Kind,
        format::Format,
        s3::{Config, Prefix, Time},
    },
};

/// What the engine has in hand at most.
const BATCH_BYTES_MAX: u64 = 16 * MIB;
/// Which time of an event names have.
const TIMES: [(&str, Time); 2] = [("received", Time::Received), ("event", Time::Event)];

/// Reads the destination. Plans are below `data_dir`, certificates relative to `dir`.
pub(in crate::config) fn read(
    table: &Table<'_, '_, '_>,
    data_dir: &Path,
    dir: &Path,
) -> Option<Kind> {
    let bucket = table.required("bucket", "\"telemetry\"");
    let bucket = bucket.and_then(|text| table.parse("bucket", &text, bucket_name));
    let name = table.text("name").map(|text| text.value);
    let plans = data_dir.join("s3").join(name.unwrap_or_default());
    let default = Config::new(bucket.clone().unwrap_or_default(), plans);
    let account = read_account(table);
    let encrypted = |endpoint: &String| endpoint.starts_with("https://");
    let is_encrypted = account.endpoint.as_ref().is_none_or(encrypted);
    let time = table.word("prefix_time", &TIMES, Time::Received);
    let prefix = table.parsed("prefix", Prefix::parse);
    let config = Config {
        path_style: table.boolean("path_style", account.endpoint.is_some()),
        tls: read_tls(
            table,
            dir,
            is_encrypted,
            "the endpoint should begin with https://",
        ),
        prefix: prefix.unwrap_or_default().at(time),
        format: table.word("format", &Format::WORDS, default.format),
        headers: table
            .pairs("headers")
            .into_iter()
            .map(|(name, text)| (name.to_ascii_lowercase(), text.value.into()))
            .collect(),
        batch_records: table.number(
            "batch_records",
            1..=Config::BATCH_RECORDS_MAX as u64,
            default.batch_records,
        ),
        batch_bytes: bytes(table.size(
            "batch_bytes",
            KIB..=BATCH_BYTES_MAX,
            default.batch_bytes as u64,
        )),
        linger: table.duration("linger", Duration::ZERO..=LINGER_MAX, default.linger),
        in_flight: table.number("in_flight", 1..=64, default.in_flight),
        plans: default.plans,
        account,
        bucket: bucket?,
    };
    Some(Kind::S3(Box::new(config)))
}

fn bucket_name(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 63;
    match is_name(text, "-.", NAME_MAX) && text.len() >= 3 {
        true => Ok(text.to_owned()),
        false => Err("a bucket is its name, 3 to 63 letters, digits, \"-\" and \".\""),
    }
}
