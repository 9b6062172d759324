//! Real clients publish and subscribe live, in both protocol versions, at every QoS.

use std::{fs, process::Command, time::Duration};

use penstock_tests::{Gateway, Sandbox, Setup, process::Process, programs, skip, wait};

fn subscriber(sandbox: &Sandbox, port: u16, version: &str, qos: &str, filter: &str) -> Process {
    // Its own buffering would keep the news that it has subscribed from us.
    let mut command = Command::new("stdbuf");
    command
        .args([
            "-oL",
            "mosquitto_sub",
            "-d",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ])
        .args([
            "-V", version, "-q", qos, "-t", filter, "-C", "1", "-W", "30",
        ])
        .args(["-F", "GOT %t %q %p"]);
    let output = sandbox.path("subscriber.log");
    let process = Process::spawn(command, "mosquitto_sub", &output);
    wait::until(Duration::from_secs(20), "the subscription", || {
        fs::read_to_string(&output)
            .ok()?
            .contains("Subscribed")
            .then_some(())
    });
    process
}

fn publish(port: u16, version: &str, qos: &str, topic: &str, payload: &str) {
    let output = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-V",
            version,
            "-q",
            qos,
        ])
        .args(["-t", topic, "-m", payload])
        .output()
        .expect("mosquitto_pub runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn mosquitto_clients_publish_and_subscribe_in_both_versions_at_every_qos() {
    for client in ["mosquitto_pub", "mosquitto_sub"] {
        if programs::on_path(client).is_none() {
            return skip::missing_program(client);
        }
    }
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let mut sent = 0;
    for from in ["mqttv311", "mqttv5"] {
        for to in ["mqttv311", "mqttv5"] {
            for (qos, granted, delivered) in [
                ("0", "0", "0"),
                ("1", "1", "1"),
                ("2", "2", "2"),
                ("2", "1", "1"),
                ("1", "2", "1"),
            ] {
                let sandbox = Sandbox::new();
                let topic = format!("devices/real-{from}-{to}-{qos}-{granted}/temperature");
                let mut subscriber =
                    subscriber(&sandbox, setup.mqtt, to, granted, "devices/+/temperature");
                sent += 1;
                publish(setup.mqtt, from, qos, &topic, &sent.to_string());
                let status = subscriber.wait(Duration::from_secs(40));
                let said = subscriber.tail();
                let expected = format!("GOT {topic} {delivered} {sent}");
                assert!(
                    status.success() && said.contains(&expected),
                    "{expected}: {said}"
                );
            }
        }
    }
    let end = gateway.wait_for(
        Duration::from_secs(20),
        "every publish to be stored",
        |now| now.ledger.accepted == sent,
    );
    assert_eq!(end.ledger.stored, sent);
    gateway.wait_until_drained(Duration::from_secs(20));
    gateway.finish();
}

/// Paho's Python client, whose callbacks changed with version 2.
#[test]
fn paho_for_python_publishes_subscribes_retains_and_dies_in_both_versions() {
    if programs::on_path("python3").is_none() {
        return skip::missing_program("python3");
    }
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/paho_client.py");
    for version in ["1.6.1", "2.1.0"] {
        let Some(path) = programs::paho(version) else {
            return skip::missing_program("Paho's Python client");
        };
        for protocol in ["4", "5"] {
            let output = Command::new("timeout")
                .args(["60", "python3", script, &setup.mqtt.to_string(), protocol])
                .arg(format!("devices/paho-{version}-{protocol}"))
                .env("PYTHONPATH", &path)
                .output()
                .expect("python3 runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.contains(&format!("DONE {version}")),
                "Paho {version}, protocol {protocol}: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    gateway.wait_until_drained(Duration::from_secs(20));
    gateway.finish();
}

#[test]
fn mosquitto_rr_gets_its_answer() {
    for client in ["mosquitto_pub", "mosquitto_sub", "mosquitto_rr"] {
        if programs::on_path(client).is_none() {
            return skip::missing_program(client);
        }
    }
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let (question, answer) = ("devices/asked/question", "devices/asking/answer");
    let mut asked = subscriber(&sandbox, setup.mqtt, "mqttv5", "1", question);
    let mut command = Command::new("mosquitto_rr");
    command
        .args(["-h", "127.0.0.1", "-p", &setup.mqtt.to_string(), "-q", "1"])
        .args(["-V", "mqttv5", "-W", "30", "-t", question, "-e", answer])
        .args(["-m", "17"]);
    let asking_log = sandbox.path("asking.log");
    let mut asking = Process::spawn(command, "mosquitto_rr", &asking_log);
    assert!(asked.wait(Duration::from_secs(40)).success());
    publish(setup.mqtt, "mqttv5", "1", answer, "42");
    let status = asking.wait(Duration::from_secs(40));
    let said = fs::read_to_string(&asking_log).expect("a log");
    assert!(status.success() && said.trim() == "42", "{said}");
    gateway.wait_until_drained(Duration::from_secs(20));
    gateway.finish();
}

#[test]
fn mosquitto_subscribers_share_the_work() {
    for client in ["mosquitto_pub", "mosquitto_sub"] {
        if programs::on_path(client).is_none() {
            return skip::missing_program(client);
        }
    }
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let homes = [Sandbox::new(), Sandbox::new()];
    let mut workers: Vec<Process> = homes
        .iter()
        .zip(["mqttv5", "mqttv311"])
        .map(|(home, version)| {
            let filter = "$share/workers/devices/shared/+";
            subscriber(home, setup.mqtt, version, "1", filter)
        })
        .collect();
    // Each of them ends after one message.
    for value in ["1", "2"] {
        publish(setup.mqtt, "mqttv5", "1", "devices/shared/value", value);
    }
    let mut got = Vec::new();
    for worker in &mut workers {
        assert!(worker.wait(Duration::from_secs(40)).success());
        let said = worker.tail();
        got.extend(said.lines().filter_map(|line| {
            line.strip_prefix("GOT devices/shared/value 1 ")
                .map(String::from)
        }));
    }
    got.sort();
    assert_eq!(got, ["1", "2"]);
    gateway.wait_until_drained(Duration::from_secs(20));
    gateway.finish();
}
