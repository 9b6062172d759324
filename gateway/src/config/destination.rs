//! `[[destination]]`: where events go.

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    reader::{Table, Text},
    words::OneOf,
};
use crate::forward::{self, Kind, file};

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Names of types, whether this build has them or not.
const TYPES: [&str; 6] = ["file", "http", "kafka", "kinesis", "mqtt", "nats"];

/// One destination with the places of what must differ from the others.
pub(super) struct Read {
    pub(super) name: Option<Text>,
    pub(super) config: Option<forward::Config>,
}

/// Reads one destination. Certificates are relative to `dir`.
pub(super) fn read(table: &Table<'_, '_, '_>, data_dir: &Path, dir: &Path) -> Read {
    let before = table.reader.mistakes();
    let name = table.required("name", "\"events\"");
    if let Some(name) = &name {
        table.parse("name", name, check_name);
    }
    let kind = table.required("type", "\"file\"");
    if kind.is_none() {
        // Which keys belong to it is not known, so none is called unknown.
        table.know_all();
    }
    let kind = kind.and_then(|kind| read_kind(table, &kind, data_dir, dir));
    let retry_first = table.duration("retry_first", MILLI..=DAY, forward::Config::RETRY_FIRST);
    let retry_max = table.duration("retry_max", MILLI..=DAY, forward::Config::RETRY_MAX);
    if retry_first > retry_max {
        let key = if table.span("retry_first").is_some() {
            "retry_first"
        } else {
            "retry_max"
        };
        let what = "retry_first should be at most retry_max";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    let attempts_max = table.number("attempts_max", 1..=1_000_000, forward::Config::ATTEMPTS_MAX);
    table.finish();
    let config = kind.zip(name.as_ref()).map(|(kind, name)| forward::Config {
        name: Arc::from(name.value.as_str()),
        kind,
        retry_first,
        retry_max,
        attempts_max,
    });
    // What the stage itself checks, unless it was said already with its key.
    if table.reader.mistakes() == before
        && let Some(Err(error)) = config.as_ref().map(forward::Config::check)
    {
        table.mistake(None, "", error);
    }
    Read { name, config }
}

/// The destination of a gateway without a configuration.
pub(super) fn default(data_dir: &Path) -> forward::Config {
    forward::Config {
        name: "events".into(),
        kind: Kind::File(file::Config::new(data_dir.join("events"))),
        retry_first: forward::Config::RETRY_FIRST,
        retry_max: forward::Config::RETRY_MAX,
        attempts_max: forward::Config::ATTEMPTS_MAX,
    }
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    const BYTES_MAX: usize = 64;
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > BYTES_MAX || !name.chars().all(word) {
        return Err("a name has 1 to 64 lower-case letters, digits, \"-\" and \"_\"");
    }
    Ok(())
}

fn read_kind(table: &Table<'_, '_, '_>, kind: &Text, data_dir: &Path, dir: &Path) -> Option<Kind> {
    match kind.value.as_str() {
        "file" => read_file(table, data_dir).map(Kind::File),
        "http" => read_http(table),
        "kafka" => read_kafka(table, dir),
        "kinesis" => read_kinesis(table),
        "nats" => read_nats(table),
        "mqtt" => read_mqtt(table, dir),
        _ => {
            table.know_all();
            table.parse("type", kind, |kind| {
                Err::<Kind, _>(OneOf(TYPES.into()).instead_of(kind))
            })
        }
    }
}

fn read_file(table: &Table<'_, '_, '_>, data_dir: &Path) -> Option<file::Config> {
    let path = table.required("path", "\"events\"");
    let path = path.and_then(|text| table.parse("path", &text, |path| plain(path, data_dir)));
    let default = file::Config::new(PathBuf::new());
    let config = file::Config {
        rotate_size: table.size(
            "rotate_size",
            4 * KIB..=1024 * 1024 * MIB,
            default.rotate_size,
        ),
        rotate_age: table.duration(
            "rotate_age",
            Duration::from_secs(1)..=3_650 * DAY,
            default.rotate_age,
        ),
        files_max: table.number("files_max", 0..=1_000_000_000, default.files_max),
        path: path?,
    };
    Some(config)
}

/// A directory without detours, so that two names of one place are seen to be one.
fn plain(text: &str, data_dir: &Path) -> Result<PathBuf, &'static str> {
    if text.is_empty() {
        return Err("a path names a directory, such as \"events\"");
    }
    let mut path = data_dir.to_path_buf();
    for component in Path::new(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => return Err("a path has no \"..\""),
            component => path.push(component),
        }
    }
    if path == data_dir {
        return Err("the journal is there; a directory in it would do, such as \"events\"");
    }
    Ok(path)
}

#[cfg(feature = "http")]
fn read_http(table: &Table<'_, '_, '_>) -> Option<Kind> {
    use forward::http;

    let default = http::Config::new(String::new());
    let url = table
        .required("url", "\"https://lake.example/events\"")
        .and_then(|text| {
            let parse = |url: &str| match url.starts_with("http://") || url.starts_with("https://")
            {
                true => Ok(url.to_owned()),
                false => Err("a URL begins with http:// or https://"),
            };
            table.parse("url", &text, parse)
        });
    let config = http::Config {
        gzip: table.boolean("gzip", default.gzip),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        connect_timeout: table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout),
        batch_records: table.number("batch_records", 1..=10_000, default.batch_records),
        batch_bytes: super::stages::bytes(table.size(
            "batch_bytes",
            KIB..=64 * MIB,
            default.batch_bytes as u64,
        )),
        linger: table.duration(
            "linger",
            Duration::ZERO..=Duration::from_secs(3_600),
            default.linger,
        ),
        headers: table
            .pairs("headers")
            .into_iter()
            .map(|(name, text)| (name, text.value.into()))
            .collect(),
        url: url?,
    };
    Some(Kind::Http(config))
}

#[cfg(not(feature = "http"))]
fn read_http(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "http")
}

#[cfg(feature = "nats")]
fn read_nats(table: &Table<'_, '_, '_>) -> Option<Kind> {
    use forward::nats::{self, Storage};

    let servers = table.texts("servers");
    if servers.as_ref().is_none_or(Vec::is_empty) {
        let what = "is missing or empty; for example servers = [\"nats://127.0.0.1:4222\"]";
        table.mistake(table.span("servers").as_ref(), "servers", what);
    }
    let stream = table.required("stream", "\"TELEMETRY\"");
    let default = nats::Config::new(Vec::new(), String::new());
    let storage = [("file", Storage::File), ("memory", Storage::Memory)];
    let config = nats::Config {
        subject: table
            .text("subject")
            .map_or(default.subject, |text| text.value),
        create_stream: table.boolean("create_stream", default.create_stream),
        duplicate_window: table.duration(
            "duplicate_window",
            Duration::from_millis(100)..=365 * DAY,
            default.duplicate_window,
        ),
        storage: table.word("storage", &storage, default.storage),
        replicas: table.number("replicas", 1..=5, default.replicas),
        in_flight: table.number("in_flight", 1..=100_000, default.in_flight),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        user: table.text("user").map(|text| text.value),
        password: table.text("password").map(|text| text.value.into()),
        token: table.text("token").map(|text| text.value.into()),
        servers: servers?.into_iter().map(|server| server.value).collect(),
        stream: stream?.value,
    };
    if config.user.is_some() != config.password.is_some() {
        let key = if config.user.is_some() {
            "user"
        } else {
            "password"
        };
        let what = "user and password go together; the other one is missing";
        table.mistake(table.span(key).as_ref(), key, what);
    }
    if config.token.is_some() && config.user.is_some() {
        let what = "either token, or user and password";
        table.mistake(table.span("token").as_ref(), "token", what);
    }
    Some(Kind::Nats(config))
}

#[cfg(not(feature = "nats"))]
fn read_nats(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "nats")
}

#[cfg(feature = "kafka")]
fn read_kafka(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::kafka::read(table, dir)
}

#[cfg(not(feature = "kafka"))]
fn read_kafka(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "kafka")
}

#[cfg(feature = "kinesis")]
fn read_kinesis(table: &Table<'_, '_, '_>) -> Option<Kind> {
    super::aws::read_kinesis(table)
}

#[cfg(not(feature = "kinesis"))]
fn read_kinesis(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "kinesis")
}

#[cfg(feature = "mqtt")]
fn read_mqtt(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::mqtt::read_destination(table, dir)
}

#[cfg(not(feature = "mqtt"))]
fn read_mqtt(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "mqtt")
}

#[cfg(not(all(
    feature = "http",
    feature = "kafka",
    feature = "kinesis",
    feature = "mqtt",
    feature = "nats"
)))]
fn not_built_in(table: &Table<'_, '_, '_>, feature: &str) -> Option<Kind> {
    table.know_all();
    let what = format!("{feature:?} is not in this program; build it with the feature {feature}");
    table.mistake(table.span("type").as_ref(), "type", what);
    None
}
