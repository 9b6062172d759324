//! What reaches Apache Kafka: the keys of `[[destination]]` with `type = "kafka"`.

use std::{path::Path, time::Duration};

use krafka::Compression;

use super::{destination, reader::Table, stages::bytes};
use crate::forward::{
    self, Kind,
    kafka::{Config, Login, Mechanism, Tls, Transactions},
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const COMPRESSIONS: [(&str, Compression); 4] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("lz4", Compression::Lz4),
    ("snappy", Compression::Snappy),
];

/// Reads a destination. Notes are below `data_dir`, files relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, data_dir: &Path, dir: &Path) -> Option<Kind> {
    let addresses = read_brokers(table);
    let topic = table.required("topic", "\"telemetry\"");
    let topic = topic.and_then(|text| table.parse("topic", &text, topic_name));
    let default = Config::new(Vec::new(), String::new());
    let timeout = table.duration("timeout", MILLI..=DAY, default.timeout);
    let connect_timeout = table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout);
    if connect_timeout > timeout {
        let key = match table.span("timeout") {
            Some(_) => "timeout",
            None => "connect_timeout",
        };
        let what = "connect_timeout should be at most timeout";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    let config = Config {
        tls: read_tls(table, dir),
        login: read_login(table),
        client_id: table
            .text("client_id")
            .map_or(default.client_id, |text| text.value),
        compression: table.word("compression", &COMPRESSIONS, default.compression),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        batch_bytes: bytes(table.size("batch_bytes", KIB..=32 * MIB, default.batch_bytes as u64)),
        linger: table.duration(
            "linger",
            Duration::ZERO..=Duration::from_secs(3_600),
            default.linger,
        ),
        timeout,
        connect_timeout,
        transactions: read_transactions(table, data_dir),
        brokers: addresses,
        topic: topic?,
    };
    Some(Kind::Kafka(config))
}

fn read_transactions(table: &Table<'_, '_, '_>, data_dir: &Path) -> Option<Transactions> {
    let name = table.text("name").map(|text| text.value);
    let is_on = table.boolean("transactional", false);
    is_on.then(|| Transactions {
        // Who we are is known when the gateway starts.
        id: String::new(),
        notes: forward::notes_of_kafka(data_dir, &name.unwrap_or_default()),
    })
}

/// Where brokers are that tell where the others are.
pub(super) fn read_brokers(table: &Table<'_, '_, '_>) -> Vec<String> {
    let brokers = table.texts("brokers");
    if brokers.as_ref().is_none_or(Vec::is_empty) {
        let what = "is missing or empty; for example brokers = [\"kafka.example:9092\"]";
        table.mistake(table.span("brokers").as_ref(), "brokers", what);
    }
    let mut addresses = Vec::new();
    for broker in brokers.into_iter().flatten() {
        addresses.extend(table.parse("brokers", &broker, address));
    }
    addresses
}

pub(super) fn read_tls(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Tls> {
    let is_on = table.boolean("tls", false);
    let files = destination::read_tls(table, dir, is_on, "set tls = true");
    is_on.then_some(Tls {
        ca: files.ca,
        identity: files.identity,
    })
}

pub(super) fn read_login(table: &Table<'_, '_, '_>) -> Option<Login> {
    let mechanism = table.word("sasl", &Mechanism::WORDS, Mechanism::ScramSha512);
    let (user, password) = (table.text("user"), table.text("password"));
    let given: Vec<_> = ["sasl", "user", "password"]
        .into_iter()
        .filter(|key| table.span(key).is_some())
        .collect();
    if let [key, ..] = given[..]
        && given.len() < 3
    {
        let what = "sasl, user and password go together; not all of them are there";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    table.span("sasl")?;
    Some(Login {
        mechanism,
        user: user?.value,
        password: password?.value.into(),
    })
}

/// `HOST:PORT`, with an IPv6 address in brackets.
fn address(text: &str) -> Result<String, &'static str> {
    const SHAPE: &str = "a broker is a host and a port, such as \"kafka.example:9092\"";
    let (host, port) = text.rsplit_once(':').ok_or(SHAPE)?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty() && (is_bracketed || !host.contains([':', '/', ',', ' ']));
    match port.parse::<u16>() {
        Ok(1..) if is_host => Ok(text.to_owned()),
        _ => Err(SHAPE),
    }
}

pub(super) fn topic_name(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 249;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = (1..=NAME_MAX).contains(&text.len()) && text.chars().all(word);
    match is_name && text != "." && text != ".." {
        true => Ok(text.to_owned()),
        false => Err("a topic has 1 to 249 letters, digits, \".\", \"_\" and \"-\""),
    }
}

#[cfg(test)]
mod tests;
