//! Nothing is dropped in silence: what cannot be decoded or delivered is kept, listed, and
//! goes on its way once the cause is mended.

use std::time::Duration;

use penstock_tests::{
    Gateway, NatsServer, Sandbox, Setup,
    http_stub::HttpStub,
    mqtt::{Client, Version},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn publish(setup: &Setup, messages: &[(&str, &[u8])]) {
    let mut client = Client::connect(setup.mqtt, Version::V5, "publisher");
    for (id, (topic, payload)) in (1..).zip(messages) {
        client.publish(topic, payload, 1, id).expect("it is sent");
        let ack = client
            .ack(SOON)
            .expect("the connection stays")
            .expect("an answer");
        assert!(
            ack.reason < 0x80,
            "{topic} was refused with {:#x}",
            ack.reason
        );
    }
}

/// What a command lists, one JSON object a line.
#[track_caller]
fn listed(gateway: &Gateway, list: &str) -> Vec<Value> {
    let text = gateway.ask(&[list, "list", "--json"]);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

#[test]
fn an_undecodable_message_is_kept_and_becomes_an_event_when_the_mapping_is_mended() {
    let sandbox = Sandbox::new();
    let mapping = |format: &str| {
        format!("[[mapping]]\ntopic = \"devices/{{device}}/{{type...}}\"\nformat = \"{format}\"")
    };
    let plain = Setup::new(&sandbox).to_file("events");
    let (wrong, right) = (
        plain.clone().with(&mapping("cbor")),
        plain.with(&mapping("json")),
    );
    let mut gateway = Gateway::start(&wrong);
    let garbage: &[u8] = b"{\"value\": \xff";
    publish(
        &wrong,
        &[
            ("devices/one/telemetry", b"{\"value\": 1}"),
            ("devices/two/telemetry", b"{\"value\": 2}"),
            ("devices/bad/telemetry", garbage),
        ],
    );
    let before = gateway.status();
    before.assert_balanced();
    assert_eq!(
        (before.ledger.quarantined, before.store.in_quarantine),
        (3, 3)
    );
    let list = listed(&gateway, "quarantine");
    let topics: Vec<_> = list
        .iter()
        .filter_map(|one| one["topic"].as_str())
        .collect();
    assert_eq!(
        topics,
        [
            "devices/one/telemetry",
            "devices/two/telemetry",
            "devices/bad/telemetry"
        ]
    );
    assert!(
        list.iter()
            .all(|one| one["reason"].as_str().is_some_and(|why| !why.is_empty()))
    );

    gateway.stop();
    gateway.start_with(&right);
    let retried = gateway.command(&["quarantine", "retry", "--all"]);
    assert!(
        !retried.status.success(),
        "one of them stays, which the exit code says"
    );
    let after = gateway.wait_until_drained(SOON);
    assert_eq!(
        (
            after.store.in_quarantine,
            after.destination("events").delivered
        ),
        (1, 2)
    );

    // The raw bytes of what stays can still be had.
    let left = listed(&gateway, "quarantine");
    let id = left[0]["id"].as_u64().expect("a number").to_string();
    let whole: Value = serde_json::from_str(&gateway.ask(&["quarantine", "show", &id]))
        .expect("a message is shown as JSON");
    assert_eq!(whole["payload_base64"], "eyJ2YWx1ZSI6IP8=");
    let exported = sandbox.path("exported.ndjson").display().to_string();
    gateway.ask(&["quarantine", "export", "--output", &exported]);
    let exported = std::fs::read_to_string(exported).expect("the file is there");
    assert_eq!(exported.lines().count(), 1);
    gateway.ask(&["quarantine", "discard", &id]);
    assert!(listed(&gateway, "quarantine").is_empty());
    gateway.status().assert_balanced();
    gateway.finish();
}

#[test]
fn an_undeliverable_event_is_kept_and_delivered_when_redriven() {
    let sandbox = Sandbox::new();
    let lake = HttpStub::answering(422);
    let setup = Setup::new(&sandbox)
        .with("[read]\nenabled = true")
        .to_http("lake", &lake.url())
        .to_file("events");
    let gateway = Gateway::start(&setup).expecting(&["lake", "dead"]);
    publish(
        &setup,
        &[
            ("devices/one/telemetry", b"{\"value\": 1}"),
            ("devices/two/telemetry", b"2.5"),
        ],
    );
    let dead = gateway.wait_for(SOON, "two dead letters", |now| {
        now.destination("lake").dead == 2
    });
    dead.assert_balanced();
    assert_eq!(dead.destination("lake").backlog, 0);
    let list = listed(&gateway, "dead-letter");
    assert_eq!(list.len(), 2);
    for one in &list {
        assert_eq!(one["destination"], "lake");
        assert!(
            one["reason"]
                .as_str()
                .is_some_and(|why| why.contains("422")),
            "{one}"
        );
    }
    let id = list[0]["id"].as_u64().expect("a number").to_string();
    let whole: Value = serde_json::from_str(&gateway.ask(&["dead-letter", "show", &id]))
        .expect("a dead letter is shown as JSON");
    assert_eq!(whole["event"]["device"], "one");

    lake.set(204);
    gateway.ask(&["dead-letter", "redrive", &id]);
    let after = gateway.wait_for(SOON, "the event to be delivered", |now| {
        now.destination("lake").delivered == 1
    });
    after.assert_balanced();
    assert_eq!(after.destination("lake").dead, 1);
    gateway.ask(&["dead-letter", "discard", "--all", "--destination", "lake"]);
    assert!(listed(&gateway, "dead-letter").is_empty());
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(
        end.destination("lake").dead,
        1,
        "a discarded dead letter stays counted"
    );
    assert_eq!(
        end.destination("events").delivered,
        2,
        "the other destination got both"
    );
    gateway.finish();
}

#[test]
fn a_destination_that_refuses_its_configuration_stops_alone_and_keeps_its_backlog() {
    let sandbox = Sandbox::new();
    let lake = HttpStub::answering(401);
    let setup = Setup::new(&sandbox)
        .to_http("lake", &lake.url())
        .to_file("events");
    let mut gateway = Gateway::start(&setup).expecting(&["lake"]);
    publish(&setup, &[("devices/one/telemetry", b"{\"value\": 1}")]);
    let stopped = gateway.wait_for(SOON, "the destination to stop", |now| {
        now.destination("lake").state == "stopped" && now.destination("events").delivered == 1
    });
    stopped.assert_balanced();
    assert_eq!(stopped.destination("lake").backlog, 1);
    let error = stopped
        .destination("lake")
        .error
        .clone()
        .unwrap_or_default();
    assert!(
        error.contains("401"),
        "why it stopped is not said: {error:?}"
    );

    lake.set(200);
    gateway.stop();
    gateway.start_again();
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.destination("lake").delivered, 1);
    gateway.finish();
}

#[test]
fn duplicates_are_counted_and_delivered_once() {
    let sandbox = Sandbox::new();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox).to_nats("stream", nats.port, "TELEMETRY");
    let mut gateway = Gateway::start(&setup);
    let reading: (&str, &[u8]) = (
        "devices/one/telemetry",
        b"{\"seq\": 7, \"boot\": \"a\", \"value\": 1}",
    );
    publish(&setup, &[reading, reading]);
    // The window survives a restart.
    gateway.stop();
    gateway.start_again();
    publish(&setup, &[reading]);
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(
        (end.ledger.accepted, end.ledger.stored, end.ledger.duplicate),
        (3, 1, 2)
    );
    assert_eq!(nats.messages("TELEMETRY"), Some(1));
    gateway.finish();
}

#[test]
fn the_commands_and_the_api_tell_the_same_account() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let mut gateway = Gateway::start(&setup);
    publish(&setup, &[("devices/one/telemetry", b"{\"value\": 1}")]);
    let api = gateway.wait_until_drained(SOON);
    let told: Value =
        serde_json::from_str(&gateway.ask(&["status", "--json"])).expect("the status is JSON");
    assert_eq!(
        told["ledger"]["accepted"].as_u64(),
        Some(api.ledger.accepted)
    );
    let text = gateway.ask(&["status"]);
    assert!(
        text.contains("accepted 1") && text.contains("events"),
        "{text}"
    );

    gateway.stop();
    let stats = gateway.ask(&["buffer", "stats"]);
    assert!(stats.contains("events"), "{stats}");
    gateway.ask(&["buffer", "verify"]);
    let without = gateway.command(&["status"]);
    assert!(!without.status.success(), "there is no gateway to ask");
}
