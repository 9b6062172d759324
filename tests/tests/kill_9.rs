//! An acknowledged message survives `kill -9` of the gateway at any moment, and arrives once.

use std::time::Duration;

use penstock_tests::{
    Audit, Gateway, NatsServer, Sandbox, Setup, Sim, seed, sim::Fleet, turns, wait,
};
use rand::{RngExt as _, rngs::StdRng};

const KILLS: usize = 20;
/// What a fleet does that makes exactly-once hard: sends twice, drops off, goes away for a
/// while and comes back with what it could not send; and now and then sends nonsense.
const CHAOS: &str = "duplicates=0.02,malformed=0.001,disconnect=0.0005,offline=0.00005,skew=5s";

/// Waits until the gateway takes something new, then for a random moment after that.
fn a_moment_under_load(gateway: &Gateway, rng: &mut StdRng) {
    let before = gateway.status().ledger.accepted;
    gateway.wait_for(Duration::from_secs(30), "load", |now| {
        now.ledger.accepted > before
    });
    wait::pass(Duration::from_millis(rng.random_range(0..1_500)));
}

/// Load until it is told to stop.
fn load(sandbox: &Sandbox, setup: &Setup, seed: u64) -> Fleet {
    Sim::new(sandbox, "fleet", setup.mqtt, seed)
        .load(50, 8_000)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .with(&[
            "--profile",
            "mixed",
            "--identity",
            "mixed",
            "--chaos",
            CHAOS,
        ])
        .start()
}

/// What could not be decoded was acknowledged too: all of it is in quarantine.
#[track_caller]
fn nonsense_is_kept(gateway: &Gateway, report: &serde_json::Value) {
    let sent = report["malformed"].as_u64().expect("a count");
    let kept = gateway.status().store.in_quarantine;
    assert!(sent > 0, "the fleet sent no nonsense");
    assert!(kept >= sent, "{sent} malformed, {kept} in quarantine");
}

#[test]
fn nothing_is_lost_or_doubled_when_the_gateway_is_killed_twenty_times_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .to_nats("stream", nats.port, "TELEMETRY");
    let mut gateway = Gateway::start(&setup);
    let mut fleet = load(&sandbox, &setup, seed);

    for kill in 1..=KILLS {
        a_moment_under_load(&gateway, &mut rng);
        assert!(
            fleet.process().ended().is_none(),
            "the load ended before kill {kill}"
        );
        gateway.kill();
        gateway.start_again();
    }

    let report = fleet.stop(Duration::from_secs(120));
    println!("the fleet: {report}");
    gateway.wait_until_drained(Duration::from_secs(60));
    nonsense_is_kept(&gateway, &report);
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
    Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]).assert_clean();
}

#[test]
fn nothing_is_lost_or_doubled_when_gateway_and_stream_service_are_killed_in_turns() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .to_nats("stream", nats.port, "TELEMETRY");
    // The stream service is away for a while: the gateway says so.
    let mut gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = load(&sandbox, &setup, seed);

    for _ in 0..5 {
        // The stream service dies first and is away while the gateway dies, too.
        a_moment_under_load(&gateway, &mut rng);
        nats.kill();
        a_moment_under_load(&gateway, &mut rng);
        gateway.kill();
        gateway.start_again();
        a_moment_under_load(&gateway, &mut rng);
        nats.start_again();
        // The gateway dies in the middle of the backlog.
        a_moment_under_load(&gateway, &mut rng);
        gateway.kill();
        gateway.start_again();
    }

    let report = fleet.stop(Duration::from_secs(120));
    println!("the fleet: {report}");
    gateway.wait_until_drained(Duration::from_secs(60));
    nonsense_is_kept(&gateway, &report);
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
    Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]).assert_clean();
}
