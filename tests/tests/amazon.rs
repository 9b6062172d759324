//! Amazon's queues, topics, event buses and buckets: what was acknowledged to a device arrives,
//! whoever is killed and whatever the wire does, and only where delivery.md says so more than
//! once or in another order. The services are moto's.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use penstock_tests::{
    Audit, ChaosProxy, Gateway, Mode, MotoServer, Sandbox, Setup, Sim, seed, sim::Fleet, turns,
    wait,
};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::Value;

const KILLS: usize = 2;
/// Messages a second. For each message in a queue moto looks at all that are there.
const TO_QUEUES: u32 = 30;
const TO_BUS: u32 = 60;
const TO_BUCKET: u32 = 200;

fn load(sandbox: &Sandbox, setup: &Setup, seed: u64, rate: u32) -> Fleet {
    Sim::new(sandbox, "fleet", setup.mqtt, seed)
        .load(40, rate)
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

/// Loses answers, kills the gateway and kills the service, again and again under load, then
/// lets it drain.
fn break_everything(
    sandbox: &Sandbox,
    setup: &Setup,
    proxy: &ChaosProxy,
    moto: &mut MotoServer,
    destination: &str,
    rate: u32,
) -> Fleet {
    let (seed, mut rng) = seed::seeded();
    let mut gateway = Gateway::start(setup).expecting(&[destination]);
    let mut fleet = load(sandbox, setup, seed, rate);
    for _ in 0..KILLS {
        a_moment_of_delivery(&gateway, destination, &mut rng);
        proxy.set(Mode::LoseReplies);
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        proxy.set(Mode::Pass);
        a_moment_of_delivery(&gateway, destination, &mut rng);
        gateway.kill();
        gateway.start_again();
        a_moment_of_delivery(&gateway, destination, &mut rng);
        moto.kill();
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        moto.start_again();
    }
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(300));
    gateway.finish();
    fleet
}

/// The events of each device, in the order of arrival.
fn by_device(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(dir.join("messages.ndjson")).expect("it was written");
    let mut events = BTreeMap::<_, Vec<_>>::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("an event is JSON");
        let text = |name: &str| event[name].as_str().expect("a text").to_owned();
        events
            .entry(text("device"))
            .or_default()
            .push(text("eventkey"));
    }
    events
}

#[test]
fn a_fifo_queue_has_each_event_once_when_gateway_service_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(mut moto) = MotoServer::start(&sandbox) else {
        return;
    };
    let queue = moto.create_queue("telemetry.fifo");
    let proxy = ChaosProxy::to(moto.port);
    let keys = format!("type = \"sqs\"\nqueue = \"{queue}\"");
    let setup = Setup::new(&sandbox).to_amazon("queue", proxy.port, &keys);
    let fleet = break_everything(&sandbox, &setup, &proxy, &mut moto, "queue", TO_QUEUES);
    let dump = moto.messages(&sandbox, "queue", &queue);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn a_topic_hands_each_event_to_two_queues_when_gateway_service_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(mut moto) = MotoServer::start(&sandbox) else {
        return;
    };
    let topic = moto.create_topic("telemetry.fifo");
    let (all, some) = (
        moto.create_queue("all.fifo"),
        moto.create_queue("some.fifo"),
    );
    moto.subscribe(&topic, &all, None);
    let filter = "{\"device\": [{\"suffix\": \"1\"}]}";
    moto.subscribe(&topic, &some, Some(filter));
    let proxy = ChaosProxy::to(moto.port);
    let keys = format!("type = \"sns\"\ntopic = \"{topic}\"");
    let setup = Setup::new(&sandbox).to_amazon("topic", proxy.port, &keys);
    let fleet = break_everything(&sandbox, &setup, &proxy, &mut moto, "topic", TO_QUEUES);
    let dump = moto.messages(&sandbox, "all", &all);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
    let mut expect = by_device(&dump);
    assert!(expect.len() > 4, "{} devices", expect.len());
    expect.retain(|device, _| device.ends_with('1'));
    let filtered = by_device(&moto.messages(&sandbox, "some", &some));
    assert!(!filtered.is_empty());
    assert_eq!(filtered, expect);
}

#[test]
fn a_bus_loses_nothing_when_gateway_service_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(mut moto) = MotoServer::start(&sandbox) else {
        return;
    };
    moto.create_bus("plant");
    let proxy = ChaosProxy::to(moto.port);
    let keys = "type = \"eventbridge\"\nbus = \"plant\"";
    let setup = Setup::new(&sandbox).to_amazon("bus", proxy.port, keys);
    let fleet = break_everything(&sandbox, &setup, &proxy, &mut moto, "bus", TO_BUS);
    let dump = moto.bus_events(&sandbox, "plant");
    // A bus refuses no copy and keeps no order.
    let audit = Audit::files(&sandbox, &fleet, &dump, &["--allow-duplicates"]);
    for count in ["lost", "phantom", "unreadable", "malformed_arrived"] {
        assert_eq!(audit.count(count), 0, "{count}");
    }
}

#[test]
fn a_bucket_has_each_event_once_when_gateway_service_and_wire_break_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(mut moto) = MotoServer::start(&sandbox) else {
        return;
    };
    moto.create_bucket("lake");
    let proxy = ChaosProxy::to(moto.port);
    let keys = "type = \"s3\"\nbucket = \"lake\"\nlinger = \"200ms\"";
    let setup = Setup::new(&sandbox).to_amazon("objects", proxy.port, keys);
    let fleet = break_everything(&sandbox, &setup, &proxy, &mut moto, "objects", TO_BUCKET);
    let dump = moto.objects(&sandbox, "lake");
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}
