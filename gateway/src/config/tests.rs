//! Mistakes and their words; the files in `config/`; the documentation.

mod meanings;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::{
    normalise::{
        Mapping,
        decode::Format,
        mapping::{Dedup, Device},
    },
    store::OnFull,
};

fn env(name: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("sesame-open".to_owned()),
        "JWT_SECRET" => Some("0123456789abcdef0123456789abcdef".to_owned()),
        "AUTH_TOKEN" | "LAKE_TOKEN" | "NATS_PASSWORD" | "NATS_TOKEN" | "CLOUD_PASSWORD"
        | "CENTRE_PASSWORD" => Some("secret".to_owned()),
        "EVENT_GRID_HOST" => Some("x.westeurope-1.ts.eventgrid.azure.net".to_owned()),
        "CLOUD_HOST" => Some("x.s1.eu.hivemq.cloud".to_owned()),
        "AWS_IOT_ENDPOINT" => Some("x-ats.iot.eu-central-1.amazonaws.com".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Mistakes> {
    Config::from_text(text, Path::new("/etc/penstock"), &env)
}

/// The words for every mistake in `text`.
fn mistakes(text: &str) -> String {
    match read(text) {
        Ok(config) => panic!("{text} has no mistakes: {config:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn nothing_configured_is_the_defaults() {
    let config = Config::defaults(Path::new("data"));
    let mut broker = penstock_broker::Config::default();
    broker.keep.dir = Some("data".into());
    assert_eq!(config.broker, broker);
    assert_eq!(config.http, http::Config::default());
    assert_eq!(config.log, telemetry::Config::default());
    assert_eq!(config.data_dir, Path::new("data"));
    assert_eq!(config.store.dir, config.data_dir);
    assert_eq!(config.store.max_bytes, 1 << 30);
    assert_eq!(config.store.max_age, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.store.on_full, OnFull::PushBack);
    assert_eq!(config.store.destinations, ["events".into()]);
    let forward::Kind::File(file) = &config.destinations[0].kind else {
        panic!("a file")
    };
    assert_eq!(file.path, Path::new("data/events"));
    assert_eq!(config.ingest.mappings.len(), 2);
    assert_eq!(
        Config::load(None).unwrap().data_dir,
        Path::new("./penstock-data")
    );
}

#[test]
fn a_mapping_without_keys_is_the_built_in_one() {
    for (n, topic) in ["devices/{device}/{type...}", "#"].into_iter().enumerate() {
        let config = read(&format!("[[mapping]]\ntopic = \"{topic}\"")).unwrap();
        let builtin = &Mapping::defaults()[n];
        assert_eq!(
            format!("{:?}", config.ingest.mappings[0]),
            format!("{builtin:?}")
        );
    }
}

#[test]
#[cfg(all(
    feature = "cel",
    feature = "http",
    feature = "mqtt",
    feature = "nats",
    feature = "schema"
))]
fn every_key_is_read() {
    let text = fs::read_to_string(repository("config/full.toml")).unwrap();
    let config = read(&text).unwrap();
    let defaults = Config::defaults(Path::new("/etc/penstock/./penstock-data"));
    // The file shows defaults, so a key that were read under another name would not show here.
    let local = &config.broker.listeners[1];
    assert_eq!(
        local.address.to_string(),
        "unix:/etc/penstock/penstock.sock"
    );
    let [rates] = &config.broker.limits.rates[..] else {
        panic!("{:?}", config.broker.limits);
    };
    assert_eq!(rates.listeners, ["127.0.0.1:9001"]);
    assert!(rates.users[0].takes("site-7"));
    assert_eq!(rates.publish_bytes_rate_max, 10 << 20);
    let shown = penstock_broker::Config {
        listeners: vec![config.broker.listeners[0].clone()],
        limits: penstock_broker::Limits {
            rates: Vec::new(),
            ..config.broker.limits.clone()
        },
        auth: defaults.broker.auth.clone(),
        ..config.broker
    };
    assert_eq!(shown, defaults.broker);
    assert_eq!(config.http, defaults.http);
    assert_eq!(config.log, defaults.log);
    assert_eq!(config.data_dir, defaults.data_dir);
    assert_eq!(config.shutdown_grace_period, defaults.shutdown_grace_period);
    assert_eq!(config.store.max_bytes, defaults.store.max_bytes);
    assert_eq!(config.store.dedup_count, defaults.store.dedup_count);
    assert_eq!(config.ingest.site.as_deref(), Some("pune"));
    let mapping = &config.ingest.mappings[0];
    assert_eq!((mapping.format, mapping.dedup), (Format::Auto, Dedup::Auto));
    assert_eq!(mapping.id[0].to_string(), "/msg_id");
    assert_eq!(mapping.values[0].unit.as_deref(), Some("Cel"));
    assert_eq!(
        mapping
            .time
            .as_ref()
            .unwrap()
            .fallback
            .as_ref()
            .unwrap()
            .to_string(),
        "/sent"
    );
    assert_eq!(*mapping.tags, [("line".into(), "L1".into())]);
    assert!(matches!(config.ingest.mappings[1].device, Device::At(_)));
    let names: Vec<_> = config.destinations.iter().map(|d| &*d.name).collect();
    assert_eq!(names, ["events", "lake", "stream", "cloud"]);
    assert_eq!(config.store.destinations.len(), 4);
    #[cfg(feature = "http")]
    {
        let forward::Kind::Http(lake) = &config.destinations[1].kind else {
            panic!("http")
        };
        let mut expect = forward::http::Config::new("https://lake.example/events");
        expect.headers = vec![("Authorization".to_owned(), "Bearer secret".into())];
        assert_eq!(*lake, expect);
    }
    #[cfg(feature = "nats")]
    {
        let forward::Kind::Nats(stream) = &config.destinations[2].kind else {
            panic!("nats")
        };
        let servers = vec!["nats://127.0.0.1:4222".to_owned()];
        let mut expect = forward::nats::Config::new(servers, "TELEMETRY");
        expect.user = Some("penstock".to_owned());
        expect.password = Some("secret".into());
        assert_eq!(*stream, expect);
    }
}

#[test]
fn every_value_that_differs_from_the_default_is_taken() {
    let config = read(
        r#"
        data_dir = "/data"
        shutdown_grace_period = "5s"
        broker = { listen = "[::1]:0", connections_max = 5, packet_bytes_max = 2048, connect_timeout = "1s", receive_max = 9, outbound_in_flight_max = 8, outbound_queue_bytes_max = "2KiB", subscriptions_per_client_max = 7, keep_alive_max = "20m", response_information = "r/{client}/", sys_interval = "never", sessions_max = 6, sessions_per_user_max = 5, session_expiry_max = "1d", queue_messages_max = 11, queue_bytes_max = "3KiB", queue_total_bytes_max = "4KiB", queue_full = "refuse", retained_max = 12, retained_bytes_max = "5KiB", limits = { connections_per_address_max = 4, connections_per_identity_max = 3, connect_rate_max = 20, connect_rate_per_address_max = 10, publish_rate_max = 100, publish_bytes_rate_max = "2KiB", publish_burst = "2s", rate = [{ users = ["site-*"], listeners = ["[::1]:0"], publish_rate_max = 0 }], topic_bytes_max = 99, topic_levels_max = 8, memory_max = "32MiB" } }
        http = { listen = "0.0.0.0:0", allow_anonymous = true }
        store = { size_max = "64MB", age_max = "never", on_full = "drop-oldest", reserve = "1MiB" }
        dedup = { age_max = "1h", keys_max = 5_000, memory_max = "2MiB" }
        log = { level = "warn,penstock=trace", format = "json" }
        mapping = [
            { topic = "a/{x}", device = "{x}-{client}", site = "s-{x}", type = "t", time = "received", sequence = "none", id_property = "" },
            { topic = "b/{x}", time = { at = "/t", unit = "ms", required = true }, sequence = { at = "/n", persistent = true }, dedup = "content", split = "", exclude = ["/a~1b"] },
        ]
        destination = [{ name = "f", type = "file", path = "/elsewhere/./x", rotate_size = "4KiB", rotate_age = "1m", files_max = 3, retry_first = "1s", retry_max = "2s", attempts_max = 1 }]
        "#,
    )
    .unwrap();
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.shutdown_grace_period, Duration::from_secs(5));
    assert_snapshot!(format!("{:?}", config.broker), @r#"Config { listeners: [Config { name: "[::1]:0", address: Ip([::1]:0), transport: Tcp, tls: None, proxy_protocol: None, allow_anonymous: false, connections_max: None }], auth: Config { passwords: None, certificate: None, token: None, hook: None, client_ids: Any, rules: Rules([]), denied_publish: Disconnect, lockout: Config { failures_max: 5, failures_in_total_max: 50, lock: 60s }, checks_at_once: None, remember: 900s }, connections_max: 5, packet_bytes_max: 2048, connect_timeout: 1s, receive_max: 9, outbound_in_flight_max: 8, outbound_queue_bytes_max: 2048, subscriptions_per_client_max: 7, keep_alive_max: Some(1200s), response_information: Some("r/{client}/"), sys_interval: 0ns, limits: Limits { connections_per_address_max: 4, connections_per_identity_max: 3, connect_rate_max: 20, connect_rate_per_address_max: 10, publish_rate_max: 100, publish_bytes_rate_max: 2048, rates: [Rates { users: [Pattern { text: "site-", is_prefix: true }], listeners: ["[::1]:0"], publish_rate_max: 0, publish_bytes_rate_max: 2048 }], publish_burst: 2s, topic_bytes_max: 99, topic_levels_max: 8, memory_max: 33554432 }, keep: Config { dir: Some("/data"), sessions_max: 6, sessions_per_user_max: 5, session_expiry_max: 86400s, queue_messages_max: 11, queue_bytes_max: 3072, queue_total_bytes_max: 4096, queue_full: Refuse, retained_max: 12, retained_bytes_max: 5120 } }"#);
    assert_snapshot!(format!("{:?} {:?}", config.http, config.log), @r#"Config { listen: 0.0.0.0:0, allow_anonymous: true, token: None } Config { level: "warn,penstock=trace", format: Json }"#);
    assert_snapshot!(format!("{:?}", config.store), @r#"Config { dir: "/data", max_bytes: 64000000, max_age: None, keep_delivered: None, on_full: DropOldest, reserve_bytes: 1048576, dedup_age: 3600s, dedup_count: 5000, dedup_memory_bytes: 2097152, destinations: ["f"] }"#);
    assert_snapshot!(format!("{:?}", config.destinations), @r#"[Config { name: "f", kind: File(Config { path: "/elsewhere/x", rotate_size: 4096, rotate_age: 60s, files_max: 3 }), retry_first: 1s, retry_max: 2s, attempts_max: 1 }]"#);
    let [first, second] = &config.ingest.mappings[..] else {
        panic!("two mappings")
    };
    let resolved = first.resolve("a/1", None).unwrap();
    assert_eq!(
        (resolved.site.as_deref(), &*resolved.kind),
        (Some("s-1"), "t")
    );
    assert!(first.time.is_none() && first.sequence.is_none() && first.id_property.is_none());
    let sequence = second.sequence.as_ref().unwrap();
    assert!(sequence.persistent && sequence.boot.is_none());
    assert!(second.require_time);
    assert!(second.split.as_ref().unwrap().is_root());
}

#[test]
#[cfg(all(
    feature = "cel",
    feature = "http",
    feature = "mqtt",
    feature = "nats",
    feature = "schema"
))]
fn every_file_in_config_is_fine() {
    let mut count = 0;
    for entry in fs::read_dir(repository("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if let Err(mistakes) = read(&text) {
            panic!("{}: {mistakes}", path.display());
        }
        count += 1;
    }
    assert!(count >= 5);
}

/// The keys in the tables of the documentation, with the tables of TOML around them.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(repository("docs/configuration.md")).unwrap();
    let (mut keys, mut prefix) = (BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let table = heading.trim_matches(['`', '[', ']']);
            prefix = if heading.starts_with('`') {
                format!("{table}.")
            } else {
                String::new()
            };
            keys.extend(heading.starts_with('`').then(|| table.to_owned()));
        } else if let Some((key, _)) = line.strip_prefix("| `").and_then(|row| row.split_once('`'))
        {
            assert!(
                keys.insert(format!("{prefix}{key}")),
                "{prefix}{key} is documented twice"
            );
        }
    }
    keys
}

#[test]
#[cfg(all(
    feature = "cel",
    feature = "http",
    feature = "mqtt",
    feature = "nats",
    feature = "schema"
))]
fn the_documentation_lists_exactly_the_keys_that_are_known() {
    let text = fs::read_to_string(repository("config/full.toml")).unwrap();
    let (config, known) = Config::parse(&text, Path::new(""), &env);
    config.unwrap();
    assert_eq!(documented(), known);
}

#[test]
fn every_mistake_is_said_at_once() {
    assert_snapshot!(mistakes(
        r#"
data_dirr = "/x"
shutdown_grace_period = 20
[broker]
listen = "localhost:1884"
conections_max = 5
receive_max = 70000
packet_bytes_max = "64MiB"
allow_anonymous = "yes"
[http]
listen = "0.0.0.0:80"
[store]
size_max = "a lot"
age_max = "24"
on_full = "explode"
reserve = "0.5GiB"
[dedup]
keys_max = -1
age_max = "never"
[log]
level = "info,=x"
format = "jsom"
"#
    ), @r#"
    configuration:2: data_dirr: is not a key; did you mean "data_dir"?
    configuration:3: shutdown_grace_period: 20 has no unit; for example "20s"
    configuration:5: broker.listen: "localhost:1884": an address is an IP address and a port; for example "127.0.0.1:1884"
    configuration:6: broker.conections_max: is not a key; did you mean "connections_max"?
    configuration:7: broker.receive_max: 70000 is not between 1 and 65535
    configuration:8: broker.packet_bytes_max: 64MiB is not between 1KiB and 8MiB
    configuration:9: broker.allow_anonymous: should be true or false, not a string
    configuration:11: http.listen: 0.0.0.0:80 is beyond this machine, and nobody is asked who they are; set token, listen on "127.0.0.1:80", or set allow_anonymous = true to let anyone in
    configuration:13: store.size_max: "a lot": a size is a number and a unit: 512KiB, 256MiB, 1GiB, or 1GB for a thousand million bytes
    configuration:14: store.age_max: "24": a duration is a number and a unit: 500ms, 30s, 5m, 24h or 7d (such as "24s" or "24h")
    configuration:15: store.on_full: "explode": should be one of push-back, drop-oldest
    configuration:16: store.reserve: "0.5GiB": a size is a number and a unit: 512KiB, 256MiB, 1GiB, or 1GB for a thousand million bytes
    configuration:18: dedup.keys_max: -1 is not between 1000 and 1000000000
    configuration:19: dedup.age_max: "never": a duration is a number and a unit: 500ms, 30s, 5m, 24h or 7d
    configuration:21: log.level: "info,=x": a level is error, warn, info, debug or trace, or a filter such as "info,penstock::forward=debug"
    configuration:22: log.format: "jsom": should be one of text, json; did you mean "json"?
    "#);
}

#[test]
fn mistakes_about_rates_say_what_would_be_right() {
    let said = mistakes(
        r#"
[[broker.limits.rate]]
listeners = ["bridge"]
publish_rate_max = -1
[[broker.limits.rate]]
publish_rate_max = 5
[[broker.limits.rate]]
users = ["a*b"]
"#,
    );
    for expect in [
        "configuration:3: broker.limits.rate[1].listeners: \"bridge\": no listener has this name; there are 127.0.0.1:1883",
        "configuration:4: broker.limits.rate[1].publish_rate_max: -1 is not between 0 and 4294967295",
        "configuration:5: broker.limits.rate[2]: is for nobody in particular; name users or listeners",
        "configuration:8: broker.limits.rate[3].users: \"a*b\": \"*\" may only be the last character",
    ] {
        assert!(said.contains(expect), "{expect}\n{said}");
    }
}

#[test]
fn mistakes_about_devices_and_formats_say_what_would_be_right() {
    let said = mistakes(
        r##"
[[mapping]]
topic = "a/{device}"
preset = "zigbe2mqtt"
compression = "bzip2"
tz = "Mars/Olympus"
bad_element = "ignore"
require = ["v"]
csv = { columns = ["a", "a"], separator = ";;" }
values = [{ map = [1], scale = "x", quality_map = { 1 = "so" } }, { name = "b" }]
[[mapping]]
topic = "b/{device}"
time = { at = "/ts", unit = "local" }
values = { flaten = "/a" }
[[mapping]]
topic = "c/{device}"
format = "csv"
[[mapping]]
topic = "d/{device}"
format = "senml-json"
values = [{ name = "t" }]
exclude = ["/gps"]
time = { at = "/t" }
device_tag = "host"
[[mapping]]
topic = "e/{device}"
time = "received"
require_time = true
lenient = ["nan", "everything"]
rebirth = false
"##,
    );
    for expect in [
        "configuration:4: mapping[1].preset: \"zigbe2mqtt\": should be one of zigbee2mqtt, tasmota, ",
        "did you mean \"zigbee2mqtt\"?",
        "configuration:5: mapping[1].compression: \"bzip2\": should be one of auto, none, gzip, zstd, lz4",
        "configuration:6: mapping[1].tz: \"Mars/Olympus\": not a time zone that this machine knows; for example \"+01:00\"",
        "configuration:7: mapping[1].bad_element: \"ignore\": should be one of skip, reject",
        "configuration:8: mapping[1].require: \"v\": line 1, column 1: there is no \"v\" here; known are p, payload, topic; a pointer begins with \"/\"",
        "configuration:9: mapping[1].csv.separator: \";;\": a separator is one character, such as \";\", and no quotation mark",
        "configuration:9: mapping[1].csv.columns: there is another column named \"a\"",
        "configuration:9: mapping[1].csv: is of no use without format = \"csv\"",
        "configuration:10: mapping[1].values[1].map: should be a table of what stands for what, such as { ON = true, OFF = false }, not an array",
        "configuration:10: mapping[1].values[1].scale: should be a number, not a string",
        "configuration:10: mapping[1].values[1].quality_map: \"1\" should be one of good, uncertain, bad",
        "configuration:10: mapping[1].values: the first one has no name; only a single value needs none",
        "mapping[2].tz: is missing; a local time is nothing without it, for example tz = \"+01:00\"",
        "configuration:14: mapping[2].values.flaten: is not a key; did you mean \"flatten\"?",
        "mapping[3].csv: is missing; for example csv = { columns = [\"ts\", \"temperature\"] }",
        "configuration:21: mapping[4].values: is of no use here: the format names its values itself",
        "configuration:22: mapping[4].exclude: is of no use here: the format names its values itself",
        "configuration:23: mapping[4].time: is of no use here: the format says itself where the time is",
        "configuration:24: mapping[4].device_tag: is of no use without format = \"influx\"",
        "configuration:28: mapping[5].require_time: is of no use with time = \"received\"",
        "configuration:29: mapping[5].lenient: \"everything\": should be one of duplicate-keys, trailing-bytes, big-integers, nan, invalid-utf8",
        "configuration:30: mapping[5].rebirth: is of no use without preset = \"sparkplug\"",
    ] {
        assert!(said.contains(expect), "{expect}\n{said}");
    }
}

#[test]
fn mistakes_in_mappings_say_what_would_be_right() {
    assert_snapshot!(mistakes(
        r##"
[[mapping]]
topic = "a/#/b"
formt = "json"
dedup = "yes"
[[mapping]]
format = "jason"
[[mapping]]
topic = "a/{device}"
device = "{site}"
type = "{client}"
time = "never"
sequence = { boot = "/boot" }
id = ["msg_id", 5]
split = "/a~2"
tags = { line = 1 }
values = [{ name = "t", type = "float" }, { name = "t", at = "x" }, { unit = "Cel" }, 7]
[[mapping]]
topic = "a/{device}"
device = { at = "/dev", from = "x" }
time = { at = "/ts", unit = "seconds" }
exclude = "/a"
values = "all"
"##
    ), @r#"
    configuration:3: mapping[1].topic: "a/#/b": only the last level can take the rest of the topic (at character 5)
    configuration:4: mapping[1].formt: is not a key; did you mean "format"?
    configuration:5: mapping[1].dedup: "yes": should be one of auto, content, none
    configuration:6: mapping[2].topic: is missing; for example topic = "devices/{device}/telemetry"
    configuration:7: mapping[2].format: "jason": should be one of auto, json, scalar, cbor, msgpack, senml-json, senml-cbor, influx, csv, cloudevents, raw; did you mean "json"?
    configuration:10: mapping[3].device: "{site}": the topic captures nothing named "site"; known are {device}, {client} and {user}
    configuration:11: mapping[3].type: {client} and {user} can only be in device; use a capture of the topic
    configuration:12: mapping[3].time: "never" should be "received", or where the time is, such as { at = "/ts" }
    configuration:13: mapping[3].sequence.at: is missing; for example at = "/seq"
    configuration:14: mapping[3].id: should be text in quotes, not an integer
    configuration:14: mapping[3].id: "msg_id": a pointer begins with "/"
    configuration:15: mapping[3].split: "/a~2": "~" in a pointer is written "~0", and "/" in a name "~1"
    configuration:16: mapping[3].tags.line: should be text in quotes, not an integer
    configuration:17: mapping[3].values: should be a table, not an integer
    configuration:17: mapping[3].values[1].type: "float": should be one of any, number, boolean, string
    configuration:17: mapping[3].values[2].at: "x": a pointer begins with "/"
    configuration:17: mapping[3].values[2].name: there is another value named "t"
    configuration:17: mapping[3].values[3].name: is missing; only a single value needs none
    configuration:20: mapping[4].device.from: is not a key; known here are at
    configuration:21: mapping[4].time.unit: "seconds": should be one of auto, s, ms, us, ns, rfc3339, local
    configuration:22: mapping[4].exclude: should be a list of texts, in brackets, not a string
    configuration:23: mapping[4].values: should be a list of tables, such as [[values]], not a string
    "#);
}

#[test]
fn mistakes_in_destinations_say_what_would_be_right() {
    assert_snapshot!(mistakes(
        r#"
[[destination]]
name = "Events"
type = "file"
path = "../x"
[[destination]]
name = "a"
type = "file"
path = "x/./y"
[[destination]]
name = "a"
type = "file"
path = "x/y/"
retry_first = "1m"
url = "http://x"
[[destination]]
name = "b"
type = "pigeon"
loft = 3
[[destination]]
type = "http"
batch_records = 0
[[destination]]
name = "c"
type = "http"
url = "lake.example"
[[destination]]
name = "d"
type = "nats"
servers = []
user = "u"
token = "t"
[[destination]]
name = "e"
type = "file"
path = "."
"#
    ), @r#"
    configuration:3: destination[1].name: "Events": a name has 1 to 64 lower-case letters, digits, "-" and "_"
    configuration:5: destination[1].path: "../x": a path has no ".."
    configuration:11: destination[3].name: destination[2] is named "a" as well
    configuration:13: destination[3].path: destination[2] writes there as well
    configuration:14: destination[3].retry_first: retry_first should be at most retry_max
    configuration:15: destination[3].url: is not a key; known here are attempts_max, files_max, name, path, retry_first, retry_max, rotate_age, rotate_size, type
    configuration:18: destination[4].type: "pigeon": should be one of file, http, mqtt, nats
    configuration:20: destination[5].name: is missing; for example name = "events"
    configuration:20: destination[5].url: is missing; for example url = "https://lake.example/events"
    configuration:22: destination[5].batch_records: 0 is not between 1 and 10000
    configuration:26: destination[6].url: "lake.example": a URL begins with http:// or https://
    configuration:27: destination[7].stream: is missing; for example stream = "TELEMETRY"
    configuration:30: destination[7].servers: is missing or empty; for example servers = ["nats://127.0.0.1:4222"]
    configuration:36: destination[8].path: ".": the journal is there; a directory in it would do, such as "events"
    "#);
}

#[test]
fn a_table_of_the_wrong_kind_is_a_mistake_and_no_panic() {
    assert_snapshot!(mistakes(
        "broker = 1\nhttp = []\nstore = \"x\"\nmapping = {}\ndestination = [1, \"x\"]\nlog = 2020-01-01\nsite = \"\""
    ), @r#"
    configuration:1: broker: should be a table, such as [broker], not an integer
    configuration:2: http: should be a table, such as [http], not an array
    configuration:3: store: should be a table, such as [store], not a string
    configuration:4: mapping: should be a list of tables, such as [[mapping]], not a table
    configuration:5: destination: should be a table, not an integer
    configuration:5: destination: should be a table, not a string
    configuration:5: destination: with no destination events would go nowhere; leave the key away for a file
    configuration:6: log: should be a table, such as [log], not a datetime
    configuration:7: site: "": a site has a name; leave the key away for none
    "#);
    assert_snapshot!(mistakes("mapping = []\ndestination = []"), @r#"
    configuration:1: mapping: with no mapping every message would be quarantined; leave the key away for the built-in ones
    configuration:2: destination: with no destination events would go nowhere; leave the key away for a file
    "#);
}

#[test]
fn text_that_is_no_toml_is_said_with_its_line() {
    assert_snapshot!(mistakes("site = \"a\"\n[broken\nx = \nsite = \"b\"\n"), @r#"
    configuration:2: not TOML: unclosed table, expected `]`
    configuration:4: not TOML: duplicate key
    "#);
}

#[test]
fn beyond_loopback_takes_a_word() {
    assert_snapshot!(
        mistakes("[broker]\nlisten = \"0.0.0.0:1883\"\n[http]\nlisten = \"[::]:8080\""), @r#"
    configuration:2: broker.listen: 0.0.0.0:1883 is beyond this machine, and clients are not asked who they are; configure [auth], listen on "127.0.0.1:1883", or set allow_anonymous = true to let anyone in
    configuration:4: http.listen: [::]:8080 is beyond this machine, and nobody is asked who they are; set token, listen on "127.0.0.1:8080", or set allow_anonymous = true to let anyone in
    "#
    );
    read("[broker]\nlisten = \"0.0.0.0:1883\"\nallow_anonymous = true").unwrap();
    assert_snapshot!(
        mistakes("[broker]\nlisten = \"127.0.0.1:1883\"\n[http]\nlisten = \"127.0.0.1:1883\""), @r#"configuration:4: http.listen: 127.0.0.1:1883 is the broker's address too"#
    );
}

#[test]
fn there_can_be_63_destinations() {
    let text = |count: usize| -> String {
        (0..count)
            .map(|n| {
                format!("[[destination]]\nname = \"d{n}\"\ntype = \"file\"\npath = \"d{n}\"\n")
            })
            .collect()
    };
    assert_eq!(read(&text(63)).unwrap().destinations.len(), 63);
    assert_snapshot!(mistakes(&text(64)), @r#"configuration:1: destination: 64 destinations; there can be 63"#);
}

#[test]
fn environment_variables_are_filled_in_and_never_shown() {
    let url = |config: &Config| match &config.destinations[0].kind {
        forward::Kind::File(file) => file.path.clone(),
        #[allow(
            unreachable_patterns,
            reason = "without other destinations there is nothing else"
        )]
        _ => panic!("a file"),
    };
    let text = |path: &str| {
        format!(
            "data_dir = \"/d\"\n[[destination]]\nname = \"a\"\ntype = \"file\"\npath = \"{path}\""
        )
    };
    assert_eq!(
        url(&read(&text("x-${TOKEN}-${TOKEN}")).unwrap()),
        Path::new("/d/x-sesame-open-sesame-open")
    );
    assert_eq!(
        url(&read(&text("$${TOKEN}$$x$")).unwrap()),
        Path::new("/d/${TOKEN}$$x$")
    );
    let said = mistakes(
        r#"
[broker]
listen = "${TOKEN}"
[store]
size_max = "${TOKEN}"
on_full = "${TOKEN}"
[[mapping]]
topic = "${MISSING}/${OTHER}"
type = "${open"
device = "${not a name}"
[[destination]]
name = "${TOKEN}!"
type = "http"
url = "ftp://${TOKEN}@lake.example"
headers = { "x y" = "${TOKEN}", z = "${MISSING}" }
"#,
    );
    assert!(!said.contains("sesame"), "{said}");
    assert_snapshot!(said, @r#"
    configuration:3: broker.listen: "${TOKEN}": an address is an IP address and a port; for example "127.0.0.1:1883"
    configuration:5: store.size_max: "${TOKEN}": a size is a number and a unit: 512KiB, 256MiB, 1GiB, or 1GB for a thousand million bytes
    configuration:6: store.on_full: "${TOKEN}": should be one of push-back, drop-oldest
    configuration:8: mapping[1].topic: the environment variable MISSING is not set
    configuration:8: mapping[1].topic: the environment variable OTHER is not set
    configuration:9: mapping[1].type: "${" begins the name of an environment variable that ends with "}"; write "$${" for the characters themselves
    configuration:10: mapping[1].device: "not a name" is not the name of an environment variable
    configuration:12: destination[1].name: "${TOKEN}!": a name has 1 to 64 lower-case letters, digits, "-" and "_"
    configuration:14: destination[1].url: "ftp://${TOKEN}@lake.example": a URL begins with http:// or https://
    configuration:15: destination[1].headers.z: the environment variable MISSING is not set
    "#);
}

#[test]
fn what_is_relative_is_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("penstock.toml");
    fs::write(&file, "data_dir = \"data\"").unwrap();
    let config = Config::load(Some(&file)).unwrap();
    assert_eq!(config.store.dir, dir.path().join("data"));
    fs::write(&file, "x = 1").unwrap();
    let said = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(
        said.starts_with(&format!("{}:1: x: is not a key", file.display())),
        "{said}"
    );
    let said = Config::load(Some(&dir.path().join("none.toml")))
        .unwrap_err()
        .to_string();
    assert!(said.contains("none.toml: cannot be read"), "{said}");
    fs::write(&file, b"\xff").unwrap();
    assert!(
        Config::load(Some(&file))
            .unwrap_err()
            .to_string()
            .contains("not UTF-8 at byte 0")
    );
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_mistakes(
        text in r#"((data_dir|site|\[broker\]|\[\[mapping\]\]|\[\[destination\]\]|topic|name|type|path|time|values|at|size_max|listen)( = )?("[a-z{}/#$+0-9.]{0,8}"|-?[0-9]{1,20}|true|\[|\]|\{ ?at = "/x" ?\}|,|[\x00-\x7f])?\n?){0,20}"#,
    ) {
        if let Err(mistakes) = read(&text) {
            prop_assert!(!mistakes.mistakes.is_empty());
            let lines = text.split('\n').count();
            for mistake in mistakes.mistakes {
                prop_assert!(mistake.line.is_none_or(|line| line >= 1 && line <= lines));
                prop_assert!(!mistake.what.is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_that_are_text_are_a_configuration_or_mistakes(text in any::<String>()) {
        let _either = read(&text);
    }
}

#[test]
fn mistakes_in_rules_are_said_with_their_place_in_the_pattern() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.json"), r#"{"device": ["b7"]}"#).unwrap();
    fs::write(dir.path().join("bad.json"), "{\n  \"device\": \"b7\"\n}").unwrap();
    let text = r#"
[[destination]]
name = "lake"
type = "file"
path = "lake"
[[rule]]
name = "good"
pattern_file = "good.json"
destinations = ["lake"]
[[rule]]
name = "good"
pattern = '{"device": [{"prefx": "b"}]}'
destinations = ["lak"]
[[rule]]
name = "Bad name"
pattern_file = "bad.json"
destinations = []
[[rule]]
pattern = """
{"a": [1],
 "b": []}"""
pattern_file = "good.json"
destination = "lake"
[[rule]]
name = "file"
pattern_file = "missing.json"
destinations = ["lake", "lake"]
[[rule]]
name = "neither"
pattern = """
{"a": [1],
 "b": []}"""
destinations = ["lake"]
[[rule]]
name = "none"
destinations = ["lake"]
"#;
    let mistakes = Config::from_text(text, dir.path(), &env).unwrap_err();
    assert_snapshot!(mistakes.to_string(), @r#"
    configuration:11: rule[2].name: rule[1] is named "good" as well
    configuration:12: rule[2].pattern: line 1, column 14: "prefx" is no operator; known are exists, prefix, suffix, equals-ignore-case, wildcard, numeric, cidr, anything-but and exactly
    configuration:13: rule[2].destinations: "lak" should be one of lake; did you mean "lake"?
    configuration:15: rule[3].name: "Bad name": a name has 1 to 64 lower-case letters, digits, "-" and "_"
    configuration:16: rule[3].pattern_file: "bad.json": line 2, column 13: "device" should be an object or an array of values, not a text
    configuration:17: rule[3].destinations: a rule names at least one destination
    configuration:18: rule[4].name: is missing; for example name = "hot"
    configuration:18: rule[4].destinations: is missing; for example destinations = ["events"]
    configuration:22: rule[4].pattern_file: either pattern or pattern_file
    configuration:23: rule[4].destination: is not a key; did you mean "destinations"?
    configuration:26: rule[5].pattern_file: "missing.json": cannot be read: No such file or directory (os error 2)
    configuration:27: rule[5].destinations: "lake" is named twice
    configuration:30: rule[6].pattern: line 2, column 7: an empty array fits nothing; for a field that is not there write [{"exists": false}]
    configuration:34: rule[7].pattern: is missing; for example pattern = '{"device": ["b7"]}', or pattern_file = "hot.json"
    "#);
}

#[test]
fn rules_come_with_their_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hot.json"), r#"{"device": ["b7"]}"#).unwrap();
    let text = r#"
rule = [
    { name = "hot", pattern_file = "hot.json", destinations = ["events"] },
    { name = "or", pattern = '{"$or": [{"a": [1]}, {"b": [2]}]}', destinations = ["events"] },
]
"#;
    let config = Config::from_text(text, dir.path(), &env).unwrap();
    assert!(config.read_from.contains_key(&dir.path().join("hot.json")));
    let pattern = crate::rules::Pattern::parse(r#"{"device": ["b7"]}"#).unwrap();
    assert_eq!(
        (&*config.rules[0].name, &config.rules[0].pattern),
        ("hot", &pattern)
    );
    assert_eq!(config.rules[1].destinations, ["events".into()]);
}
