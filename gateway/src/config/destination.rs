//! `[[destination]]`: where events go.

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    pacing,
    reader::{Table, Text},
    words::OneOf,
};
#[cfg(any(feature = "mqtt", feature = "nats"))]
use crate::dictionary::Dictionary;
use crate::{
    class::{Class, Classes},
    forward::{self, Kind, Live, Start, file, format::Format},
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
    let urgent = urgent(table);
    let live = live(table);
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
    for (key, why) in config.iter().flat_map(no_lanes) {
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

/// The classes that go by a lane of their own.
fn urgent(table: &Table<'_, '_, '_>) -> Classes {
    if table.texts("urgent").is_some_and(|texts| texts.is_empty()) {
        let what = "names no class, so there is no lane; name one, or leave the key away";
        table.mistake(table.span("urgent").as_ref(), "urgent", what);
    }
    let classes =
        table
            .texts("urgent")
            .unwrap_or_default()
            .iter()
            .fold(Classes::NONE, |classes, text| {
                let class = table.parse("urgent", text, |text| {
                    let found = Class::WORDS.iter().find(|(word, _)| *word == text);
                    let words = || OneOf(Class::WORDS.iter().map(|(word, _)| *word).collect());
                    found
                        .map(|(_, class)| *class)
                        .ok_or_else(|| words().instead_of(text))
                });
                class.map_or(classes, |class| classes.with(class))
            });
    if classes.is_all() {
        let what = "with all classes nothing would be left that waits; leave the key away, and \
                    budget and windows too";
        table.mistake(table.span("urgent").as_ref(), "urgent", what);
    }
    classes
}

/// Whether what comes has a lane while the rest is behind, and which share of it all.
fn live(table: &Table<'_, '_, '_>) -> Option<Live> {
    let share = table.parsed("live", |text| {
        let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
        let number = number.filter(|number| (1..=99).contains(number));
        number.ok_or("should be a part of what goes out, from \"1%\" to \"99%\"")
    });
    let after = table.duration("live_after", SECOND..=DAY, Live::AFTER);
    if table.span("live_after").is_some() && table.span("live").is_none() {
        let what = "is for a lane of what comes; for example live = \"25%\"";
        table.mistake(table.span("live_after").as_ref(), "live_after", what);
    }
    share.map(|share| Live { share, after })
}

/// Why a destination cannot have the lanes that it has keys for.
fn no_lanes(config: &forward::Config) -> Vec<(&'static str, &'static str)> {
    let keys = [
        ("urgent", config.urgent != Classes::NONE),
        ("live", config.live.is_some()),
    ];
    let asked = keys.into_iter().filter(|(_, is_asked)| *is_asked);
    asked
        .filter_map(|(key, _)| Some((key, no_lane(config, key)?)))
        .collect()
}

fn no_lane(config: &forward::Config, key: &str) -> Option<&'static str> {
    match &config.kind {
        Kind::File(_) if key == "live" => {
            Some("a directory has one writer, which is never behind for long")
        }
        Kind::File(_) => Some("a directory has one writer, and no link that is shut"),
        #[cfg(feature = "mqtt")]
        Kind::Mqtt(mqtt) if mqtt.server.client_id.is_some() => Some(
            "is sent by a second connection, which cannot have the same client_id; leave \
             client_id away",
        ),
        _ if config.sends_originals() && key == "urgent" => Some(
            "events have a class, and this destination gets messages as they came; leave \
             payload = \"original\" away",
        ),
        _ => None,
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
        rotate_age: table.duration(
            "rotate_age",
            SECOND..=3_650 * DAY,
            default.rotate_age,
        ),
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    #[cfg(feature = "http")]
    use std::time::Duration;

    use crate::config::Config;
    #[cfg(feature = "http")]
    use crate::{
        config::named,
        forward::{self, Way},
    };

    fn read(keys: &str) -> Result<Config, String> {
        let text = format!("data_dir = \"/data\"\n[[destination]]\nname = \"lake\"\n{keys}");
        Config::from_text(&text, Path::new("/"), &|_| None).map_err(|said| said.to_string())
    }

    #[cfg(feature = "http")]
    #[test]
    fn what_is_urgent_has_a_lane_for_which_neither_budget_nor_hours_count() {
        let http = "type = \"http\"\nurl = \"https://lake.example/\"\n";
        let metered = "budget = \"1MiB\"\nrate_records = 5\nstart = \"oldest\"\n";
        let window = "[[destination.window]]\nopens = \"0 22 * * *\"\nlength = \"4h\"\n";
        let urgent = "urgent = [\"critical\", \"high\"]\n";
        let config = read(&format!("{http}{metered}{urgent}{window}")).unwrap();
        let [lake, lane] = &config.destinations[..] else {
            panic!("{:?}", config.destinations)
        };
        assert_eq!((&*lake.name, &*lane.name), ("lake", "lake.urgent"));
        assert_eq!(lane.lane_of.as_deref(), Some("lake"));
        assert_eq!(
            (lake.pacing.windows.len(), lane.pacing.windows.len()),
            (1, 0)
        );
        assert_eq!(lane.pacing.budget.unwrap().bytes, u64::MAX);
        assert_eq!(lane.pacing.records_per_sec, Some(5));
        assert_eq!(lane.start, lake.start);
        // The journal keeps a place for both, and rules speak of one.
        assert_eq!(config.store.destinations.len(), 3);
        assert_eq!(config.store.from_kept, ["lake".into()]);
        assert_eq!(named(&config.destinations), ["lake".into()]);
        let rule = "[[rule]]\nname = \"r\"\npattern = '{\"device\":[\"x\"]}'\n\
                    destinations = [\"lake.urgent\"]\n";
        let said = read(&format!("{http}{urgent}{rule}")).unwrap_err();
        assert!(said.contains("should be one of lake"), "{said}");
    }

    #[cfg(feature = "http")]
    #[test]
    fn what_comes_has_a_lane_with_the_budget_and_the_hours_of_the_rest() {
        let http = "type = \"http\"\nurl = \"https://lake.example/\"\n";
        let metered = "budget = \"1MiB\"\nstart = \"oldest\"\n";
        let window = "[[destination.window]]\nopens = \"0 22 * * *\"\nlength = \"4h\"\n";
        let both = "live = \"25%\"\nlive_after = \"2m\"\nurgent = [\"critical\"]\n";
        let config = read(&format!("{http}{metered}{both}{window}")).unwrap();
        let [lake, urgent, live] = &config.destinations[..] else {
            panic!("{:?}", config.destinations)
        };
        assert_eq!(
            (&*urgent.name, &*live.name),
            ("lake.urgent", "lake.live"),
            "three at one place"
        );
        let ways = [lake, urgent, live].map(forward::Config::way);
        assert_eq!(ways, [Way::Rest, Way::Urgent, Way::Live]);
        let asked = forward::Live {
            share: 25,
            after: Duration::from_secs(120),
        };
        assert_eq!(live.live, Some(asked));
        assert_eq!(live.pacing.windows.len(), 1);
        assert_eq!(live.pacing.budget.unwrap().bytes, 1 << 20);
        assert_eq!(named(&config.destinations), ["lake".into()]);
        assert_eq!(config.store.from_kept, ["lake".into()]);
        let default = read(&format!("{http}live = \"1%\"\n")).unwrap();
        let after = default.destinations[0].live.unwrap().after;
        assert_eq!(after, forward::Live::AFTER);
    }

    #[test]
    fn what_cannot_have_a_lane_says_why() {
        let check = |keys: &str, part: &str| {
            let said = read(keys).unwrap_err();
            assert!(said.contains(part), "{said}");
        };
        let file = "type = \"file\"\npath = \"lake\"\n";
        check(
            &format!("{file}urgent = [\"critical\"]\n"),
            "destination[1].urgent: a directory has one writer",
        );
        check(
            &format!("{file}urgent = []\n"),
            "destination[1].urgent: names no class",
        );
        check(
            &format!("{file}urgent = [\"urgent\"]\n"),
            "should be one of low, normal, high, critical",
        );
        check(
            &format!("{file}urgent = [\"low\", \"normal\", \"high\", \"critical\"]\n"),
            "nothing would be left that waits",
        );
        check(
            &format!("{file}live = \"25%\"\n"),
            "destination[1].live: a directory has one writer",
        );
        for part in ["25", "0%", "100%", "a%", ""] {
            check(
                &format!("{file}live = \"{part}\"\n"),
                "should be a part of what goes out, from \"1%\" to \"99%\"",
            );
        }
        check(
            &format!("{file}live_after = \"1m\"\n"),
            "destination[1].live_after: is for a lane of what comes",
        );
    }
}
