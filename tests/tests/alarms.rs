//! Alarms and messages of rules with the real gateway: what is raised while it is killed,
//! what local subscribers hear, and what an operator does about it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use penstock_tests::{
    Gateway, Sandbox, Setup, http,
    mqtt::{Client, Version, subscribe},
    seed, wait,
};
use rand::RngExt as _;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

const HOT: &str = r#"
[[rule]]
name = "hot"
pattern = '{"values": {"v": [{"numeric": [">", 80]}]}}'
topic = "alerts/{device}"
[rule.transform]
paths = { v = "$.values.v", who = "$.device" }
template = '{"v": <v>, "who": "<who>"}'
[rule.alarm]
severity = "critical"
text = "at <v>"
paths = { v = "$.values.v" }
clear = '{"values": {"v": [{"numeric": ["<", 70]}]}}'
"#;

/// What the file destination has, in order.
fn events(dir: &Path) -> Vec<Value> {
    let Ok(files) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let text = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap_or_default());
    let text: String = text.collect();
    let lines = text.lines();
    // The last line may be half written.
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The states of each device's alarm, one after the other.
fn states(events: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events {
        let kind = event["type"].as_str().expect("a type");
        if let Some(state) = kind.strip_prefix("penstock.alarm.") {
            let device = event["device"].as_str().expect("a device");
            let of = states.entry(device.to_owned()).or_default();
            of.push(state.to_owned());
        }
    }
    states
}

fn rules(gateway: &Gateway) -> Value {
    let reply = http::get(gateway.setup().http, "/api/v1/status").expect("it answers");
    let mut status: Value = serde_json::from_str(&reply.body).expect("a status");
    status["rules"].take()
}

#[test]
fn an_alarm_is_raised_once_and_cleared_once_however_often_the_gateway_is_killed() {
    const DEVICES: usize = 6;
    const ROUNDS: usize = 20;

    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events").with(HOT);
    let mut gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    let mut kills = 0;
    for n in 0..DEVICES * ROUNDS {
        let value = if (n / DEVICES).is_multiple_of(2) {
            90
        } else {
            60
        };
        let (topic, payload) = (
            format!("devices/d{}/t", n % DEVICES),
            format!("{{\"id\":\"m{n}\",\"v\":{value}}}"),
        );
        let id = u16::try_from(n + 1).expect("few");
        let kill = rng.random_range(0..10) == 0;
        let early = rng.random_range(0..2) == 0;
        client
            .publish(&topic, payload.as_bytes(), 1, id)
            .expect("the gateway reads");
        let mut acknowledged = !(kill && early);
        if acknowledged {
            client
                .ack(LONG)
                .expect("the gateway answers")
                .expect("in time");
        }
        if kill {
            // Before the acknowledgement, or while the rule acts on it.
            wait::pass(Duration::from_micros(rng.random_range(0..3_000)));
            gateway.kill();
            gateway.start_again();
            kills += 1;
            client = Client::connect(setup.mqtt, Version::V5, "c");
        }
        while !acknowledged {
            client
                .publish(&topic, payload.as_bytes(), 1, id)
                .expect("the gateway reads");
            acknowledged = client.ack(LONG).expect("the gateway answers").is_some();
        }
    }
    assert!(kills > 3, "{kills} kills");
    let dir = setup.data().join("events");
    let expect = 2 * DEVICES * ROUNDS;
    wait::until(LONG, "every event and every change of an alarm", || {
        (events(&dir).len() >= expect).then_some(())
    });
    gateway.wait_until_drained(LONG);
    assert_eq!(rules(&gateway)["backlog"], 0);
    let states = states(&events(&dir));
    assert_eq!(states.len(), DEVICES);
    for (device, states) in states {
        let turns: Vec<&str> = (0..ROUNDS).map(|n| ["raised", "cleared"][n % 2]).collect();
        assert_eq!(states, turns, "{device}");
    }
    drop(client);
    gateway.finish();
}

#[test]
fn subscribers_hear_of_it_and_an_operator_acknowledges_it() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events").with(HOT);
    let gateway = Gateway::start(&setup);
    let mut subscriber = Client::connect(setup.mqtt, Version::V4, "s");
    subscriber
        .send(&subscribe(Version::V4, "alerts/#", 1, 1))
        .expect("the gateway reads");
    assert_eq!(subscriber.read().expect("an answer").kind, 9);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    client
        .publish("devices/b7/t", b"{\"v\":90}", 1, 1)
        .expect("the gateway reads");
    let heard = subscriber.read().expect("a message");
    let text = String::from_utf8_lossy(&heard.body).into_owned();
    assert!(text.contains("alerts/b7"), "{text}");
    assert!(text.ends_with(r#"{"v": 90, "who": "b7"}"#), "{text}");

    wait::until(LONG, "the alarm", || {
        gateway
            .ask(&["alarm", "list"])
            .contains("raised")
            .then_some(())
    });
    let listed = gateway.ask(&["alarm", "list", "--json"]);
    let alarm: Value = serde_json::from_str(&listed).expect("one alarm");
    assert_eq!(alarm["text"], "at 90");
    let id = alarm["id"].to_string();
    gateway.ask(&[
        "alarm",
        "acknowledge",
        &id,
        "--by",
        "ann",
        "--note",
        "looking at it",
    ]);
    let shown: Value = serde_json::from_str(&gateway.ask(&["alarm", "show", &id])).expect("JSON");
    assert_eq!(shown["state"], "acknowledged");
    assert_eq!(shown["history"][0]["by"], "ann");
    assert_eq!(shown["history"][0]["note"], "looking at it");
    gateway.ask(&["alarm", "clear", &id]);
    assert!(gateway.ask(&["alarm", "list"]).is_empty());
    assert!(
        !gateway
            .command(&["alarm", "acknowledge", &id])
            .status
            .success()
    );

    let dir = setup.data().join("events");
    let states = wait::until(LONG, "its events", || {
        let states = states(&events(&dir)).remove("b7")?;
        (states.len() == 3).then_some(states)
    });
    assert_eq!(states, ["raised", "acknowledged", "cleared"]);
    drop((client, subscriber));
    gateway.finish();
}

#[test]
fn a_rule_commands_a_device_once_for_each_event_however_often_the_gateway_is_killed() {
    const EVENTS: usize = 40;
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events").with(
        r#"
[[rule]]
name = "shut"
pattern = '{"values": {"v": [{"numeric": [">", 80]}]}}'
[rule.command]
device = "valve-{device}"
name = "close"
payload = '{"at": <v>}'
paths = { v = "$.values.v" }

# What tells of its commands is taken too, and makes no others.
[[rule]]
name = "echo"
pattern = '{"type": [{"prefix": "penstock.command."}]}'
[rule.command]
name = "again"
"#,
    );
    let mut gateway = Gateway::start(&setup);
    gateway.ask(&["device", "create", "valve-b7"]);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for n in 0..EVENTS {
        let payload = format!("{{\"id\":\"m{n}\",\"v\":{}}}", 60 + 20 * (n % 3));
        let id = u16::try_from(n + 1).expect("few");
        loop {
            client
                .publish("devices/b7/t", payload.as_bytes(), 1, id)
                .expect("the gateway reads");
            if client.ack(LONG).expect("the gateway answers").is_some() {
                break;
            }
        }
        if n % 10 == 9 {
            wait::pass(Duration::from_micros(rng.random_range(0..3_000)));
            gateway.kill();
            gateway.start_again();
            client = Client::connect(setup.mqtt, Version::V5, "c");
        }
    }
    let path = "/api/v1/devices/valve-b7/commands?limit=1000";
    let commands = || -> Vec<Value> {
        let reply = http::get(setup.http, path).expect("it answers");
        let mut list: Value = serde_json::from_str(&reply.body).expect("JSON");
        serde_json::from_value(list["items"].take()).expect("a list")
    };
    // One for each event that it takes; one more for what tells of each of those.
    let hot = (0..EVENTS).filter(|n| n % 3 == 2).count();
    let all = wait::until(LONG, "every command", || {
        let all = commands();
        (all.len() >= 2 * hot).then_some(all)
    });
    assert_eq!(all.len(), 2 * hot);
    let of = |actor: &str| all.iter().filter(|one| one["actor"] == actor).count();
    assert_eq!((of("rule:shut"), of("rule:echo")), (hot, hot));
    let shut = all.iter().find(|one| one["actor"] == "rule:shut");
    assert_eq!(shut.expect("one")["payload"]["at"], 100);
    wait::until(LONG, "the rules to have acted on all of it", || {
        (rules(&gateway)["backlog"] == 0).then_some(())
    });
    assert_eq!(rules(&gateway)["failures"], 0);
    assert_eq!(commands().len(), 2 * hot, "and none of its own");
    drop(client);
    gateway.finish();
}

#[test]
fn a_throttle_lets_each_device_through_once_however_often_the_gateway_is_killed() {
    const DEVICES: usize = 3;
    const ROUNDS: usize = 20;

    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let throttled = HOT.replace("topic =", "throttle = \"1 per 1h\"\ntopic =");
    let setup = Setup::new(&sandbox).to_file("events").with(&throttled);
    let mut gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for n in 0..DEVICES * ROUNDS {
        let value = [90, 60][n / DEVICES % 2];
        let topic = format!("devices/d{}/t", n % DEVICES);
        let payload = format!("{{\"id\":\"m{n}\",\"v\":{value}}}");
        let id = u16::try_from(n + 1).expect("few");
        loop {
            client
                .publish(&topic, payload.as_bytes(), 1, id)
                .expect("the gateway reads");
            if client.ack(LONG).expect("the gateway answers").is_some() {
                break;
            }
        }
        if n % 7 == 6 {
            // While the rule acts on it.
            wait::pass(Duration::from_micros(rng.random_range(0..3_000)));
            gateway.kill();
            gateway.start_again();
            client = Client::connect(setup.mqtt, Version::V5, "c");
        }
    }
    let expect = u64::try_from(DEVICES * (ROUNDS / 2 - 1)).expect("few");
    wait::until(LONG, "the rules to have acted on all of it", || {
        let rules = rules(&gateway);
        (rules["backlog"] == 0 && rules["held_back"].as_u64() >= Some(expect)).then_some(())
    });
    gateway.wait_until_drained(LONG);
    let said = rules(&gateway);
    assert_eq!(said["held_back"], expect);
    let of_rule = &said["throttled"][0];
    let of_rule = (&of_rule["rule"], &of_rule["held_back"], &of_rule["devices"]);
    assert_eq!(of_rule, (&"hot".into(), &expect.into(), &DEVICES.into()));
    let all = events(&setup.data().join("events"));
    let states = states(&all);
    assert_eq!(states.len(), DEVICES);
    for (device, states) in states {
        assert_eq!(states, ["raised", "cleared"], "{device}");
    }
    // What goes to a destination is never throttled.
    let is_made = |event: &&Value| {
        event["type"]
            .as_str()
            .is_some_and(|it| it.starts_with("penstock."))
    };
    let readings = all.iter().filter(|event| !is_made(event));
    assert_eq!(readings.count(), DEVICES * ROUNDS);
    drop(client);
    gateway.finish();
}
