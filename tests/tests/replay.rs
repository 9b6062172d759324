//! Events made again by the real gateway, while it is killed.

use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup,
    mqtt::{Client, Version},
    programs, wait,
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const MESSAGES: u16 = 600;
const AT: &str = "2026-03-01T12:00:00Z";

/// Every line that the file destination wrote.
fn lines(setup: &Setup) -> Vec<Value> {
    let files = fs::read_dir(setup.data().join("lake")).expect("the directory");
    let paths = files.map(|file| file.expect("a file").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == "ndjson"));
    let texts: Vec<String> = paths
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_replay_that_is_killed_and_resumed_corrects_each_event_once_and_loses_none() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("lake");
    let with = |values: &str| {
        let mapping =
            format!("[ingest]\nraw = \"always\"\n[[mapping]]\ntopic = \"d/{{device}}\"\n{values}");
        setup.clone().with(&mapping)
    };
    let mut gateway = Gateway::start(&with(""));
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for id in 1..=MESSAGES {
        let payload = format!("{{\"seq\":{id},\"boot\":\"x\",\"t\":{id}}}");
        client
            .publish("d/b7", payload.as_bytes(), 1, id)
            .expect("it reads");
        client.ack(LONG).expect("it answers").expect("an answer");
    }
    gateway.wait_until_drained(LONG);
    gateway.stop();

    let today = with("values = [{ name = \"t\", unit = \"K\", offset = 273.0 }]");
    gateway.start_with(&today);
    let dry = gateway.ask(&["replay", "--renormalise", "--dry-run", "--device", "b7"]);
    assert!(dry.contains("t: 1 -> 274"), "{dry}");
    assert!(dry.contains("600 changed"), "{dry}");
    let replay = ["replay", "--renormalise", "--resume", AT];
    let mut child = Command::new(programs::penstock())
        .args(replay)
        .arg("--config")
        .arg(sandbox.path("penstock.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let before = gateway.status().ledger.stored;
    wait::until(LONG, "the replay to begin", || {
        (gateway.status().ledger.stored > before).then_some(())
    });
    gateway.kill();
    let cut = child.wait().expect("it ends");
    gateway.start_again();
    let after = gateway.ask(&replay);
    println!("cut: {cut:?}; then: {after}");
    gateway.wait_until_drained(LONG);

    let mut seen: HashMap<String, [usize; 2]> = HashMap::new();
    for line in lines(&setup) {
        let key = line["eventkey"].as_str().expect("a key").to_owned();
        let corrected = line["correctedtime"] == AT;
        assert_eq!(line["data"]["m"][0]["u"] == "K", corrected);
        seen.entry(key).or_default()[usize::from(corrected)] += 1;
    }
    assert_eq!(seen.len(), usize::from(MESSAGES));
    assert!(seen.values().all(|counts| *counts == [1, 1]), "{seen:?}");
    // Without the gateway the command opens the journal itself.
    gateway.stop();
    let offline = gateway.ask(&replay);
    assert!(
        offline.contains("0 stored to be sent, 600 there already"),
        "{offline}"
    );
    gateway.start_again();
    gateway.finish();
}

#[test]
fn events_that_are_sent_again_while_the_gateway_is_killed_are_sent_again_once_and_in_order() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox)
        .to_file("lake")
        .with("[store]\nkeep_delivered = \"1h\"\n[[mapping]]\ntopic = \"d/{device}\"");
    let mut gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for id in 1..=MESSAGES {
        let topic = if id % 2 == 0 { "d/b7" } else { "d/b8" };
        let payload = format!("{{\"seq\":{id},\"boot\":\"x\",\"t\":{id}}}");
        client
            .publish(topic, payload.as_bytes(), 1, id)
            .expect("it reads");
        client.ack(LONG).expect("it answers").expect("an answer");
    }
    gateway.wait_until_drained(LONG);

    let pattern = r#"{"values":{"t":[{"numeric":[">",100]}]}}"#;
    let of = ["--device", "b7", "--rule", pattern];
    let dry = gateway.ask(&[&["replay", "--events", "--dry-run"], &of[..]].concat());
    assert!(dry.contains("250 events would be sent again"), "{dry}");
    let to = ["--to-destination", "lake", "--rate", "50", "--json"];
    let child = Command::new(programs::penstock())
        .args(["replay", "--events"])
        .args(of)
        .args(to)
        .arg("--config")
        .arg(sandbox.path("penstock.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let before = gateway.status().ledger.stored;
    wait::until(LONG, "the replay to begin", || {
        (gateway.status().ledger.stored > before).then_some(())
    });
    gateway.kill();
    let cut = child.wait_with_output().expect("it ends");
    assert!(!cut.status.success(), "it ended too early to be cut");
    let first = String::from_utf8_lossy(&cut.stdout);
    let begun: Value = serde_json::from_str(first.lines().next().expect("a line")).expect("JSON");
    let at = begun["at"].as_str().expect("when it began");
    gateway.start_again();
    let done = gateway.ask(&["replay", "--events", "--resume", at]);
    assert!(done.contains("250 events sent again to lake"), "{done}");
    gateway.wait_until_drained(LONG);

    let mut again = Vec::new();
    let mut keys: HashMap<String, usize> = HashMap::new();
    for line in lines(&setup) {
        let key = line["eventkey"].as_str().expect("a key").to_owned();
        *keys.entry(key).or_default() += 1;
        if line["replayedtime"] == at {
            let position: u64 = line["position"]
                .as_str()
                .and_then(|n| n.parse().ok())
                .expect("it");
            again.push((
                position,
                line["data"]["m"][0]["v"].as_u64().expect("a number"),
            ));
        }
    }
    again.sort_unstable();
    let values: Vec<u64> = again.into_iter().map(|(_, value)| value).collect();
    let expected: Vec<u64> = (102..=600).step_by(2).collect();
    assert_eq!(values, expected);
    assert_eq!(keys.len(), usize::from(MESSAGES));
    // What was sent again is what it was, under the key that it had.
    assert_eq!(keys.values().filter(|count| **count == 2).count(), 250);
    let all = gateway.ask(&["rules", "backtest", "--pattern", r#"{"device":["b7"]}"#]);
    assert!(all.contains("600 events of the journal"), "{all}");
    gateway.finish();
}
