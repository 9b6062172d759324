//! Keys and mistakes of destinations at Kafka.

use insta::assert_snapshot;

use super::*;
use crate::config::{Config as Whole, Mistakes};

fn read(text: &str) -> Result<Whole, Mistakes> {
    let env = |name: &str| (name == "WORD").then(|| "sesame-open".to_owned());
    Whole::from_text(text, Path::new("/etc/penstock"), &env)
}

fn kafka(keys: &str) -> Config {
    let text = format!("[[destination]]\nname = \"s\"\ntype = \"kafka\"\n{keys}");
    let config = read(&text).unwrap();
    let Kind::Kafka(config) = &config.destinations[0].kind else {
        panic!("another kind");
    };
    config.clone()
}

#[test]
fn brokers_and_a_topic_are_enough() {
    let config = kafka("brokers = [\"h:9092\", \"[::1]:9092\"]\ntopic = \"telemetry\"");
    let brokers = vec!["h:9092".to_owned(), "[::1]:9092".to_owned()];
    assert_eq!(config, Config::new(brokers, "telemetry"));
}

#[test]
fn every_key_that_differs_from_the_default_is_taken() {
    let config = kafka(
        r#"
brokers = ["h:9093"]
topic = "telemetry"
tls = true
ca = "ca.pem"
certificate = "/c.pem"
key = "k.pem"
sasl = "scram-sha-256"
user = "u"
password = "${WORD}"
client_id = "plant-7"
compression = "gzip"
transactional = true
batch_records = 100
batch_bytes = "8KiB"
linger = "1s"
timeout = "3s"
connect_timeout = "2s"
"#,
    );
    let expect = Config {
        brokers: vec!["h:9093".to_owned()],
        topic: "telemetry".to_owned(),
        tls: Some(Tls {
            ca: Some("/etc/penstock/ca.pem".into()),
            identity: Some(("/c.pem".into(), "/etc/penstock/k.pem".into())),
        }),
        login: Some(Login {
            mechanism: Mechanism::ScramSha256,
            user: "u".to_owned(),
            password: "sesame-open".into(),
        }),
        client_id: "plant-7".to_owned(),
        compression: Compression::Gzip,
        batch_records: 100,
        batch_bytes: 8 << 10,
        linger: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(2),
        transactions: config.transactions.clone(),
    };
    assert_eq!(config, expect);
    let transactions = config.transactions.clone().unwrap();
    assert!(transactions.notes.ends_with("kafka/s"), "{transactions:?}");
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn mistakes_say_what_would_be_right() {
    let text = r#"
[[destination]]
name = "a"
type = "kafka"
brokers = ["kafka://h:9092", "h", "h:0"]
topic = "a/b"
ca = "ca.pem"
key = "k.pem"
sasl = "gssapi"
user = "u"
compression = "zstd"
timeout = "1s"
connect_timeout = "2s"
[[destination]]
name = "b"
type = "kafka"
brokers = []
password = "${WORD}"
"#;
    let mistakes = read(text).expect_err("it has mistakes").to_string();
    assert_snapshot!(mistakes, @r#"
    configuration:5: destination[1].brokers: "kafka://h:9092": a broker is a host and a port, such as "kafka.example:9092"
    configuration:5: destination[1].brokers: "h": a broker is a host and a port, such as "kafka.example:9092"
    configuration:5: destination[1].brokers: "h:0": a broker is a host and a port, such as "kafka.example:9092"
    configuration:6: destination[1].topic: "a/b": a topic has 1 to 249 letters, digits, ".", "_" and "-"
    configuration:7: destination[1].ca: is for TLS; set tls = true
    configuration:8: destination[1].key: certificate and key go together; certificate is missing
    configuration:8: destination[1].key: is for TLS; set tls = true
    configuration:9: destination[1].sasl: "gssapi": should be one of plain, scram-sha-256, scram-sha-512
    configuration:9: destination[1].sasl: sasl, user and password go together; not all of them are there
    configuration:11: destination[1].compression: "zstd": should be one of none, gzip, lz4, snappy
    configuration:12: destination[1].timeout: connect_timeout should be at most timeout
    configuration:14: destination[2].topic: is missing; for example topic = "telemetry"
    configuration:17: destination[2].brokers: is missing or empty; for example brokers = ["kafka.example:9092"]
    configuration:18: destination[2].password: sasl, user and password go together; not all of them are there
    "#);
}
