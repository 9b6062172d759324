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
