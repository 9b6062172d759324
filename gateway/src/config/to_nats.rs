//! `[[destination]]` with `type = "nats"`.

use std::{path::Path, time::Duration};

use super::{
    destination::{dictionary, only_one, read_tls},
    reader::Table,
};
use crate::forward::{
    Kind,
    nats::{Config, Login, Storage},
};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const STORAGE: [(&str, Storage); 2] = [("file", Storage::File), ("memory", Storage::Memory)];

/// Reads a destination. Files are relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    let servers = table.texts("servers");
    if servers.as_ref().is_none_or(Vec::is_empty) {
        let what = "is missing or empty; for example servers = [\"nats://127.0.0.1:4222\"]";
        table.mistake(table.span("servers").as_ref(), "servers", what);
    }
    // One that speaks TLS speaks it with all of them: credentials are the same for all.
    let is_encrypted = servers.iter().flatten().any(|server| {
        ["tls://", "wss://"]
            .iter()
            .any(|scheme| server.value.starts_with(scheme))
    });
    let stream = table.required("stream", "\"TELEMETRY\"");
    let default = Config::new(Vec::new(), String::new());
    let config = Config {
        subject: table
            .text("subject")
            .map_or(default.subject, |text| text.value),
        create_stream: table.boolean("create_stream", default.create_stream),
        duplicate_window: table.duration(
            "duplicate_window",
            Duration::from_millis(100)..=365 * DAY,
            default.duplicate_window,
        ),
        storage: table.word("storage", &STORAGE, default.storage),
        replicas: table.number("replicas", 1..=5, default.replicas),
        in_flight: table.number("in_flight", 1..=100_000, default.in_flight),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        dictionary: dictionary(table, dir),
        login: read_login(table, dir),
        tls: read_tls(
            table,
            dir,
            is_encrypted || servers.as_ref().is_none_or(Vec::is_empty),
            "the address should begin with tls://",
        ),
        tls_first: table.boolean("tls_first", default.tls_first),
        servers: servers?.into_iter().map(|server| server.value).collect(),
        stream: stream?.value,
    };
    if config.tls_first && !is_encrypted {
        let what = "is for TLS; the address should begin with tls://";
        table.mistake(table.span("tls_first").as_ref(), "tls_first", what);
    }
    Some(Kind::Nats(config))
}

pub(super) fn read_login(table: &Table<'_, '_, '_>, dir: &Path) -> Login {
    let text = |key| table.text(key).map(|text| text.value);
    let (user, password) = (text("user"), text("password"));
    let (token, nkey) = (text("token"), text("nkey"));
    let credentials = text("credentials").map(|path| dir.join(path));
    if user.is_some() != password.is_some() {
        let key = if user.is_some() { "user" } else { "password" };
        let what = "user and password go together; the other one is missing";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    only_one(table, &["user", "token", "nkey", "credentials"]);
    if let Some(path) = credentials {
        Login::Credentials(path)
    } else if let Some(seed) = nkey {
        let login = Login::Nkey(seed.into());
        if let Err(what) = login.check() {
            table.mistake(table.span("nkey").as_ref(), "nkey", what);
        }
        login
    } else if let Some(token) = token {
        Login::Token(token.into())
    } else if let Some((user, password)) = user.zip(password) {
        let password = password.into();
        Login::User { user, password }
    } else {
        Login::None
    }
}
