//! A full disk pushes devices back; what was acknowledged stays.

use std::{collections::BTreeSet, fs, time::Duration};

use penstock_tests::{
    Audit, ChaosProxy, Gateway, Mode, NatsServer, Sandbox, Setup, Sim,
    disk::SmallDisk,
    mqtt::{Client, Version},
    seed, turns, wait,
};

const DISK_MEBIBYTES: u32 = 32;
const STORE: &str = "[store]\nreserve = \"4MiB\"";
/// Words of the warnings that a full disk and an absent destination give.
const EXPECTED: [&str; 3] = ["full", "stream", "room"];
/// MQTT 5: quota exceeded.
const QUOTA_EXCEEDED: u8 = 0x97;

/// Publishes until the gateway pushes back: MQTT 5 is told so, 3.1.1 waits in vain.
fn publish_until_pushed_back(client: &mut Client, version: Version) -> BTreeSet<u16> {
    let payload = vec![b'7'; 20_000];
    let mut acknowledged = BTreeSet::new();
    for id in 1..=20_000_u16 {
        client
            .publish("devices/filler/blob", &payload, 1, id)
            .expect("the broker reads on");
        match client
            .ack(Duration::from_secs(5))
            .expect("the connection stays")
        {
            Some(ack) if ack.reason < 0x80 => acknowledged.insert(ack.id),
            Some(ack) => {
                assert_eq!((version, ack.reason), (Version::V5, QUOTA_EXCEEDED));
                return acknowledged;
            }
            None => {
                assert_eq!(version, Version::V4, "MQTT 5 is told that there is no room");
                return acknowledged;
            }
        };
    }
    panic!("400 MB on a disk of {DISK_MEBIBYTES} MiB, and no push-back");
}

#[test]
fn devices_are_pushed_back_while_the_disk_is_full_and_go_on_without_a_restart() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), DISK_MEBIBYTES) else {
        return;
    };
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let wire = ChaosProxy::to(nats.port);
    let setup = Setup::new(&sandbox)
        .data_dir(&disk.dir().join("data"))
        .with(STORE)
        .to_nats("stream", wire.port, "TELEMETRY");
    let gateway = Gateway::start(&setup).expecting(&EXPECTED);

    wire.set(Mode::Reset);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 4_000)
        .with(&["--qos", "1", "--protocol", "mixed"])
        .start();
    gateway.wait_for(Duration::from_secs(60), "a full disk", |now| now.store.full);
    let mut four = Client::connect(setup.mqtt, Version::V4, "observer-4");
    let mut five = Client::connect(setup.mqtt, Version::V5, "observer-5");
    publish_until_pushed_back(&mut four, Version::V4);
    publish_until_pushed_back(&mut five, Version::V5);
    gateway.status().assert_balanced();

    // The destination comes back, room is made, and the withheld acknowledgement comes.
    wire.set(Mode::Pass);
    assert!(
        four.ack(Duration::from_secs(60))
            .expect("the connection stays")
            .is_some(),
        "the publish that was held back is acknowledged when there is room"
    );
    wait::until(Duration::from_secs(60), "room for an MQTT 5 device", || {
        five.publish("devices/observer/ok", b"1", 1, 9)
            .expect("the connection stays");
        let ack = five
            .ack(Duration::from_secs(10))
            .expect("the connection stays")?;
        (ack.reason < 0x80).then_some(())
    });
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]).assert_clean();
}

#[test]
fn a_disk_filled_by_somebody_else_is_survived_until_room_is_made() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), DISK_MEBIBYTES) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .data_dir(&disk.dir().join("data"))
        .with(STORE)
        .with(&format!(
            "[[destination]]\nname = \"events\"\ntype = \"file\"\npath = \"{}\"",
            sandbox.path("events").display()
        ));
    let gateway = Gateway::start(&setup).expecting(&EXPECTED);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 1_000)
        .with(&["--qos", "1", "--protocol", "mixed"])
        .start();
    gateway.wait_for(Duration::from_secs(30), "load", |now| {
        now.ledger.accepted > 1_000
    });

    let somebody_elses = disk.occupy();
    gateway.wait_for(Duration::from_secs(60), "a full disk", |now| now.store.full);
    let refused = gateway.status().ledger.accepted;
    fs::remove_file(somebody_elses).expect("it is ours");
    gateway.wait_for(
        Duration::from_secs(60),
        "devices to be let in again",
        |now| !now.store.full && now.ledger.accepted > refused,
    );

    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &sandbox.path("events"), &[]).assert_clean();
}

#[test]
fn drop_oldest_counts_every_event_that_it_drops() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let wire = ChaosProxy::to(nats.port);
    wire.set(Mode::Reset);
    let setup = Setup::new(&sandbox)
        .with("[store]\nsize_max = \"16MiB\"\nreserve = \"4MiB\"\non_full = \"drop-oldest\"")
        .to_nats("stream", wire.port, "TELEMETRY");
    let gateway = Gateway::start(&setup).expecting(&["stream", "evict", "full", "oldest"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 5_000)
        .with(&["--qos", "1", "--count", "150000"])
        .start();
    fleet.finish(Duration::from_secs(180));
    let full = gateway.status();
    full.assert_balanced();
    assert!(
        full.destination("stream").evicted > 0,
        "nothing was evicted: {full:#?}"
    );

    wire.set(Mode::Pass);
    let end = gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let stream = end.destination("stream");
    let arrived = nats.messages("TELEMETRY").expect("the stream is there");
    assert_eq!(
        arrived, stream.delivered,
        "what was counted as delivered is there"
    );
    assert_eq!(stream.routed, end.ledger.stored);
    let audit = Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]);
    assert_eq!(
        audit.count("lost"),
        stream.evicted,
        "only what was counted is missing"
    );
    assert_eq!(audit.count("duplicated"), 0);
}
