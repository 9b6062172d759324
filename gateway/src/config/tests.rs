//! What is read, and from where; the files in `config/`; the documentation.

mod meanings;
mod mistakes;
mod rules;

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
        "SIGNING_SECRET" => Some("fedcba9876543210".to_owned()),
        "AUTH_TOKEN" | "LAKE_TOKEN" | "LAKE_PASSWORD" | "CLIENT_SECRET" | "SPLUNK_TOKEN"
        | "NATS_PASSWORD" | "NATS_TOKEN" | "CLOUD_PASSWORD" | "CENTRE_PASSWORD"
        | "KAFKA_PASSWORD" | "POSTGRES_PASSWORD" | "SEARCH_PASSWORD" | "KINESIS_KEY_ID"
        | "KINESIS_SECRET" | "KINESIS_TOKEN" => Some("secret".to_owned()),
        "VIEWER_TOKEN" => Some("0123456789-of-a-viewer".to_owned()),
        "OPERATOR_TOKEN" => Some("0123456789-of-an-operator".to_owned()),
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
    assert_eq!(config.store.destinations, ["events".into(), ACTIONS.into()]);
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
    feature = "eventbridge",
    feature = "http",
    feature = "kafka",
    feature = "kinesis",
    feature = "mqtt",
    feature = "nats",
    feature = "opensearch",
    feature = "postgres",
    feature = "s3",
    feature = "schema",
    feature = "sns",
    feature = "sqs"
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
    let tokens = config.http.tokens.iter();
    let tokens: Vec<_> = tokens.map(|one| (&*one.name, one.role)).collect();
    let roles = [
        ("grafana", http::Role::Viewer),
        ("shift", http::Role::Operator),
    ];
    assert_eq!(tokens, roles);
    let tls = config.http.tls.as_ref().unwrap();
    assert_eq!(tls.certificate, Path::new("/etc/penstock/server.pem"));
    let http = http::Config {
        tokens: Vec::new(),
        tls: None,
        ..config.http
    };
    assert_eq!(http, defaults.http);
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
    assert_eq!(
        names,
        [
            "events",
            "lake",
            "stream",
            "cloud",
            "shards",
            "queue",
            "topic",
            "bus",
            "objects",
            "log",
            "database",
            "search",
            "search.urgent",
            "search.live"
        ]
    );
    // And whoever does what rules ask for beside sending.
    assert_eq!(config.store.destinations.len(), names.len() + 1);
    #[cfg(feature = "http")]
    {
        let forward::Kind::Http(lake) = &config.destinations[1].kind else {
            panic!("http")
        };
        let mut expect = forward::http::Config::new("https://lake.example/events");
        expect.headers = vec![("X-Plant".to_owned(), "7".into())];
        expect.auth = forward::http::Auth::Basic {
            user: "plant".to_owned(),
            password: "secret".into(),
        };
        let tls = |file| Path::new("/etc/penstock/tls").join(file);
        expect.tls = crate::tls::Files {
            ca: Some(tls("ca.pem")),
            identity: Some((tls("plant.pem"), tls("plant.key"))),
        };
        use forward::http::{Meaning, Signature};
        for (status, meaning) in [
            ("404", Meaning::Unavailable),
            ("409", Meaning::Acknowledged),
        ] {
            expect.answers.add(status, meaning).unwrap();
        }
        expect.signature = Some(Signature {
            secret: "fedcba9876543210".into(),
            header: Signature::HEADER.to_owned(),
            timestamp_header: Signature::TIMESTAMP_HEADER.to_owned(),
        });
        assert_eq!(**lake, expect);
    }
    #[cfg(feature = "nats")]
    {
        let forward::Kind::Nats(stream) = &config.destinations[2].kind else {
            panic!("nats")
        };
        let servers = vec!["nats://127.0.0.1:4222".to_owned()];
        let mut expect = forward::nats::Config::new(servers, "TELEMETRY");
        expect.login = forward::nats::Login::User {
            user: "penstock".to_owned(),
            password: "secret".into(),
        };
        assert_eq!(*stream, expect);
    }
}

#[test]
fn every_value_that_differs_from_the_default_is_taken() {
    let config = read(
        r#"
        data_dir = "/data"
        shutdown_grace_period = "5s"
        broker = { listen = "[::1]:0", connections_max = 5, packet_bytes_max = 2048, connect_timeout = "1s", receive_max = 9, outbound_in_flight_max = 8, outbound_queue_bytes_max = "2KiB", subscriptions_per_client_max = 7, keep_alive_max = "20m", response_information = "r/{client}/", sys_interval = "never", sessions_max = 6, sessions_per_user_max = 5, session_expiry_max = "1d", queue_messages_max = 11, queue_bytes_max = "3KiB", queue_total_bytes_max = "4KiB", queue_full = "refuse", retained_max = 12, retained_bytes_max = "5KiB", retained_full = "not-retained", limits = { connections_per_address_max = 4, connections_per_identity_max = 3, connect_rate_max = 20, connect_rate_per_address_max = 10, publish_rate_max = 100, publish_bytes_rate_max = "2KiB", publish_burst = "2s", rate = [{ users = ["site-*"], listeners = ["[::1]:0"], publish_rate_max = 0 }], topic_bytes_max = 99, topic_levels_max = 8, memory_max = "32MiB" } }
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
    assert_snapshot!(format!("{:?}", config.broker), @r#"Config { listeners: [Config { name: "[::1]:0", address: Ip([::1]:0), transport: Tcp, tls: None, proxy_protocol: None, allow_anonymous: false, connections_max: None }], auth: Config { passwords: None, certificate: None, token: None, hook: None, client_ids: Any, rules: Rules([]), denied_publish: Disconnect, lockout: Config { failures_max: 5, failures_in_total_max: 50, lock: 60s }, checks_at_once: None, remember: 900s }, connections_max: 5, packet_bytes_max: 2048, connect_timeout: 1s, receive_max: 9, outbound_in_flight_max: 8, outbound_queue_bytes_max: 2048, subscriptions_per_client_max: 7, keep_alive_max: Some(1200s), response_information: Some("r/{client}/"), sys_interval: 0ns, limits: Limits { connections_per_address_max: 4, connections_per_identity_max: 3, connect_rate_max: 20, connect_rate_per_address_max: 10, publish_rate_max: 100, publish_bytes_rate_max: 2048, rates: [Rates { users: [Pattern { text: "site-", is_prefix: true }], listeners: ["[::1]:0"], publish_rate_max: 0, publish_bytes_rate_max: 2048 }], publish_burst: 2s, topic_bytes_max: 99, topic_levels_max: 8, memory_max: 33554432 }, keep: Config { dir: Some("/data"), sessions_max: 6, sessions_per_user_max: 5, session_expiry_max: 86400s, queue_messages_max: 11, queue_bytes_max: 3072, queue_total_bytes_max: 4096, queue_full: Refuse, retained_max: 12, retained_bytes_max: 5120, retained_full: NotRetained, seal: Seal(off) } }"#);
    assert_snapshot!(format!("{:?} {:?}", config.http, config.log), @r#"Config { listen: 0.0.0.0:0, allow_anonymous: true, allow_plaintext: false, tls: None, tokens: [] } Config { level: "warn,penstock=trace", format: Json }"#);
    assert_snapshot!(format!("{:?}", config.store), @r#"Config { dir: "/data", max_bytes: 64000000, max_age: None, keep_delivered: None, on_full: DropOldest, shed: [], reserve_bytes: 1048576, dedup_age: 3600s, dedup_count: 5000, dedup_memory_bytes: 2097152, destinations: ["f", "$rules"], from_kept: [], seal: Seal(off) }"#);
    assert_snapshot!(format!("{:?}", config.destinations), @r#"[Config { name: "f", kind: File(Config { path: "/elsewhere/x", rotate_size: 4096, rotate_age: 60s, files_max: 3, format: Plain }), retry_first: 1s, retry_max: 2s, attempts_max: 1, start: Now, pacing: Config { records_per_sec: None, bytes_per_sec: None, budget: None, windows: [], time_zone: TimeZone(UTC), latency_max: 5s }, urgent: Classes(0), live: None, lane_of: None }]"#);
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
    feature = "eventbridge",
    feature = "http",
    feature = "kafka",
    feature = "kinesis",
    feature = "mqtt",
    feature = "nats",
    feature = "opensearch",
    feature = "postgres",
    feature = "s3",
    feature = "schema",
    feature = "sns",
    feature = "sqs"
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
    feature = "eventbridge",
    feature = "http",
    feature = "kafka",
    feature = "kinesis",
    feature = "mqtt",
    feature = "nats",
    feature = "opensearch",
    feature = "postgres",
    feature = "s3",
    feature = "schema",
    feature = "sns",
    feature = "sqs"
))]
fn the_documentation_lists_exactly_the_keys_that_are_known() {
    let text = fs::read_to_string(repository("config/full.toml")).unwrap();
    let reader = Reader::new(&text, &env, Path::new(""));
    let (config, known) = Config::parse(reader, Path::new(""));
    config.unwrap();
    assert_eq!(documented(), known);
}

#[test]
#[cfg(feature = "http")]
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

#[test]
#[cfg(all(feature = "http", feature = "nats"))]
fn secrets_that_others_can_hear_are_warned_of() {
    let warnings = |keys: &str| {
        let text = format!("[[destination]]\nname = \"a\"\n{keys}");
        let config = read(&text).unwrap();
        config.destination_warnings().collect::<Vec<_>>().join("|")
    };
    let nats = "type = \"nats\"\nstream = \"S\"\nservers";
    for (keys, expect) in [
        ("type = \"http\"\nurl = \"http://lake.example/\"", ""),
        (
            "type = \"http\"\nurl = \"http://lake.example/\"\ntoken = \"t\"",
            "destination \"a\": who we are goes to another machine in the clear; use https://",
        ),
        (
            "type = \"http\"\nurl = \"https://lake.example/\"\ntoken = \"t\"",
            "",
        ),
        (
            "type = \"http\"\nurl = \"http://[::1]:80/\"\ntoken = \"t\"",
            "",
        ),
        (
            "type = \"http\"\nurl = \"https://lake.example/\"\noauth2 = { token_url = \"http://id.example\", client_id = \"a\", client_secret = \"b\" }",
            "destination \"a\": client_secret goes to another machine in the clear; use https://",
        ),
        (
            &format!("{nats} = [\"nats://a.example:4222\"]\ntoken = \"t\""),
            "destination \"a\": who we are goes to another machine in the clear; use tls://",
        ),
        (
            &format!("{nats} = [\"tls://a.example:4222\"]\ntoken = \"t\""),
            "",
        ),
        (
            &format!("{nats} = [\"nats://a.example:4222\"]\ncredentials = \"c\""),
            "",
        ),
    ] {
        assert_eq!(warnings(keys), expect, "{keys}");
    }
    let short = warnings(&format!(
        "{nats} = [\"nats://[::1]:4222\"]\nduplicate_window = \"1m\""
    ));
    assert!(short.contains("less than twice the 55s"), "{short}");
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
fn a_key_has_one_source_and_the_read_side_is_plain_in_words() {
    let key = "[encryption]\nkey_file = \"k\"\n";
    let config = read(key).unwrap();
    let source = crate::encryption::Source::File("/etc/penstock/k".into());
    assert_eq!(config.encryption.key, Some(source));
    assert!(!config.store.seal.is_on(), "nothing is read yet");
    let said = |text: &str| mistakes(text);
    let missing = said("[encryption]\nplain = [\"read\"]");
    assert!(
        missing.contains("one of key_file, key_env and credential"),
        "{missing}"
    );
    let two = said("[encryption]\nkey_file = \"k\"\nkey_env = \"K\"");
    assert!(
        two.contains("encryption.key_env") && two.contains("leave one away"),
        "{two}"
    );
    let path = said("[encryption]\ncredential = \"a/b\"");
    assert!(path.contains("without a path"), "{path}");
    let side = said(&format!("{key}[read]\nenabled = true"));
    assert!(
        side.contains("encryption.plain") && side.contains("plain = [\"read\"]"),
        "{side}"
    );
    let word = said(&format!("{key}plain = [\"all\"]"));
    assert!(word.contains("should be \"read\""), "{word}");
    read(&format!("{key}plain = [\"read\"]\n[read]\nenabled = true")).unwrap();
    let old = said(&format!("{key}old_keys = [{{}}]"));
    assert!(old.contains("encryption.old_keys[1]"), "{old}");
    let old = read(&format!("{key}old_keys = [{{ key_env = \"K\" }}]")).unwrap();
    assert_eq!(old.encryption.old.len(), 1);
}
