//! Stream services: what was acknowledged to a device arrives, whoever is killed and
//! whatever the wire does, and only where delivery.md says so more than once.

use std::time::Duration;

use penstock_tests::{
    Audit, Certificates, ChaosProxy, Gateway, KafkaCluster, KafkaServer, Mode, MotoServer, Sandbox,
    Setup, Sim,
    kafka::{PASSWORD, USER},
    mqtt::{Client, Version},
    seed,
    sim::Fleet,
    turns, wait,
};
use rand::{RngExt as _, rngs::StdRng};

const KILLS: usize = 3;

fn load(sandbox: &Sandbox, setup: &Setup, seed: u64) -> Fleet {
    Sim::new(sandbox, "fleet", setup.mqtt, seed)
        .load(40, 250)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .start()
}

/// Waits until `destination` takes something new, then for a random moment after that.
fn a_moment_of_delivery(gateway: &Gateway, destination: &str, rng: &mut StdRng) {
    let before = gateway.status().destination(destination).delivered;
    gateway.wait_for(Duration::from_secs(60), "delivery", |now| {
        now.destination(destination).delivered > before
    });
    wait::pass(Duration::from_millis(rng.random_range(0..800)));
}

#[test]
fn kinesis_loses_nothing_when_gateway_service_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut moto) = MotoServer::start(&sandbox) else {
        return;
    };
    moto.create_stream("telemetry");
    let proxy = ChaosProxy::to(moto.port);
    let setup = Setup::new(&sandbox).to_kinesis("stream", proxy.port, "telemetry", "");
    let mut gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = load(&sandbox, &setup, seed);
    for _ in 0..KILLS {
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        proxy.set(Mode::LoseReplies);
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        proxy.set(Mode::Pass);
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        gateway.kill();
        gateway.start_again();
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        moto.kill();
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        moto.start_again();
    }
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(120));
    gateway.finish();
    let dump = moto.dump(&sandbox, "telemetry");
    // A stream refuses no copy: a lost reply and a kill bring some.
    Audit::files(&sandbox, &fleet, &dump, &["--allow-duplicates"]).assert_clean();
}

#[test]
fn kinesis_has_each_event_once_when_nothing_breaks() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(moto) = MotoServer::start(&sandbox) else {
        return;
    };
    moto.create_stream("telemetry");
    let setup = Setup::new(&sandbox).to_kinesis("stream", moto.port, "telemetry", "");
    let gateway = Gateway::start(&setup);
    let mut fleet = load(&sandbox, &setup, seed);
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(120));
    gateway.finish();
    let dump = moto.dump(&sandbox, "telemetry");
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn kafka_has_each_event_once_when_broker_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let mut proxy = None;
    let behind = |port| proxy.insert(ChaosProxy::to(port)).port;
    let Some(mut kafka) = KafkaServer::start(&sandbox, behind) else {
        return;
    };
    let proxy = proxy.expect("it was made for the server");
    kafka.create_topic("telemetry", &[]);
    let setup = Setup::new(&sandbox).to_kafka("stream", proxy.port, "telemetry", "");
    let gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = load(&sandbox, &setup, seed);
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    proxy.set(Mode::LoseReplies);
    // Longer than the gateway waits for an answer: the batch goes to the engine and comes
    // again.
    wait::pass(Duration::from_millis(rng.random_range(3_000..5_000)));
    proxy.set(Mode::Pass);
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    kafka.kill();
    wait::pass(Duration::from_millis(rng.random_range(0..2_000)));
    kafka.start_again();
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(120));
    let delivered = gateway.status().destination("stream").delivered;
    gateway.finish();
    let dump = kafka.dump(&sandbox, "telemetry", delivered);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn kafka_with_transactions_has_each_event_once_when_gateway_broker_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let mut proxy = None;
    let behind = |port| proxy.insert(ChaosProxy::to(port)).port;
    let Some(mut kafka) = KafkaServer::start(&sandbox, behind) else {
        return;
    };
    let proxy = proxy.expect("it was made for the server");
    kafka.create_topic("telemetry", &[]);
    // Small batches: more commits, and so more moments between one and the cursor.
    let more = "transactional = true\nbatch_records = 50";
    let setup = Setup::new(&sandbox).to_kafka("stream", proxy.port, "telemetry", more);
    let mut gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = load(&sandbox, &setup, seed);
    for _ in 0..KILLS {
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        gateway.kill();
        gateway.start_again();
    }
    for mode in [Mode::LoseReplies, Mode::BlackHole] {
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        proxy.set(mode);
        wait::pass(Duration::from_millis(rng.random_range(500..4_000)));
        gateway.kill();
        proxy.set(Mode::Pass);
        gateway.start_again();
    }
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    kafka.kill();
    gateway.kill();
    kafka.start_again();
    gateway.start_again();
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(120));
    let delivered = gateway.status().destination("stream").delivered;
    gateway.finish();
    let dump = kafka.dump(&sandbox, "telemetry", delivered);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn kafka_has_each_event_once_when_brokers_of_three_are_killed_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut kafka) = KafkaCluster::start(&sandbox) else {
        return;
    };
    kafka.create_topic("telemetry");
    let setup = Setup::new(&sandbox).to_kafka_at("stream", &kafka.ports, "telemetry", "");
    let gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = load(&sandbox, &setup, seed);
    // Each of them leads a part of the topic, and one of them the cluster.
    for which in 0..kafka.ports.len() {
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        kafka.kill(which);
        a_moment_of_delivery(&gateway, "stream", &mut rng);
        kafka.start_again(which);
    }
    a_moment_of_delivery(&gateway, "stream", &mut rng);
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(120));
    let delivered = gateway.status().destination("stream").delivered;
    gateway.finish();
    let dump = kafka.dump(&sandbox, "telemetry", delivered);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn kafka_knows_us_by_password_or_certificate_and_nothing_goes_in_the_clear() {
    let sandbox = Sandbox::new();
    let Some(certificates) = Certificates::new(&sandbox) else {
        return;
    };
    certificates.issue("server");
    certificates.issue("plant");
    let Some((mut kafka, ports)) = KafkaServer::secured(&sandbox, &certificates) else {
        return;
    };
    let file = |name: &str| certificates.path(name).display().to_string();
    let trust = format!("tls = true\nca = \"{}\"", file("ca.pem"));
    let login = |sasl: &str, password: &str| {
        format!("{trust}\nsasl = \"{sasl}\"\nuser = \"{USER}\"\npassword = \"{password}\"")
    };
    let identity = format!(
        "{trust}\ncertificate = \"{}\"\nkey = \"{}\"",
        file("plant.pem"),
        file("plant.key")
    );
    let known = [
        ("plain", ports.password, login("plain", PASSWORD)),
        (
            "scram-256",
            ports.password,
            login("scram-sha-256", PASSWORD),
        ),
        (
            "scram-512",
            ports.password,
            login("scram-sha-512", PASSWORD),
        ),
        ("certificate", ports.certificate, identity),
    ];
    let unknown = [
        ("wrong", ports.password, login("scram-sha-512", "wrong")),
        ("nobody", ports.password, trust.clone()),
        ("bare", ports.certificate, trust.clone()),
        (
            "distrust",
            ports.password,
            login("scram-sha-512", PASSWORD).replace(&trust, "tls = true"),
        ),
    ];
    let mut setup = Setup::new(&sandbox);
    for (name, port, keys) in known.iter().chain(&unknown) {
        setup = setup.to_kafka(name, *port, name, keys);
        kafka.create_topic(name, &[]);
    }
    let names: Vec<&str> = known
        .iter()
        .chain(&unknown)
        .map(|(name, ..)| *name)
        .collect();
    let gateway = Gateway::start(&setup).expecting(&names);
    publish(&setup, (0..20).map(|n| format!("{{\"n\":{n}}}")));
    let delivered = |count| {
        for (name, ..) in &known {
            gateway.wait_for(Duration::from_secs(60), "all to arrive", |now| {
                now.destination(name).delivered == count
            });
        }
    };
    delivered(20);
    let nothing_else = || {
        let status = gateway.status();
        for (name, ..) in &unknown {
            assert_eq!(status.destination(name).delivered, 0, "{name}");
        }
    };
    nothing_else();
    gateway.wait_for(
        Duration::from_secs(60),
        "a wrong password to be said",
        |now| now.destination("wrong").state == "stopped",
    );
    // A connection that is made anew is known as well.
    kafka.kill();
    kafka.start_again();
    publish(&setup, (20..40).map(|n| format!("{{\"n\":{n}}}")));
    delivered(40);
    nothing_else();
    gateway.finish();
    for (name, ..) in &known {
        let dump = kafka.dump(&sandbox, name, 40);
        let text = std::fs::read_to_string(dump.join("all.ndjson")).expect("it was written");
        let numbers: Vec<u64> = text.lines().map(number).collect();
        assert_eq!(numbers, (0..40).collect::<Vec<u64>>(), "{name}");
    }
}

/// One device's messages, each acknowledged.
fn publish(setup: &Setup, payloads: impl IntoIterator<Item = String>) {
    let mut client = Client::connect(setup.mqtt, Version::V4, "press-7");
    for (id, payload) in (1..).zip(payloads) {
        let topic = "devices/press-7/telemetry";
        let sent = client.publish(topic, payload.as_bytes(), 1, id);
        sent.expect("the connection stays");
        let ack = client.ack(Duration::from_secs(10));
        ack.expect("the connection stays")
            .expect("it is acknowledged");
    }
}

/// What an event says of `n`.
fn number(line: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(line).expect("an event is JSON");
    let measurements = event["data"]["m"].as_array().expect("measurements");
    let of_n = measurements.iter().find(|one| one["n"] == "n");
    of_n.and_then(|one| one["v"].as_u64()).expect("a number")
}

#[test]
fn kafka_refuses_an_event_alone_and_takes_those_around_it_in_order() {
    let sandbox = Sandbox::new();
    let Some(kafka) = KafkaServer::start(&sandbox, |port| port) else {
        return;
    };
    kafka.create_topic("small", &["max.message.bytes=8000"]);
    let more = "compression = \"none\"\nlinger = \"500ms\"\nbatch_bytes = \"7KiB\"";
    let setup = Setup::new(&sandbox).to_kafka("stream", kafka.port, "small", more);
    let gateway = Gateway::start(&setup).expecting(&["stream"]);
    let text = |n| "x".repeat(if n == 15 { 9_000 } else { 0 });
    let payloads = (0..30).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", text(n)));
    publish(&setup, payloads);
    gateway.wait_for(Duration::from_secs(60), "all but one", |now| {
        now.destination("stream").delivered == 29
    });
    assert_eq!(gateway.status().destination("stream").dead, 1);
    gateway.finish();
    let dump = kafka.dump(&sandbox, "small", 29);
    let text = std::fs::read_to_string(dump.join("all.ndjson")).expect("it was written");
    let numbers: Vec<u64> = text.lines().map(number).collect();
    let expect: Vec<u64> = (0..30).filter(|n| *n != 15).collect();
    assert_eq!(numbers, expect);
}

#[test]
fn kafka_with_a_quota_slows_its_own_destination_down_and_has_each_event_once() {
    /// What brokers call us.
    const CLIENT: &str = "penstock";
    let sandbox = Sandbox::new();
    let Some(kafka) = KafkaServer::start(&sandbox, |port| port) else {
        return;
    };
    kafka.create_topic("telemetry", &[]);
    // Brokers count over ten seconds: so much goes at once, and then a second of it each
    // second.
    kafka.slow_down(CLIENT, 5_000);
    let more = "compression = \"none\"\nbatch_bytes = \"16KiB\"";
    let setup =
        Setup::new(&sandbox)
            .to_file("near")
            .to_kafka("stream", kafka.port, "telemetry", more);
    // A batch that waits for longer than `timeout` shows as unavailable.
    let gateway = Gateway::start(&setup).expecting(&["stream"]);
    let text = "x".repeat(1_000);
    publish(
        &setup,
        (0..300).map(|n| format!("{{\"n\":{n},\"text\":\"{text}\"}}")),
    );
    gateway.wait_for(Duration::from_secs(30), "all of it nearby", |now| {
        now.destination("near").delivered == 300
    });
    // In this time it would all be there.
    wait::pass(Duration::from_secs(5));
    let slow = gateway.status();
    let stream = slow.destination("stream");
    assert!(stream.backlog > 100, "no quota slowed it down: {slow:#?}");
    assert_ne!(stream.state, "stopped");
    assert_eq!(stream.dead, 0);
    kafka.speed_up(CLIENT);
    gateway.wait_until_drained(Duration::from_secs(120));
    gateway.finish();
    let dump = kafka.dump(&sandbox, "telemetry", 300);
    let text = std::fs::read_to_string(dump.join("all.ndjson")).expect("it was written");
    let numbers: Vec<u64> = text.lines().map(number).collect();
    assert_eq!(numbers, (0..300).collect::<Vec<u64>>());
}

#[test]
fn a_stream_and_a_topic_that_are_not_there_need_a_person() {
    let sandbox = Sandbox::new();
    let (Some(kafka), Some(moto)) = (
        KafkaServer::start(&sandbox, |port| port),
        MotoServer::start(&sandbox),
    ) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .to_kafka("log", kafka.port, "nowhere", "")
        .to_kinesis("shards", moto.port, "nowhere", "");
    let gateway = Gateway::start(&setup).expecting(&["log", "shards"]);
    publish(&setup, ["{\"n\":1}".to_owned()]);
    // A topic is looked for for a minute.
    for destination in ["log", "shards"] {
        gateway.wait_for(Duration::from_secs(120), "both to stop", |now| {
            now.destination(destination).state == "stopped"
        });
    }
    gateway.finish();
}

#[test]
fn commands_come_from_a_topic_of_kafka_each_once_over_a_kill() {
    const LONG: Duration = Duration::from_secs(60);
    let sandbox = Sandbox::new();
    let Some(kafka) = KafkaServer::start(&sandbox, |port| port) else {
        return;
    };
    kafka.create_topic("orders", &[]);
    let setup = Setup::new(&sandbox).to_file("events").with(&format!(
        "[commands]\norders = \"orders/{{device}}\"\n\
         [[upstream]]\nname = \"control\"\ntype = \"kafka\"\n\
         brokers = [\"127.0.0.1:{}\"]\ntopic = \"orders\"",
        kafka.port
    ));
    let api = setup.http;
    let mut gateway = Gateway::start(&setup)
        .expecting(&["a command was not accepted", "no commands come from there"]);
    gateway.ask(&["device", "create", "pump"]);
    let get = |path: &str| -> serde_json::Value {
        let reply = penstock_tests::http::get(api, path).expect("an answer");
        serde_json::from_str(&reply.body).expect("JSON")
    };
    let names = || -> Vec<String> {
        let list = get("/api/v1/devices/pump/commands");
        let items = list["items"].as_array().expect("a list").iter();
        let name = |one: &serde_json::Value| one["name"].as_str().expect("a name").to_owned();
        // The latest is the first.
        items.map(name).rev().collect()
    };
    kafka.produce(
        "orders",
        &[
            ("Idempotency-Key:one", "pump", r#"{"name":"one"}"#),
            ("x:1", "pump", "no command"),
            ("x:1", "nobody", r#"{"name":"lost"}"#),
            ("x:1", "NULL", r#"{"name":"lost"}"#),
            ("x:1", "pump", r#"{"name":"two"}"#),
        ],
    );
    penstock_tests::wait::until(LONG, "two commands", || {
        (names() == ["one", "two"]).then_some(())
    });
    gateway.kill();
    kafka.produce(
        "orders",
        &[
            ("Idempotency-Key:one", "pump", r#"{"name":"one"}"#),
            ("x:1", "pump", r#"{"name":"two"}"#),
            ("x:1", "pump", r#"{"key":"three","name":"three"}"#),
        ],
    );
    gateway.start_again();
    // The same once more without a key is another one.
    let all = ["one", "two", "two", "three"];
    penstock_tests::wait::until(LONG, "the others", || (names() == all).then_some(()));
    penstock_tests::wait::until(LONG, "what is no command", || {
        let quarantine = get("/api/v1/quarantine");
        let items = quarantine["items"].as_array().expect("a list");
        (items.len() == 3).then_some(())
    });
    gateway.finish();
}
