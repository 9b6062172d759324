//! Keys and mistakes of what reaches other MQTT brokers.

use insta::assert_snapshot;

use super::*;
use crate::config::{Config, Mistakes};

fn read(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
    Config::from_text(text, Path::new("/etc/penstock"), &env)
}

fn mistakes(text: &str) -> String {
    read(text).expect_err("it has mistakes").to_string()
}

#[test]
fn addresses_have_a_scheme_a_host_and_a_port() {
    let read = |text| parse_address(text).map(|a| (a.encrypted, a.host, a.port));
    for (text, encrypted, host, port) in [
        ("mqtt://h", false, "h", 1883),
        ("mqtts://h", true, "h", 8883),
        ("mqtts://a.b:443", true, "a.b", 443),
        ("mqtt://[::1]:1", false, "::1", 1),
        ("mqtt://[::1]", false, "::1", 1883),
    ] {
        assert_eq!(read(text), Ok((encrypted, host.to_owned(), port)), "{text}");
    }
    for wrong in [
        "h:1883",
        "http://h",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:x",
        "mqtt://u@h",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_key_that_differs_from_the_default_is_taken() {
    let config = read(
        r#"
[[destination]]
name = "up"
type = "mqtt"
server = "mqtts://h:443"
version = "3.1.1"
client_id = "me"
user = "u"
password = "${WORD}"
ca = "ca.pem"
certificate = "/c.pem"
key = "k.pem"
alpn = ["a", "b"]
keep_alive = "5s"
timeout = "3s"
topic = "x/{type}"
payload = "cbor"
in_flight = 7
packet_bytes_max = "1KiB"
[[remote]]
name = "down"
server = "mqtt://h"
session_expiry = "1h"
in_flight = 9
packet_bytes_max = "2KiB"
destination = "up"
[[remote.subscribe]]
filter = "$share/g/a/b/#"
qos = 0
remote_prefix = "a/"
local_prefix = "z/"
journal = true
"#,
    )
    .unwrap();
    let Kind::Mqtt(up) = &config.destinations[0].kind else {
        panic!("another kind");
    };
    let tls = up.server.tls.as_ref().unwrap();
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/etc/penstock/ca.pem")));
    let identity = tls.identity.as_ref().unwrap();
    assert_eq!(identity.0, Path::new("/c.pem"));
    assert_eq!(identity.1, Path::new("/etc/penstock/k.pem"));
    assert_eq!(tls.alpn, ["a", "b"]);
    let expect = destination::Config {
        dictionary: None,
        server: Server {
            tls: Some(tls.clone()),
            version: Version::V4,
            client_id: Some("me".to_owned()),
            user: Some("u".to_owned()),
            password: Some("sesame-open".into()),
            keep_alive: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            ..Server::new("h", 443)
        },
        gateway: None,
        topic: "x/{type}".to_owned(),
        payload: destination::Payload::Event(crate::event::message::Payload::Cbor),
        in_flight: 7,
        packet_bytes_max: 1024,
    };
    assert_eq!(*up, expect);
    let subscription = remote::Subscription {
        filter: "$share/g/a/b/#".to_owned(),
        qos: 0,
        remote_prefix: "a/".to_owned(),
        local_prefix: "z/".to_owned(),
        journal: true,
    };
    let expect = remote::Config {
        session_expiry: Duration::from_secs(3_600),
        in_flight: 9,
        packet_bytes_max: 2048,
        subscriptions: vec![subscription],
        destination: Some("up".into()),
        ..remote::Config::new("down", Server::new("h", 1883))
    };
    assert_eq!(config.remotes, [expect]);
}

#[test]
fn mistakes_say_what_would_be_right() {
    assert_snapshot!(mistakes(
        r#"
[[destination]]
name = "a"
type = "mqtt"
server = "broker.example:1883"
version = "4"
topic = "x/+/{device}"
[[destination]]
name = "b"
type = "mqtt"
server = "mqtt://h"
ca = "ca.pem"
certificate = "c.pem"
password = "p"
keep_alive = "1s"
payload = "data"
[[remote]]
name = "c"
server = "mqtt://h"
[[remote]]
name = "c"
server = "mqtt://h"
[[remote.subscribe]]
filter = "a/#/b"
qos = 2
[[remote.subscribe]]
filter = "a/#"
remote_prefix = "b/"
local_prefix = "$SYS/"
into = "journal"
"#
    ), @r##"
    configuration:5: destination[1].server: "broker.example:1883": an address begins with mqtt:// or mqtts://, then comes a host and perhaps a port; for example "mqtts://broker.example:8883"
    configuration:6: destination[1].version: "4": should be one of 5, 3.1.1
    configuration:7: destination[1].topic: "x/+/{device}": has characters that a topic to publish on cannot have
    configuration:12: destination[2].ca: is for TLS; the server's address should begin with mqtts://
    configuration:13: destination[2].certificate: certificate and key go together; key is missing
    configuration:13: destination[2].certificate: is for TLS; the server's address should begin with mqtts://
    configuration:14: destination[2].password: a password goes with a user, which is missing
    configuration:15: destination[2].keep_alive: 1s is not between 5s and 65535s
    configuration:16: destination[2].payload: "data": should be one of json, cbor, original
    configuration:17: remote[1].subscribe: is missing; for example [[remote.subscribe]] with filter = "commands/#"
    configuration:21: remote[2].name: there is another remote named "c"
    configuration:24: remote[2].subscribe[1].filter: "a/#/b": "#" stands alone at the end
    configuration:25: remote[2].subscribe[1].qos: 2 is not between 0 and 1
    configuration:28: remote[2].subscribe[2].remote_prefix: "b/": the filter does not begin with it
    configuration:29: remote[2].subscribe[2].local_prefix: "$SYS/": topics that begin with "$" are the gateway's own
    configuration:30: remote[2].subscribe[2].into: is not a key; known here are filter, journal, local_prefix, qos, remote_prefix
    "##);
}

#[test]
fn topics_that_would_be_the_gateways_own_need_a_prefix() {
    let with = |more: &str| {
        read(&format!(
            "[[remote]]\nname = \"aws\"\nserver = \"mqtt://h\"\n\
             [[remote.subscribe]]\nfilter = \"$aws/things/x/jobs/#\"\n{more}"
        ))
    };
    assert!(with("local_prefix = \"cloud/\"").is_ok());
    assert!(with("remote_prefix = \"$aws/\"").is_ok());
    assert_snapshot!(with("").unwrap_err().to_string(), @r#"
    configuration:5: remote[1].subscribe[1].filter: "$aws/things/x/jobs/#": topics that begin with "$" are the gateway's own here; give a local_prefix, for example "cloud/", or a remote_prefix that takes the "$" away
    "#);
}

#[test]
fn what_cannot_be_marked_must_be_told_by_its_topic() {
    let both = |version: &str, filter: &str| {
        let server = format!("server = \"mqtt://H:1883\"\nversion = \"{version}\"");
        read(&format!(
            "[[destination]]\nname = \"up\"\ntype = \"mqtt\"\n{server}\n\
             [[remote]]\nname = \"down\"\n{}\n\
             [[remote.subscribe]]\nfilter = \"{filter}\"",
            server.to_lowercase()
        ))
    };
    assert!(both("5", "#").is_ok());
    assert!(both("3.1.1", "commands/#").is_ok());
    assert_snapshot!(both("3.1.1", "telemetry/+/x/#").unwrap_err().to_string(), @r#"
    configuration:10: remote[1].subscribe: "telemetry/+/x/#" also takes what destination "up" publishes there ("telemetry/+/+/+"), and MQTT 3.1.1 cannot tell them apart; use other topics, or version = "5" for both
    "#);
}

/// A destination and a remote of the same host in MQTT 3.1.1, one of them encrypted.
fn one_host(more: &str, filters: &[&str]) -> Result<Config, Mistakes> {
    let filters: String = filters
        .iter()
        .map(|filter| format!("[[remote.subscribe]]\nfilter = \"{filter}\"\n"))
        .collect();
    read(&format!(
        "[[destination]]\nname = \"up\"\ntype = \"mqtt\"\nserver = \"mqtts://h\"\nversion = \"3.1.1\"\n\
         [[remote]]\nname = \"down\"\nserver = \"mqtt://h\"\nversion = \"3.1.1\"\n{more}\n{filters}"
    ))
}

#[test]
fn a_broker_with_two_ports_is_one_where_the_operator_says_so() {
    let warnings = |config: &Config| warnings(&config.remotes, &config.destinations);
    let config = one_host("", &["telemetry/#"]).unwrap();
    assert_snapshot!(warnings(&config).join("\n"), @r#"remote "down" and destination "up" are on one host: if that is one broker, say destination = "up" in [[remote]], or messages go back to it"#);
    let said = one_host("destination = \"up\"", &["telemetry/#"]).unwrap_err();
    assert!(
        said.to_string().contains("also takes what destination"),
        "{said}"
    );
    let config = one_host("destination = \"up\"", &["commands/#"]).unwrap();
    assert!(warnings(&config).is_empty());
    let up = &config.destinations[0];
    let Kind::Mqtt(server) = &up.kind else {
        panic!("another kind");
    };
    assert!(config.remotes[0].is_same(&up.name, &server.server));
    let said = one_host("destination = \"events\"", &["commands/#"]).unwrap_err();
    assert!(
        said.to_string().contains("no destination of type mqtt"),
        "{said}"
    );
}

#[test]
fn filters_that_take_the_same_topics_are_complained_of() {
    let config = one_host("destination = \"up\"", &["a/#", "b", "+/c"]).unwrap();
    assert_snapshot!(warnings(&config.remotes, &config.destinations).join("\n"), @r#"remote "down": filters "a/#" and "+/c" take the same topics, and a broker may send such a message once for each of them"#);
}

#[test]
fn no_two_connections_throw_each_other_out() {
    let read_both = |one: &str, other: &str| {
        read(&format!(
            "[[destination]]\nname = \"up\"\ntype = \"mqtt\"\nserver = \"mqtt://h\"\nclient_id = \"{one}\"\n\
             [[remote]]\nname = \"down\"\nserver = \"mqtt://h\"\nclient_id = \"{other}\"\n\
             [[remote.subscribe]]\nfilter = \"a\""
        ))
    };
    assert!(read_both("a", "b").is_ok());
    let said = read_both("a", "a").unwrap_err().to_string();
    assert!(said.contains("would throw each other out"), "{said}");
}
