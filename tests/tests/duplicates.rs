//! What devices send twice, as the running gateway reports it.

use std::time::Duration;

use penstock_tests::{Gateway, Sandbox, Setup, http, mqtt::Client, mqtt::Version, wait};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

const MAPPINGS: &str = r#"
[[mapping]]
topic = "named/{device}"
id = ["/id"]

[[mapping]]
topic = "plain/{device}"

[[mapping]]
topic = "equal/{device}"
dedup = "content"

[[mapping]]
topic = "random/{device}"
dedup = "none"
"#;

const SENT: [(&str, &str); 11] = [
    ("named/a", r#"{"id":"1","v":1}"#),
    ("named/a", r#"{"id":"1","v":1}"#),
    ("named/a", r#"{"id":"1","v":1}"#),
    ("named/a", r#"{"id":"2","v":1}"#),
    ("named/b", r#"{"id":"1","v":1}"#),
    ("plain/a", r#"{"v":1}"#),
    ("plain/a", r#"{"v":1}"#),
    ("equal/c", r#"{"v":1}"#),
    ("equal/c", r#"{"v":1}"#),
    ("random/d", r#"{"v":1}"#),
    ("random/d", r#"{"v":1}"#),
];

/// A row of the report without its name.
fn counts(row: &Value) -> Value {
    json!([row["events"], row["duplicates"], row["by_source"]])
}

fn part(source: &str, events: u64, duplicates: u64) -> Value {
    json!({"source": source, "events": events, "duplicates": duplicates})
}

#[test]
fn duplicates_are_reported_with_their_keys_sources_and_mappings_that_cannot_tell() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events").with(MAPPINGS);
    let gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V4, "line-3");
    for (topic, payload) in SENT {
        let sent = client.publish(topic, payload.as_bytes(), 1, 1);
        sent.expect("the gateway takes it");
        let ack = client.ack(LONG).expect("the connection lives");
        assert_eq!(ack.expect("an acknowledgement").id, 1);
    }
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.ledger.duplicate, 3, "{status:#?}");

    let get = |path: &str| -> Value {
        let reply = http::get(setup.http, path).expect("the gateway answers");
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str(&reply.body).expect("a report")
    };
    // What a message became is counted when it is in the journal, beside its acknowledgement.
    let report = wait::until(LONG, "every message in the report", || {
        let report = get("/api/v1/dedup");
        let mappings = report["mappings"].as_array()?.iter();
        let events: u64 = mappings.filter_map(|m| m["events"].as_u64()).sum();
        (events == SENT.len() as u64).then_some(report)
    });
    let devices = report["devices"].as_array().expect("devices");
    let row = |name: &str| counts(devices.iter().find(|d| d["device"] == name).expect(name));
    assert_eq!(
        row("a"),
        json!([6, 2, [part("field", 4, 2), part("none", 2, 0)]])
    );
    // The same id of another device is another event.
    assert_eq!(row("b"), json!([1, 0, [part("field", 1, 0)]]));
    assert_eq!(row("c"), json!([2, 1, [part("content", 2, 1)]]));
    assert_eq!(row("d"), json!([2, 0, [part("none", 2, 0)]]));
    assert_eq!(devices[0]["device"], "a", "the most duplicates come first");
    assert_eq!(report["others"]["events"], 0);

    let mappings = report["mappings"].as_array().expect("mappings");
    let said: Vec<_> = mappings
        .iter()
        .map(|m| (m["topic"].as_str(), m["warnings"].as_array().map(Vec::len)))
        .collect();
    assert_eq!(
        said,
        [
            (Some("named/{device}"), Some(0)),
            (Some("plain/{device}"), Some(1)),
            (Some("equal/{device}"), Some(1)),
            // The operator said so.
            (Some("random/{device}"), Some(0)),
        ]
    );
    let warning = |index: usize| mappings[index]["warnings"][0].as_str().expect("a warning");
    assert!(
        warning(1).starts_with("2 of 2 events have nothing that tells a resend from another"),
        "{}",
        warning(1)
    );
    assert!(
        warning(2).starts_with("1 of 2 events were dropped because dedup = \"content\""),
        "{}",
        warning(2)
    );

    let asked = gateway.ask(&["dedup", "report", "--json"]);
    let asked: Value = serde_json::from_str(&asked).expect("JSON");
    assert_eq!(asked, report);
    let few = get("/api/v1/dedup?limit=1");
    assert_eq!(few["devices"].as_array().map(Vec::len), Some(1));
    assert_eq!(counts(&few["others"])[0], 5, "{few}");

    let lines = gateway.ask(&["dedup", "report"]);
    for expect in [
        "a  2 duplicates of 6 events: field 2 of 4, none 0 of 2\n",
        "mapping 2 (plain/{device})  0 duplicates of 2 events: none 0 of 2\n  warning: 2 of 2 events",
        "mapping 3 (equal/{device})  1 duplicates of 2 events: content 1 of 2\n  warning: 1 of 2",
    ] {
        assert!(lines.contains(expect), "{expect}\n{lines}");
    }
    gateway.finish();
}
