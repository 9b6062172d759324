//! Mistakes, all of them at once, and their words.

use super::*;

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
    configuration:11: http.listen: 0.0.0.0:80 is beyond this machine, and nobody is asked who they are; set token or [[http.token]], or set allow_anonymous = true to let anyone in, or listen on "127.0.0.1:80"
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
fn what_is_coarser_in_history_is_kept_for_longer() {
    let said = mistakes("[read]\nminute_keep = \"1d\"\nraw_keep = \"3d\"\n");
    let expect = "configuration:2: read.minute_keep: minute_keep should be at least raw_keep; \
                  make minute_keep longer or raw_keep shorter";
    assert!(said.contains(expect), "{said}");
    let said = mistakes("[read]\nminute_keep = \"400d\"\n");
    let expect = "configuration:2: read.minute_keep: hour_keep should be at least minute_keep";
    assert!(said.contains(expect), "{said}");
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
        "configuration:6: mapping[1].tz: \"Mars/Olympus\": not a time zone; for example \"+01:00\"",
        "configuration:7: mapping[1].bad_element: \"ignore\": should be one of skip, reject",
        match cfg!(feature = "cel") {
            true => {
                "configuration:8: mapping[1].require: \"v\": line 1, column 1: there is no \"v\" here; known are p, payload, topic; a pointer begins with \"/\""
            }
            false => {
                "configuration:8: mapping[1].require: \"v\": expressions are not in this program; build it with the feature cel; a pointer begins with \"/\""
            }
        },
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
#[cfg(all(feature = "http", feature = "nats"))]
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
    configuration:15: destination[3].url: is not a key; known here are attempts_max, budget, budget_period, files_max, format, latency_max, live, live_after, name, path, rate_bytes, rate_records, retry_first, retry_max, rotate_age, rotate_size, start, time_zone, type, urgent, window
    configuration:18: destination[4].type: "pigeon": should be one of eventbridge, file, http, kafka, kinesis, mqtt, nats, opensearch, postgres, s3, sns, sqs
    configuration:20: destination[5].name: is missing; for example name = "events"
    configuration:20: destination[5].url: is missing; for example url = "https://lake.example/events"
    configuration:22: destination[5].batch_records: 0 is not between 1 and 10000
    configuration:26: destination[6].url: "lake.example": a URL begins with http:// or https://
    configuration:27: destination[7].stream: is missing; for example stream = "TELEMETRY"
    configuration:30: destination[7].servers: is missing or empty; for example servers = ["nats://127.0.0.1:4222"]
    configuration:31: destination[7].user: user and password go together; the other one is missing
    configuration:32: destination[7].token: says who we are, and so does user; only one of them can be true
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
    configuration:4: http.listen: [::]:8080 is beyond this machine, and nobody is asked who they are; set token or [[http.token]], or set allow_anonymous = true to let anyone in, or listen on "127.0.0.1:8080"
    "#
    );
    read("[broker]\nlisten = \"0.0.0.0:1883\"\nallow_anonymous = true").unwrap();
    let token = "[http]\nlisten = \"0.0.0.0:8080\"\ntoken = \"0123456789-of-somebody\"\n";
    assert_snapshot!(
        mistakes(token), @r#"configuration:2: http.listen: 0.0.0.0:8080 is beyond this machine, and tokens would go over the network in the clear; set [http.tls], or set allow_plaintext = true where something in front encrypts, or listen on "127.0.0.1:8080""#
    );
    for word in [
        "allow_plaintext = true",
        "tls = { certificate = \"a.pem\", key = \"a.key\" }",
    ] {
        read(&format!("{token}{word}")).unwrap();
    }
    // A certificate says that a device is the plant's, not what it may do here.
    let tls = "[http]\nlisten = \"0.0.0.0:8080\"\ntls = { certificate = \"a.pem\", key = \"a.key\", client_ca = \"ca.pem\" }";
    assert!(mistakes(tls).contains("nobody is asked"));
    assert_snapshot!(
        mistakes("[broker]\nlisten = \"127.0.0.1:1883\"\n[http]\nlisten = \"127.0.0.1:1883\""), @r#"configuration:4: http.listen: 127.0.0.1:1883 is the broker's address too"#
    );
}

#[test]
fn there_can_be_62_destinations() {
    let text = |count: usize| -> String {
        (0..count)
            .map(|n| {
                format!("[[destination]]\nname = \"d{n}\"\ntype = \"file\"\npath = \"d{n}\"\n")
            })
            .collect()
    };
    assert_eq!(read(&text(62)).unwrap().destinations.len(), 62);
    assert_snapshot!(mistakes(&text(63)), @r#"configuration:1: destination: 63 destinations; there can be 62"#);
}

#[test]
#[cfg(all(feature = "http", feature = "nats"))]
fn mistakes_about_forms_and_logins_say_what_would_be_right() {
    let said = mistakes(
        r#"
[[destination]]
name = "a"
type = "http"
url = "http://lake.example/"
form = "cloudevent-batch"
user = "u"
token = "${TOKEN}"
ca = "ca.pem"
answers = { 404 = "refuse", 4x = "stop", 600 = "stop" }
[destination.oauth2]
token_url = "login.example"
scope = "x"
[destination.signature]
headr = "x"
[[destination]]
name = "b"
type = "http"
url = "https://lake.example/"
form = "template"
certificate = "c.pem"
[[destination]]
name = "c"
type = "http"
url = "https://lake.example/"
template = { event = "{{event}}" }
[[destination]]
name = "d"
type = "http"
url = "https://lake.example/"
form = "template"
template = { event = '{"d":{{devise}}}', begin = "[" }
[[destination]]
name = "e"
type = "http"
url = "https://lake.example/"
signature = { secret = "${TOKEN}", header = "x y" }
proxy = "proxy:3128"
[[destination]]
name = "f"
type = "nats"
servers = ["nats://127.0.0.1:4222"]
stream = "S"
token = "${TOKEN}"
nkey = "${TOKEN}"
ca = "ca.pem"
tls_first = true
[[destination]]
name = "g"
type = "nats"
servers = ["nats://127.0.0.1:4222"]
stream = "S"
nkey = "${TOKEN}"
"#,
    );
    assert!(!said.contains("sesame"), "{said}");
    assert_snapshot!(said, @r###"
    configuration:6: destination[1].form: "cloudevent-batch": should be one of cloudevents-batch, cloudevents-structured, cloudevents-binary, ndjson, template; did you mean "cloudevents-batch"?
    configuration:7: destination[1].user: user and password go together; password is missing
    configuration:8: destination[1].token: says who we are, and so does user; only one of them can be true
    configuration:9: destination[1].ca: is for TLS; the address should begin with https://
    configuration:10: destination[1].answers.404: "refuse": should be one of acknowledged, refused, throttled, unavailable, stop; did you mean "refused"?
    configuration:10: destination[1].answers.4x: "4x": a status is 200 to 599, or a class of them such as 5xx
    configuration:10: destination[1].answers.600: "600": a status is 200 to 599, or a class of them such as 5xx
    configuration:11: destination[1].oauth2.client_id: is missing; for example client_id = "plant-7"
    configuration:11: destination[1].oauth2.client_secret: is missing; for example client_secret = "${CLIENT_SECRET}"
    configuration:12: destination[1].oauth2.token_url: "login.example": a URL begins with http:// or https://
    configuration:14: destination[1].signature.secret: is missing; for example secret = "${SIGNING_SECRET}"
    configuration:15: destination[1].signature.headr: is not a key; did you mean "header"?
    configuration:20: destination[2].template: is missing; for example [destination.template] with event = "{{event}}"
    configuration:21: destination[2].certificate: certificate and key go together; key is missing
    configuration:26: destination[3].template: is for form = "template"
    configuration:32: destination[4].template.event: "{\"d\":{{devise}}}": {{devise}}: there is event, data, values, values.NAME, units.NAME, tags, tags.NAME, and the attributes specversion, id, source, type, subject, time, datacontenttype, recordedtime, partitionkey, sequence, traceparent, site, device, mqtttopic, idsource, timesource, timemarks, correctedtime, replayedtime, eventkey; each also with :text behind it, and times with :s, :ms or :ns
    configuration:37: destination[5].signature.secret: has 11 bytes, of at least 16
    configuration:37: destination[5].signature.header: "x y": not a header's name
    configuration:38: destination[5].proxy: should be http://HOST:PORT, perhaps with USER:PASSWORD@, or "none"
    configuration:45: destination[6].nkey: says who we are, and so does token; only one of them can be true
    configuration:45: destination[6].nkey: is not the seed of a user (SU...)
    configuration:46: destination[6].ca: is for TLS; the address should begin with tls://
    configuration:47: destination[6].tls_first: is for TLS; the address should begin with tls://
    configuration:53: destination[7].nkey: is not the seed of a user (SU...)
    "###);
}

#[test]
#[cfg(feature = "http")]
fn values_come_from_files_that_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "from-a-file\n").unwrap();
    fs::write(dir.path().join("empty"), "\n").unwrap();
    let read = |token: &str| {
        let text = format!(
            "[[destination]]\nname = \"a\"\ntype = \"http\"\nurl = \"http://x/\"\ntoken = \"{token}\""
        );
        Config::from_text(&text, dir.path(), &env)
    };
    let config = read("${file:token}").unwrap();
    let forward::Kind::Http(http) = &config.destinations[0].kind else {
        panic!("http")
    };
    let auth = forward::http::Auth::Bearer("from-a-file".into());
    assert_eq!(http.auth, auth);
    let mistake = |token: &str| read(token).unwrap_err().to_string();
    assert_eq!(
        mistake("${file:empty}"),
        "configuration:5: destination[1].token: the file empty: is empty"
    );
    let none = mistake("${file:none}");
    assert!(
        none.contains("the file none: cannot be read: No such file"),
        "{none}"
    );
    // What a file holds is not shown where it is wrong.
    let text = "[broker]\nlisten = \"${file:token}\"";
    let said = Config::from_text(text, dir.path(), &env)
        .unwrap_err()
        .to_string();
    assert!(!said.contains("from-a-file"), "{said}");
}

#[test]
fn what_devices_may_take_leaves_room_for_telemetry() {
    let said = mistakes(
        r#"
[store]
size_max = "8MiB"
reserve = "64KiB"
[commands]
bytes_max = "8MiB"
"#,
    );
    assert_snapshot!(said, @"configuration:6: commands.bytes_max: bytes_max should be less than size_max of [store]: telemetry needs room too; make bytes_max smaller or size_max larger");
}

#[cfg(all(feature = "mqtt", feature = "nats"))]
#[test]
fn mistakes_about_dictionaries_say_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let no_dictionary = dir.path().join("a.zdict");
    std::fs::write(&no_dictionary, "hello").unwrap();
    let path = no_dictionary.display();
    let said = mistakes(&format!(
        r#"
[[mapping]]
topic = "a/{{device}}"
compression = "gzip"
dictionaries = ["/no/such.zdict"]
[[destination]]
name = "a"
type = "nats"
servers = ["nats://127.0.0.1:4222"]
stream = "A"
dictionary = "{path}"
[[destination]]
name = "b"
type = "mqtt"
server = "mqtt://127.0.0.1"
payload = "original"
dictionary = "/no/such.zdict"
"#
    ));
    let not_one = format!(
        "configuration:11: destination[1].dictionary: \"{path}\": is not a dictionary of Zstandard"
    );
    for expect in [
        "configuration:5: mapping[1].dictionaries: \"/no/such.zdict\": cannot be read: No such file",
        "configuration:5: mapping[1].dictionaries: are of use with compression = \"zstd\" or \"auto\" only",
        &not_one,
        "configuration:17: destination[2].dictionary: \"/no/such.zdict\": cannot be read: No such file",
    ] {
        assert!(said.contains(expect), "{expect}\n{said}");
    }
}
