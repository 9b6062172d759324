//! An orderly end loses nothing and keeps to its time.

use std::time::Duration;

use penstock_tests::{Audit, Gateway, NatsServer, Sandbox, Setup, Sim, seed, turns};

#[test]
fn an_orderly_end_under_load_loses_nothing_and_exits_with_success() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .to_nats("stream", nats.port, "TELEMETRY");
    let mut gateway = Gateway::start(&setup);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(50, 5_000)
        .with(&[
            "--qos",
            "1",
            "--protocol",
            "mixed",
            "--chaos",
            "duplicates=0.02",
        ])
        .start();
    for _ in 0..3 {
        let before = gateway.status().ledger.accepted;
        gateway.wait_for(Duration::from_secs(30), "load", |now| {
            now.ledger.accepted > before + 5_000
        });
        gateway.stop();
        gateway.start_again();
    }
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
    Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]).assert_clean();
}

#[test]
fn an_absent_destination_does_not_hold_up_an_orderly_end() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let absent = penstock_tests::ports::free();
    let setup = Setup::new(&sandbox).to_http("lake", &format!("http://127.0.0.1:{absent}/"));
    let mut gateway = Gateway::start(&setup).expecting(&["lake"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(10, 1_000)
        .with(&["--qos", "1", "--count", "2000"])
        .start();
    fleet.finish(Duration::from_secs(60));
    let before = gateway.status();
    before.assert_balanced();
    gateway.stop();
    gateway.start_again();
    let after = gateway.status();
    after.assert_balanced();
    assert_eq!(
        after.destination("lake").backlog,
        before.destination("lake").backlog
    );
    assert_eq!(after.ledger.accepted, before.ledger.accepted);
    gateway.finish();
}
