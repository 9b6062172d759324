//! Libraries that devices are really built with publish to the live gateway: what they
//! say arrives as what they meant.

use std::{fs, path::Path, process::Command, time::Duration};

use penstock_tests::{Gateway, Sandbox, Setup, programs, skip, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const MAPPINGS: &str = r##"
[[mapping]]
topic = "ce/{_kind}"
format = "cloudevents"

[[mapping]]
topic = "senml/{device}"

[[mapping]]
topic = "influx/{device}"
format = "influx"
device_tag = "host"

[[mapping]]
topic = "homie/{device}/{attribute}"
preset = "homie"

[[mapping]]
topic = "homie/{device}/{node}/{property}"
preset = "homie"

[[mapping]]
topic = "homie/{device}/{node...}"
preset = "homie"

[[mapping]]
topic = "spBv1.0/#"
preset = "sparkplug"
"##;

/// Runs a script to its end, or says that it cannot be run.
fn run(script: &str, port: u16, what: &str) -> bool {
    let (Some(producers), Some(paho)) = (programs::producers(), programs::paho("1.6.1")) else {
        skip::missing_program("the producers' libraries for Python");
        return false;
    };
    if programs::on_path("python3").is_none() {
        skip::missing_program("python3");
        return false;
    }
    let path = std::env::join_paths([producers, paho]).expect("paths without colons");
    let mut python = Command::new("timeout");
    python.args(["90", "python3"]).env("PYTHONPATH", &path);
    done(python, script, port, what);
    true
}

/// The same for those written in JavaScript.
fn run_node(port: u16, what: &str) -> bool {
    let Some(libraries) = programs::node_producers() else {
        skip::missing_program("the producers' libraries for Node.js");
        return false;
    };
    if programs::on_path("node").is_none() {
        skip::missing_program("node");
        return false;
    }
    let mut node = Command::new("timeout");
    node.args(["90", "node"]).env("NODE_PATH", libraries);
    done(node, "producers.cjs", port, what);
    true
}

/// Runs a script of an interpreter to its end.
fn done(mut interpreter: Command, script: &str, port: u16, what: &str) {
    let output = interpreter
        .arg(format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .args([&port.to_string(), what])
        .output()
        .expect("the interpreter runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains(&format!("DONE {what}")),
        "{script} {what}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The events in the files of a destination, in order.
fn events(dir: &Path) -> Vec<Value> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"))
        .collect();
    files.sort();
    let text: String = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a file"))
        .collect();
    // The last line may be on its way.
    let lines = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str(line).expect("a line is an event"))
        .collect()
}

/// Waits for so many events that are as wanted.
fn wait_for(setup: &Setup, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let dir = setup.data().join("events");
    wait::until(SOON, "the events", || {
        let found: Vec<_> = events(&dir).into_iter().filter(&wanted).collect();
        (found.len() >= count).then_some(found)
    })
}

/// A measurement of an event.
fn measured<'e>(event: &'e Value, name: &str) -> &'e Value {
    let all = event["data"]["m"].as_array().expect("measurements");
    all.iter()
        .find(|m| m["n"] == name)
        .unwrap_or_else(|| panic!("{name} in {event}"))
}

#[test]
fn the_sdk_of_cloudevents_is_understood_in_both_forms() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run("producers.py", setup.mqtt, "cloudevents") {
        return;
    }
    let events = wait_for(&setup, 2, |_| true);
    // A resend, and the same event in the other form, are the same event.
    assert_eq!(events.len(), 2, "{events:#?}");
    let event = &events[0];
    assert_eq!(event["device"], "press-7");
    assert_eq!(event["type"], "com.example.reading");
    assert_eq!(event["time"], "2026-03-01T11:59:50.123Z");
    assert_eq!(event["data"]["tags"]["line"], "L1");
    assert_eq!(measured(event, "temperature")["v"], json!(21.5));
    assert_eq!(measured(event, "running")["v"], json!(true));
    // Not a double's digit less.
    assert_eq!(
        measured(event, "count")["v"],
        json!(9_007_199_254_740_993_u64)
    );
    assert_eq!(measured(&events[1], "value")["v"], json!({"b64": "AP8="}));
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.ledger.duplicate, 2, "{end:#?}");
    gateway.finish();
}

#[test]
fn a_library_for_senml_is_understood_in_json_and_cbor() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run("producers.py", setup.mqtt, "senml") {
        return;
    }
    for event in wait_for(&setup, 2, |_| true) {
        let name = |name: &str| format!("urn:dev:ow:10e2073a01080063:{name}");
        let temperature = measured(&event, &name("temp"));
        assert_eq!(
            (&temperature["v"], &temperature["u"]),
            (&json!(21.5), &json!("Cel"))
        );
        let humidity = measured(&event, &name("hum"));
        assert_eq!(humidity["u"], "%RH");
        assert!((humidity["v"].as_f64().expect("a number") - 40.0).abs() < 1e-9);
        assert!(
            humidity["t"]
                .as_str()
                .is_some_and(|at| at.starts_with("2026-03-01T11:59:55.12"))
        );
        assert_eq!(measured(&event, &name("open"))["v"], json!(true));
        assert!(
            event["time"]
                .as_str()
                .is_some_and(|at| at.starts_with("2026-03-01T11:59:50.12"))
        );
        assert_eq!(event["timesource"], "device");
    }
    gateway.wait_until_drained(SOON);
    gateway.finish();
}

#[test]
fn a_device_of_homie_is_readings_and_the_rest_describes_it() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run("producers.py", setup.mqtt, "homie") {
        return;
    }
    let readings = wait_for(&setup, 2, |event| event["type"] == "iot.telemetry.v1");
    let values: Vec<_> = readings
        .iter()
        .map(|event| measured(event, "status.temperature")["v"].clone())
        .collect();
    assert_eq!(values, [json!(21.5), json!(22)], "{readings:#?}");
    assert!(readings.iter().all(|event| event["device"] == "attic"));
    let states = wait_for(&setup, 1, |event| {
        event["type"] == "iot.state.v1" && event["data"]["m"][0]["v"] == "disconnected"
    });
    assert_eq!(states[0]["device"], "attic");
    let named = wait_for(&setup, 1, |event| event["data"]["m"][0]["v"] == "Attic");
    assert_eq!(named[0]["type"], "iot.metadata.v1");
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.ledger.quarantined, 0, "{end:#?}");
    gateway.finish();
}

#[test]
fn the_sdk_of_cloudevents_for_javascript_says_one_event_in_both_forms() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run_node(setup.mqtt, "cloudevents") {
        return;
    }
    let events = wait_for(&setup, 1, |_| true);
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(
        (end.ledger.accepted, end.ledger.duplicate),
        (2, 1),
        "{end:#?}"
    );
    let event = &events[0];
    assert_eq!(event["device"], "press-7");
    assert_eq!(event["type"], "com.example.reading");
    assert_eq!(event["time"], "2026-03-01T11:59:50.123Z");
    assert_eq!(event["data"]["tags"]["line"], "L1");
    assert_eq!(measured(event, "temperature")["v"], json!(21.5));
    assert_eq!(measured(event, "running")["v"], json!(true));
    gateway.finish();
}

#[test]
fn what_the_client_of_influxdb_writes_is_read_with_all_its_escapes() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run_node(setup.mqtt, "influx") {
        return;
    }
    let events = wait_for(&setup, 2, |_| true);
    let event = &events[0];
    assert_eq!(event["device"], "h 1");
    assert_eq!(event["time"], "2026-03-01T11:59:50.123456789Z");
    assert_eq!(event["data"]["tags"]["line"], "L=1,2");
    for (name, value) in [
        ("t", json!(21.5)),
        ("n", json!(-7)),
        ("total", json!(u64::MAX)),
        ("ok", json!(true)),
        ("note", json!("a \"q\" \\ b\nc")),
    ] {
        assert_eq!(measured(event, &format!("env room.{name}"))["v"], value);
    }
    assert_eq!(events[1]["device"], "h2");
    assert_eq!(measured(&events[1], "env.t")["v"], json!(1e21));
    gateway.wait_until_drained(SOON);
    gateway.finish();
}

#[test]
fn a_device_of_homie_in_javascript_is_readings_and_states() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run_node(setup.mqtt, "homie") {
        return;
    }
    let readings = wait_for(&setup, 2, |event| {
        event["type"] == "iot.telemetry.v1" && event["device"] == "cellar"
    });
    let values: Vec<_> = readings
        .iter()
        .map(|event| measured(event, "climate.temperature")["v"].clone())
        .collect();
    assert_eq!(values, [json!(21.5), json!(-3)], "{readings:#?}");
    wait_for(&setup, 1, |event| {
        event["type"] == "iot.state.v1" && event["data"]["m"][0]["v"] == "disconnected"
    });
    let unit = wait_for(&setup, 1, |event| event["data"]["m"][0]["v"] == "\u{b0}C");
    assert_eq!(unit[0]["type"], "iot.metadata.v1");
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.ledger.quarantined, 0, "{end:#?}");
    gateway.finish();
}

#[test]
fn a_node_of_eclipse_tahu_is_understood_also_where_it_compresses() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let gateway = Gateway::start(&setup);
    if !run_node(setup.mqtt, "sparkplug") {
        return;
    }
    let events = wait_for(&setup, 7, |_| true);
    let said: Vec<_> = events
        .iter()
        .map(|event| {
            let all = event["data"]["m"].as_array().expect("measurements");
            let all: Vec<_> = all.iter().map(|m| json!([m["n"], m["v"]])).collect();
            json!([event["device"], event["type"], all])
        })
        .collect();
    let (node, press) = ("Plant/Tahu", "Plant/Tahu/Press");
    let (birth, data, state) = ("iot.birth.v1", "iot.telemetry.v1", "iot.state.v1");
    assert_eq!(
        json!(said),
        json!([
            [node, birth, [["Level", -5], ["Total", 5]]],
            [press, birth, [["Force", 1.5]]],
            [node, data, [["Level", -6]]],
            [node, data, [["Level", -7]]],
            [press, data, [["Force", 2.5]]],
            [press, state, [["online", false]]],
            [node, state, [["online", false]]],
        ]),
        "{events:#?}"
    );
    assert_eq!(measured(&events[0], "Level")["u"], "mm");
    // What came after it was compressed is no gap.
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.ledger.quarantined, 0, "{end:#?}");
    gateway.finish();
}

/// Also over a `kill -9`, after which the gateway knows no alias any more.
#[test]
fn a_sparkplug_node_is_asked_to_be_born_again_when_something_was_missed() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).with(MAPPINGS).to_file("events");
    let mut gateway = Gateway::start(&setup);
    if !run("sparkplug_node.py", setup.mqtt, "born") {
        return;
    }
    let temperature = |event: &Value| {
        event["type"] == "iot.telemetry.v1" && event["data"]["m"][0]["n"] == "Temperature"
    };
    let values = |events: &[Value]| -> Vec<i64> {
        let value = |event: &Value| event["data"]["m"][0]["v"].as_i64();
        events.iter().filter_map(value).collect()
    };
    let data = wait_for(&setup, 3, temperature);
    assert_eq!(values(&data), [-6, -7, -8], "{data:#?}");
    assert!(data.iter().all(|event| event["device"] == "Plant/Edge"));
    let press = wait_for(&setup, 1, |event| {
        event["device"] == "Plant/Edge/Press" && event["type"] == "iot.telemetry.v1"
    });
    assert_eq!(measured(&press[0], "Force")["v"], json!(2.5));
    let births = wait_for(&setup, 4, |event| event["type"] == "iot.birth.v1");
    assert_eq!(measured(&births[0], "Label")["v"], json!("hall"));

    gateway.kill();
    gateway.start_again();
    assert!(run("sparkplug_node.py", setup.mqtt, "orphan"));
    let data = wait_for(&setup, 4, temperature);
    assert_eq!(values(&data), [-6, -7, -8, -10], "{data:#?}");
    // What could not be understood without the birth is kept, and said to be that.
    let end = gateway.wait_until_drained(SOON);
    assert_eq!(end.ledger.quarantined, 1, "{end:#?}");
    let listed = gateway.ask(&["quarantine", "list"]);
    assert!(listed.contains("state"), "{listed}");
    gateway.finish();
}
