//! `[[destination]]` with `type = "postgres"`.

use std::{path::Path, time::Duration};

use super::{destination::read_tls, reader::Table, stages::bytes};
use crate::forward::{
    Kind,
    postgres::{Config, Layout, Server, Table as Name},
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Reads a destination. Files are relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    let servers = table.texts("servers");
    if servers.as_ref().is_none_or(Vec::is_empty) {
        let what = "is missing or empty; for example servers = [\"db.example:5432\"]";
        table.mistake(table.span("servers").as_ref(), "servers", what);
    }
    let mut addresses = Vec::new();
    for server in servers.into_iter().flatten() {
        addresses.extend(table.parse("servers", &server, Server::parse));
    }
    let database = table.required("database", "\"telemetry\"");
    let user = table.required("user", "\"penstock\"");
    let default = Config::new(Vec::new(), "", "");
    let name = match table.text("table") {
        Some(text) => table.parse("table", &text, Name::parse),
        None => Some(default.table.clone()),
    };
    let is_encrypted = table.boolean("tls", false);
    let files = read_tls(table, dir, is_encrypted, "set tls = true");
    if is_encrypted && addresses.iter().any(Server::is_socket) {
        let what = "a Unix socket has no TLS; leave it away, or name hosts";
        table.mistake(table.span("tls").as_ref(), "tls", what);
    }
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
        password: table.text("password").map(|text| text.value.into()),
        tls: is_encrypted.then_some(files),
        layout: table.word("layout", &Layout::WORDS, default.layout),
        partitioned: table.boolean("partitioned", default.partitioned),
        create_table: table.boolean("create_table", default.create_table),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        batch_bytes: bytes(table.size("batch_bytes", KIB..=64 * MIB, default.batch_bytes as u64)),
        linger: table.duration(
            "linger",
            Duration::ZERO..=Duration::from_secs(3_600),
            default.linger,
        ),
        timeout,
        connect_timeout,
        servers: addresses,
        database: database?.value,
        user: user?.value,
        table: name?,
    };
    Some(Kind::Postgres(config))
}

#[cfg(test)]
mod tests;
