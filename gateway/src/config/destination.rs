//! `[[destination]]`: where events go.

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    lanes, pacing,
    reader::{Table, Text},
    words::OneOf,
};
#[cfg(any(feature = "mqtt", feature = "nats"))]
use crate::dictionary::Dictionary;
use crate::{
    class::Classes,
    forward::{self, Kind, Start, file, format::Format},
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Names of types, whether this build has them or not.
const TYPES: [&str; 12] = [
    "eventbridge",
    "file",
    "http",
    "kafka",
    "kinesis",
    "mqtt",
    "nats",
    "opensearch",
    "postgres",
    "s3",
    "sns",
    "sqs",
];

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
    let start = table.parsed("start", start).unwrap_or_default();
    let pacing = pacing::read(table);
    let urgent = lanes::urgent(table);
    let live = lanes::live(table, kind.as_ref().map_or(Duration::ZERO, Kind::linger));
    table.finish();
    let config = kind.zip(name.as_ref()).map(|(kind, name)| forward::Config {
        name: Arc::from(name.value.as_str()),
        kind,
        retry_first,
        retry_max,
        attempts_max,
        start,
        pacing,
        urgent,
        live,
        lane_of: None,
    });
    for (key, why) in config.iter().flat_map(lanes::mistakes) {
        table.mistake(table.span(key).as_ref(), key, why);
    }
    if start != Start::Now
        && config
            .as_ref()
            .is_some_and(forward::Config::sends_originals)
    {
        let what = "a destination that gets messages as they came begins with what comes \
                    from now on: \"now\"";
        table.mistake(table.span("start").as_ref(), "start", what);
    }
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
        start: Start::Now,
        pacing: forward::pace::Config::default(),
        urgent: Classes::NONE,
        live: None,
        lane_of: None,
    }
}

fn start(text: &str) -> Result<Start, &'static str> {
    match text {
        "now" => Ok(Start::Now),
        "oldest" => Ok(Start::Oldest),
        instant => match crate::admin::parse_instant(instant) {
            Some(at) => Ok(Start::Since(at)),
            None => Err("should be \"now\", \"oldest\" or an instant such as \
                         \"2026-03-01T00:00:00Z\""),
        },
    }
}

/// What events are compressed with, one by one. The file is relative to `dir`.
#[cfg(any(feature = "mqtt", feature = "nats"))]
pub(super) fn dictionary(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Dictionary> {
    let file = table.text("dictionary")?;
    if table.reader.passes_over(&dir.join(&file.value)) {
        return None;
    }
    table.parse("dictionary", &file, |path| {
        Dictionary::read(&dir.join(path))
    })
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
        "http" => read_http(table, dir),
        "kafka" => read_kafka(table, data_dir, dir),
        "eventbridge" => read_eventbridge(table),
        "kinesis" => read_kinesis(table),
        "s3" => read_s3(table, data_dir, dir),
        "sns" => read_sns(table),
        "sqs" => read_sqs(table),
        "nats" => read_nats(table, dir),
        "mqtt" => read_mqtt(table, dir),
        "opensearch" => read_opensearch(table, dir),
        "postgres" => read_postgres(table, dir),
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
        rotate_age: table.duration("rotate_age", SECOND..=3_650 * DAY, default.rotate_age),
        files_max: table.number("files_max", 0..=1_000_000_000, default.files_max),
        format: table.word("format", &Format::WORDS, default.format),
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
fn read_http(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::to_http::read(table, dir)
}

#[cfg(not(feature = "http"))]
fn read_http(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "http")
}

#[cfg(feature = "nats")]
fn read_nats(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::to_nats::read(table, dir)
}

#[cfg(not(feature = "nats"))]
fn read_nats(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "nats")
}

#[cfg(feature = "kafka")]
fn read_kafka(table: &Table<'_, '_, '_>, data_dir: &Path, dir: &Path) -> Option<Kind> {
    super::kafka::read(table, data_dir, dir)
}

#[cfg(not(feature = "kafka"))]
fn read_kafka(table: &Table<'_, '_, '_>, _: &Path, _: &Path) -> Option<Kind> {
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

#[cfg(feature = "s3")]
fn read_s3(table: &Table<'_, '_, '_>, data_dir: &Path, dir: &Path) -> Option<Kind> {
    super::aws::read_s3(table, data_dir, dir)
}

#[cfg(not(feature = "s3"))]
fn read_s3(table: &Table<'_, '_, '_>, _: &Path, _: &Path) -> Option<Kind> {
    not_built_in(table, "s3")
}

#[cfg(feature = "sqs")]
fn read_sqs(table: &Table<'_, '_, '_>) -> Option<Kind> {
    super::aws::read_sqs(table)
}

#[cfg(not(feature = "sqs"))]
fn read_sqs(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "sqs")
}

#[cfg(feature = "sns")]
fn read_sns(table: &Table<'_, '_, '_>) -> Option<Kind> {
    super::aws::read_sns(table)
}

#[cfg(not(feature = "sns"))]
fn read_sns(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "sns")
}

#[cfg(feature = "eventbridge")]
fn read_eventbridge(table: &Table<'_, '_, '_>) -> Option<Kind> {
    super::aws::read_eventbridge(table)
}

#[cfg(not(feature = "eventbridge"))]
fn read_eventbridge(table: &Table<'_, '_, '_>) -> Option<Kind> {
    not_built_in(table, "eventbridge")
}

#[cfg(feature = "mqtt")]
fn read_mqtt(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::mqtt::read_destination(table, dir)
}

#[cfg(not(feature = "mqtt"))]
fn read_mqtt(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "mqtt")
}

#[cfg(feature = "opensearch")]
fn read_opensearch(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::to_opensearch::read(table, dir)
}

#[cfg(not(feature = "opensearch"))]
fn read_opensearch(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "opensearch")
}

#[cfg(feature = "postgres")]
fn read_postgres(table: &Table<'_, '_, '_>, dir: &Path) -> Option<Kind> {
    super::to_postgres::read(table, dir)
}

#[cfg(not(feature = "postgres"))]
fn read_postgres(table: &Table<'_, '_, '_>, _: &Path) -> Option<Kind> {
    not_built_in(table, "postgres")
}

/// What works, and is probably not what is wanted.
#[cfg_attr(
    not(any(
        feature = "http",
        feature = "nats",
        feature = "postgres",
        feature = "aws"
    )),
    allow(unused_mut, unused_variables, reason = "others are warned of nothing")
)]
pub(super) fn warnings(destination: &forward::Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |what: &str| {
        warnings.push(format!("destination {:?}: {what}", &*destination.name));
    };
    match &destination.kind {
        #[cfg(feature = "http")]
        Kind::Http(config) => warn_of_http(config, &mut warn),
        #[cfg(feature = "opensearch")]
        Kind::OpenSearch(config) => warn_of_http(&config.http, &mut warn),
        #[cfg(feature = "nats")]
        Kind::Nats(config) => {
            use forward::nats::Login;

            // The others show that they have a key, and not the key.
            let shows = matches!(config.login, Login::User { .. } | Login::Token(_));
            let overheard = |url: &String| super::auth::is_overheard(url, "nats://");
            if shows && !config.is_encrypted() && config.servers.iter().any(overheard) {
                warn("who we are goes to another machine in the clear; use tls://");
            }
            if let Some(what) = config.warning(destination.retry_max) {
                warn(&what);
            }
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres(config) if config.password.is_some() && config.is_overheard() => {
            warn("who we are goes to another machine in the clear; set tls = true");
        }
        _ => {}
    }
    #[cfg(feature = "aws")]
    for what in super::aws::warnings(&destination.kind, destination.retry_max) {
        warn(&what);
    }
    warnings
}

#[cfg(feature = "http")]
fn warn_of_http(config: &forward::http::Config, warn: &mut impl FnMut(&str)) {
    use forward::http::Auth;

    let overheard = |url: &str| super::auth::is_overheard(url, "http://");
    if config.auth != Auth::None && overheard(&config.url) {
        warn("who we are goes to another machine in the clear; use https://");
    }
    if let Auth::Oauth2(oauth2) = &config.auth
        && overheard(&oauth2.token_url)
    {
        warn("client_secret goes to another machine in the clear; use https://");
    }
}

/// The files of TLS, for destinations that share the keys; `is_encrypted` says whether
/// anything asks for it, and `asked` how it would be.
#[cfg(any(
    feature = "http",
    feature = "kafka",
    feature = "nats",
    feature = "postgres",
    feature = "s3"
))]
pub(super) fn read_tls(
    table: &Table<'_, '_, '_>,
    dir: &Path,
    is_encrypted: bool,
    asked: &str,
) -> crate::tls::Files {
    let path = |key| table.text(key).map(|text| dir.join(text.value));
    let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
    for (missing, other) in [("certificate", "key"), ("key", "certificate")] {
        if table.span(missing).is_none() && table.span(other).is_some() {
            let what = format!("certificate and key go together; {missing} is missing");
            table.mistake(table.span(other).as_ref(), other, what);
        }
    }
    for name in ["ca", "certificate", "key"] {
        if !is_encrypted && table.span(name).is_some() {
            let what = format!("is for TLS; {asked}");
            table.mistake(table.span(name).as_ref(), name, what);
        }
    }
    crate::tls::Files {
        ca,
        identity: certificate.zip(key),
    }
}

/// Of several ways to say who we are only one counts.
#[cfg(any(feature = "http", feature = "nats"))]
pub(super) fn only_one(table: &Table<'_, '_, '_>, ways: &[&str]) {
    let given: Vec<&str> = ways
        .iter()
        .copied()
        .filter(|way| table.span(way).is_some())
        .collect();
    if let [first, second, ..] = given[..] {
        let what = format!("says who we are, and so does {first}; only one of them can be true");
        table.mistake(table.span(second).as_ref(), second, what);
    }
}

#[cfg(not(all(
    feature = "eventbridge",
    feature = "http",
    feature = "kafka",
    feature = "kinesis",
    feature = "mqtt",
    feature = "nats",
    feature = "opensearch",
    feature = "postgres",
    feature = "s3",
    feature = "sns",
    feature = "sqs"
)))]
fn not_built_in(table: &Table<'_, '_, '_>, feature: &str) -> Option<Kind> {
    table.know_all();
    let what = format!("{feature:?} is not in this program; build it with the feature {feature}");
    table.mistake(table.span("type").as_ref(), "type", what);
    None
}
