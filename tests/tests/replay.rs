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
