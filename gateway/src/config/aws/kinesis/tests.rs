//! Keys and mistakes.

use std::path::Path;

use insta::assert_snapshot;

use super::*;
use crate::{
    config::{Config, Mistakes},
    forward::aws::{Account, Keys, Order},
};

fn read(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
    Config::from_text(text, Path::new("/etc/penstock"), &env)
}

fn kinesis(keys: &str) -> kinesis::Config {
    let text = format!("[[destination]]\nname = \"s\"\ntype = \"kinesis\"\n{keys}");
    let config = read(&text).unwrap();
    let Kind::Kinesis(config) = &config.destinations[0].kind else {
        panic!("another kind");
    };
    config.clone()
}

#[test]
fn a_stream_is_enough() {
    assert_eq!(
        kinesis("stream = \"telemetry\""),
        kinesis::Config::new("telemetry")
    );
}

#[test]
fn every_key_that_differs_from_the_default_is_taken() {
    let config = kinesis(
        r#"
stream = "arn:aws:kinesis:eu-central-1:123456789012:stream/telemetry"
region = "eu-central-1"
endpoint = "http://127.0.0.1:4567"
access_key_id = "AKIA"
secret_access_key = "${WORD}"
session_token = "${WORD}"
timeout = "3s"
connect_timeout = "2s"
aggregate = true
order = "relaxed"
batch_records = 100
linger = "1s"
in_flight = 2
request_records = 50
request_bytes = "10MiB"
record_bytes_max = "9MiB"
"#,
    );
    let secret = || "sesame-open".into();
    let expect = kinesis::Config {
        stream: "arn:aws:kinesis:eu-central-1:123456789012:stream/telemetry".to_owned(),
        account: Account {
            region: Some("eu-central-1".to_owned()),
            endpoint: Some("http://127.0.0.1:4567".to_owned()),
            profile: None,
            keys: Some(Keys {
                id: "AKIA".to_owned(),
                secret: secret(),
                token: Some(secret()),
            }),
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(2),
        },
        aggregate: true,
        order: Order::Relaxed,
        batch_records: 100,
        linger: Duration::from_secs(1),
        in_flight: 2,
        request_records: 50,
        request_bytes: 10 << 20,
        record_bytes_max: 9 << 20,
    };
    assert_eq!(config, expect);
    assert!(!format!("{config:?}").contains("sesame"));
    let of_profile = kinesis("stream = \"s\"\nprofile = \"plant\"").account;
    assert_eq!(of_profile.profile.as_deref(), Some("plant"));
}

#[test]
fn mistakes_say_what_would_be_right() {
    let text = r#"
[[destination]]
name = "a"
type = "kinesis"
stream = "no stream"
region = "Frankfurt"
endpoint = "kinesis.example"
secret_access_key = "${WORD}"
session_token = "${WORD}"
order = "loose"
request_records = 501
record_bytes_max = "11MiB"
[[destination]]
name = "b"
type = "kinesis"
stream = "s"
access_key_id = "AKIA"
secret_access_key = "${WORD}"
profile = "plant"
request_bytes = "512KiB"
[[destination]]
name = "c"
type = "kinesis"
"#;
    let mistakes = read(text).expect_err("it has mistakes").to_string();
    assert_snapshot!(mistakes, @r#"
    configuration:5: destination[1].stream: "no stream": a stream is its name, 1 to 128 letters, digits, "-", "_" and ".", or its ARN, such as "arn:aws:kinesis:eu-central-1:123456789012:stream/telemetry"
    configuration:6: destination[1].region: "Frankfurt": a region has lower-case letters, digits and "-", such as "eu-central-1"
    configuration:7: destination[1].endpoint: "kinesis.example": an endpoint is a URL that begins with http:// or https://
    configuration:8: destination[1].secret_access_key: access_key_id and secret_access_key go together; the other one is missing
    configuration:9: destination[1].session_token: goes with access_key_id and secret_access_key, which are missing
    configuration:10: destination[1].order: "loose": should be one of strict, relaxed
    configuration:11: destination[1].request_records: 501 is not between 1 and 500
    configuration:12: destination[1].record_bytes_max: 11MiB is not between 1KiB and 10MiB
    configuration:19: destination[2].profile: either profile, or access_key_id and secret_access_key
    configuration:20: destination[2].request_bytes: record_bytes_max should be at most request_bytes
    configuration:21: destination[3].stream: is missing; for example stream = "telemetry"
    "#);
}
