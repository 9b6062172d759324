//! Keys and mistakes of queues, topics and buses.

use std::path::Path;

use insta::assert_snapshot;

use crate::{
    config::{Config, Mistakes, destination::warnings},
    forward::{Kind, aws::Order, eventbridge, sns, sqs},
};

fn read(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
    Config::from_text(text, Path::new("/etc/penstock"), &env)
}

fn kind(keys: &str) -> Kind {
    let config = read(&format!("[[destination]]\nname = \"s\"\n{keys}")).unwrap();
    config.destinations[0].kind.clone()
}

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/telemetry.fifo";
const TOPIC: &str = "arn:aws:sns:eu-central-1:123456789012:telemetry";

#[test]
fn the_name_is_enough() {
    let Kind::Sqs(config) = kind(&format!("type = \"sqs\"\nqueue = \"{QUEUE}\"")) else {
        panic!("another kind");
    };
    assert_eq!(config, sqs::Config::new(QUEUE));
    assert!(config.is_fifo());
    let Kind::Sns(config) = kind(&format!("type = \"sns\"\ntopic = \"{TOPIC}\"")) else {
        panic!("another kind");
    };
    assert_eq!(config, sns::Config::new(TOPIC));
    assert!(!config.is_fifo());
    let Kind::EventBridge(config) = kind("type = \"eventbridge\"") else {
        panic!("another kind");
    };
    assert_eq!(config, eventbridge::Config::new("default"));
}

#[test]
fn what_differs_from_the_default_is_taken() {
    let keys = "type = \"sqs\"\nqueue = \"plant.fifo\"\norder = \"relaxed\"\nin_flight = 2\n\
                batch_records = 20\nlinger = \"1s\"\nrequest_bytes = \"256KiB\"\n\
                message_bytes_max = \"128KiB\"\nregion = \"eu-central-1\"";
    let Kind::Sqs(config) = kind(keys) else {
        panic!("another kind");
    };
    let batching = &config.batching;
    assert_eq!(batching.order, Order::Relaxed);
    assert_eq!((batching.in_flight, batching.batch_records), (2, 20));
    assert_eq!(batching.linger.as_secs(), 1);
    assert_eq!(batching.request_bytes, 256 << 10);
    assert_eq!(batching.record_bytes_max, 128 << 10);
    assert_eq!(config.account.region.as_deref(), Some("eu-central-1"));
    let keys = "type = \"eventbridge\"\nbus = \"plant\"\nsource = \"plant.7\"";
    let Kind::EventBridge(config) = kind(keys) else {
        panic!("another kind");
    };
    assert_eq!((&*config.bus, &*config.source), ("plant", "plant.7"));
}

#[test]
fn an_identity_that_is_forgotten_before_a_message_goes_again_is_warned_of() {
    let warned = |keys: &str| {
        let text = format!("[[destination]]\nname = \"s\"\ntype = \"sqs\"\n{keys}");
        warnings(&read(&text).unwrap().destinations[0]).len()
    };
    assert_eq!(warned("queue = \"plant.fifo\""), 0);
    assert_eq!(warned("queue = \"plant.fifo\"\nretry_max = \"5m\""), 1);
    assert_eq!(warned("queue = \"plant\"\nretry_max = \"5m\""), 0);
}

#[test]
fn a_session_token_that_goes_to_another_machine_in_the_clear_is_warned_of() {
    let warned = |endpoint: &str, token: &str| {
        let keys = "access_key_id = \"A\"\nsecret_access_key = \"s\"";
        let text = format!(
            "[[destination]]\nname = \"s\"\ntype = \"sqs\"\nqueue = \"plant\"\n\
             endpoint = \"{endpoint}\"\n{keys}\n{token}"
        );
        warnings(&read(&text).unwrap().destinations[0]).len()
    };
    let token = "session_token = \"t\"";
    assert_eq!(warned("http://sqs.example:9324", token), 1);
    assert_eq!(warned("http://sqs.example:9324", ""), 0);
    assert_eq!(warned("http://127.0.0.1:9324", token), 0);
    assert_eq!(warned("https://sqs.example:9324", token), 0);
}

#[test]
fn mistakes_say_what_would_be_right() {
    let text = r#"
[[destination]]
name = "a"
type = "sqs"
queue = "https://sqs.example/1/no queue"
message_bytes_max = "2MiB"
[[destination]]
name = "b"
type = "sqs"
queue = "telemetry"
order = "strict"
request_bytes = "128KiB"
[[destination]]
name = "c"
type = "sns"
topic = "telemetry"
[[destination]]
name = "d"
type = "eventbridge"
bus = "a bus"
source = "aws.ours"
order = "strict"
[[destination]]
name = "e"
type = "sqs"
order = "strict"
[[destination]]
name = "f"
type = "eventbridge"
bus = "arn:aws:events:eu-central-1:1:event-bus/a bus"
"#;
    let mistakes = read(text).expect_err("it has mistakes").to_string();
    assert_snapshot!(mistakes, @r#"
    configuration:5: destination[1].queue: "https://sqs.example/1/no queue": a queue is its URL, such as "https://sqs.eu-central-1.amazonaws.com/123456789012/telemetry", or its name, 1 to 80 letters, digits, "-" and "_", with ".fifo" at the end of a FIFO queue's
    configuration:6: destination[1].message_bytes_max: 2MiB is not between 1KiB and 1MiB
    configuration:11: destination[2].order: only what has a name with ".fifo" at its end keeps an order
    configuration:12: destination[2].request_bytes: message_bytes_max should be at most request_bytes
    configuration:16: destination[3].topic: "telemetry": a topic is its ARN, such as "arn:aws:sns:eu-central-1:123456789012:telemetry"
    configuration:20: destination[4].bus: "a bus": a bus is its name, 1 to 256 letters, digits, "-", "_", "." and "/", or its ARN, such as "arn:aws:events:eu-central-1:123456789012:event-bus/telemetry"
    configuration:21: destination[4].source: "aws.ours": a source has 1 to 256 characters and does not begin with "aws."
    configuration:22: destination[4].order: is not a key; known here are access_key_id, attempts_max, batch_records, budget, budget_period, bus, check_bus, connect_timeout, endpoint, event_bytes_max, in_flight, latency_max, linger, live, live_after, name, profile, rate_bytes, rate_records, region, request_bytes, retry_first, retry_max, secret_access_key, session_token, source, start, time_zone, timeout, type, urgent, window
    configuration:23: destination[5].queue: is missing; for example queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/telemetry"
    configuration:30: destination[6].bus: "arn:aws:events:eu-central-1:1:event-bus/a bus": a bus is its name, 1 to 256 letters, digits, "-", "_", "." and "/", or its ARN, such as "arn:aws:events:eu-central-1:123456789012:event-bus/telemetry"
    "#);
}
