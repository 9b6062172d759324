//! Priorities: what is given up by class while room is short is told upstream, whatever is
//! killed meanwhile; and what is urgent passes while a link is shut.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use penstock_tests::{
    ChaosProxy, Gateway, HttpReceiver, Mode, Sandbox, Setup,
    mqtt::{Client, Version},
    status::Status,
    wait,
};
use serde_json::Value;

/// Rules that say a class by the last level of the topic, and what is given up.
const CLASSES: &str = r#"
[store]
size_max = "8MiB"
reserve = "1MiB"
[[store.shed]]
class = "low"
above = "60%"
keep = "1 of 10"
[[store.shed]]
class = "normal"
above = "70%"
keep = "none"
[[mapping]]
topic = "devices/{device}/#"
id = ["/n"]
values = [{ name = "n" }, { name = "fill" }]
[[rule]]
name = "chatter"
pattern = '{"mqtttopic": [{"suffix": "/low"}]}'
class = "low"
[[rule]]
name = "trouble"
pattern = '{"mqtttopic": [{"suffix": "/critical"}]}'
class = "critical"
"#;

/// What a receiver got, by line; the same event twice is one.
struct Got {
    /// Published events: device and number.
    events: BTreeSet<(String, u64)>,
    /// Events that tell of a gap: their count, by identity.
    gaps: Vec<(String, u64)>,
    /// Lines that had been there before.
    again: usize,
}

fn got(dir: &Path) -> Got {
    let text = fs::read_to_string(dir.join("events.ndjson")).unwrap_or_default();
    let mut got = Got {
        events: BTreeSet::new(),
        gaps: Vec::new(),
        again: 0,
    };
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("a line is an event");
        let of = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        if !seen.insert((of("source"), of("id"))) {
            got.again += 1;
            continue;
        }
        let value = |name: &str| {
            let all = event["data"]["m"].as_array();
            let found = all.and_then(|all| all.iter().find(|one| one["n"] == *name));
            found.map_or(Value::Null, |one| one["v"].clone())
        };
        match &*of("type") {
            "penstock.gap.v1" => {
                let count = value("count").as_u64().expect("a count");
                got.gaps
                    .push((format!("{} {}", of("device"), value("class")), count));
            }
            _ => {
                let n = value("n").as_u64().expect("a number");
                got.events.insert((of("device"), n));
            }
        }
    }
    got
}

/// Publishes to all three classes until one of the gateway's counts has come to that, or the
/// gateway is gone; every publish is acknowledged before the next, or comes again.
struct Fleet {
    port: u16,
    published: u64,
}

impl Fleet {
    /// Publishes `count` events of each class; those whose acknowledgement was lost come again.
    fn publish(&mut self, gateway: &mut Gateway, count: u64, kill_every: u64) {
        let mut clients = Vec::new();
        for _ in 0..count {
            for class in ["low", "normal", "critical"] {
                self.published += 1;
                let n = self.published;
                let payload = format!("{{\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(600));
                let topic = format!("devices/{class}/{class}");
                let id = u16::try_from(n % 60_000 + 1).expect("it fits");
                let mut kills = kill_every > 0 && n.is_multiple_of(kill_every);
                loop {
                    if clients.is_empty() {
                        clients.push(connected(self.port));
                    }
                    let client: &mut Client = &mut clients[0];
                    let sent = client.publish(&topic, payload.as_bytes(), 1, id);
                    if sent.is_ok() && std::mem::take(&mut kills) {
                        // Some are killed before the acknowledgement is here, some after.
                        gateway.kill();
                        gateway.start_again();
                    }
                    match client.ack(Duration::from_secs(20)) {
                        Ok(Some(ack)) if ack.reason < 0x80 => break,
                        Ok(Some(ack)) => panic!("turned away: {ack:?}"),
                        Ok(None) => panic!("no acknowledgement"),
                        Err(_) => clients.clear(),
                    }
                }
            }
        }
    }
}

/// What was given up of the devices `low`, `normal` and `critical`, by the ledger by device,
/// which has all there is.
fn shed_by_device(gateway: &Gateway) -> [u64; 3] {
    let text = gateway.ask(&["ledger", "--json"]);
    let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
    for rest in ["others", "unknown"] {
        assert_eq!(answer[rest]["shed"], 0, "{answer}");
    }
    let items = answer["items"].as_array().expect("devices");
    ["low", "normal", "critical"].map(|device| {
        let found = items.iter().find(|item| item["device"] == *device);
        found.map_or(0, |item| item["shed"].as_u64().expect("a count"))
    })
}

fn connected(port: u16) -> Client {
    wait::until(Duration::from_secs(20), "a connection", || {
        Client::try_connect(port, Version::V5, "fleet").ok()
    })
}

#[test]
fn what_is_given_up_is_told_upstream_once_whatever_is_killed() {
    let sandbox = Sandbox::new();
    let receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    let setup = Setup::new(&sandbox)
        .with(CLASSES)
        .with("[read]\nenabled = true")
        .to_http("lake", &format!("http://127.0.0.1:{}/", wire.port));
    let mut gateway = Gateway::start(&setup).expecting(&["lake", "room is short"]);
    wire.set(Mode::Reset);
    let mut fleet = Fleet {
        port: setup.mqtt,
        published: 0,
    };
    while !gateway.status().store.shedding {
        fleet.publish(&mut gateway, 100, 0);
        assert!(fleet.published < 30_000, "8 MiB hold no so many");
    }
    fleet.publish(&mut gateway, 600, 149);
    let short = gateway.status();
    short.assert_balanced();
    assert!(short.ledger.shed > 500, "{short:#?}");
    // By device it is the same before it is told,
    let [low, normal, critical] = shed_by_device(&gateway);
    assert_eq!((low + normal, critical), (short.ledger.shed, 0));

    wire.set(Mode::Pass);
    // While it drains, and while it is told.
    for _ in 0..5 {
        wait::pass(Duration::from_millis(700));
        gateway.kill();
        gateway.start_again();
    }
    gateway.wait_for(Duration::from_secs(60), "all of it to be told", |now| {
        now.store.gaps == 0 && !now.store.shedding && now.drained()
    });
    let done = gateway.status();
    done.assert_balanced();
    // and afterwards, whatever was killed.
    assert_eq!(shed_by_device(&gateway), [low, normal, critical]);
    gateway.finish();
    let got = got(receiver.dir());
    let told: u64 = got.gaps.iter().map(|(_, count)| count).sum();
    assert_eq!(told, done.ledger.shed, "told {:?}", got.gaps);
    assert_eq!(got.events.len() as u64 + told, fleet.published);
    let told_of = |of: &str| -> u64 {
        let all = got.gaps.iter().filter(|(device, _)| device.starts_with(of));
        all.map(|(_, count)| count).sum()
    };
    assert_eq!((told_of("low "), told_of("normal ")), (low, normal));
    let critical = got.events.iter().filter(|(device, _)| device == "critical");
    assert_eq!(critical.count() as u64, fleet.published / 3);
    assert!(!got.gaps.iter().any(|(of, _)| of.contains("critical")));
}

#[test]
fn what_is_urgent_passes_while_no_window_is_open_and_the_budget_is_used_up() {
    let sandbox = Sandbox::new();
    let receiver = HttpReceiver::start(&sandbox);
    // The window was open a moment ago on the last of February, and the budget is small.
    for (name, metered) in [
        ("budget", "budget = \"1kB\"\n"),
        (
            "window",
            "[[destination.window]]\nopens = \"0 0 29 2 *\"\nlength = \"1m\"\n",
        ),
    ] {
        let setup = Setup::new(&sandbox)
            .data_dir(&sandbox.path(name))
            .with(&format!(
                "{}[[destination]]\nname = \"lake\"\ntype = \"http\"\n\
             url = \"http://127.0.0.1:{}/{name}\"\nurgent = [\"critical\"]\n{metered}",
                &CLASSES[CLASSES.find("[[mapping]]").expect("rules")..],
                receiver.port
            ));
        let mut gateway = Gateway::start(&setup);
        let mut fleet = Fleet {
            port: setup.mqtt,
            published: 0,
        };
        fleet.publish(&mut gateway, 20, 0);
        let passed = |now: &Status| {
            let lane = now.destination("lake.urgent");
            lane.routed == 20 && lane.delivered == 20
        };
        gateway.wait_for(Duration::from_secs(20), "what is urgent to pass", passed);
        let status = gateway.status();
        let rest = status.destination("lake");
        assert_eq!(rest.routed, 40);
        assert!(rest.backlog >= 30, "the rest waits: {rest:?}");
        assert_eq!(rest.state, "waiting");
        status.assert_balanced();
        gateway.finish();
    }
}
