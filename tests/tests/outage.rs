//! A destination that is away delays events and loses none; memory stays as it was.

use std::time::{Duration, Instant};

use penstock_tests::{
    Audit, ChaosProxy, Gateway, HttpReceiver, Mode, NatsServer, Sandbox, Setup, Sim, seed,
    status::Status, wait,
};

const OUTAGE: Duration = Duration::from_secs(60);
/// Idempotency keys of the outage's events, page caches, and what an allocator keeps. The
/// backlog itself, some hundred thousand events, must not be in it.
const MEMORY_SLACK: u64 = 48 << 20;

fn backlog(status: &Status) -> u64 {
    status.destination("stream").backlog + status.destination("lake").backlog
}

#[test]
fn a_minute_without_destinations_loses_nothing_and_drains_while_load_goes_on() {
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let receiver = HttpReceiver::start(&sandbox);
    let (to_nats, to_receiver) = (ChaosProxy::to(nats.port), ChaosProxy::to(receiver.port));
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .to_nats("stream", to_nats.port, "TELEMETRY")
        .to_http("lake", &format!("http://127.0.0.1:{}/", to_receiver.port));
    let mut gateway = Gateway::start(&setup).expecting(&["stream", "lake"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        // What a checked build drains faster than, also on a slow machine.
        .load(40, 1_000)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .start();
    gateway.wait_for(
        Duration::from_secs(30),
        "events at both destinations",
        |now| {
            now.destination("stream").delivered > 5_000 && now.destination("lake").delivered > 5_000
        },
    );

    // First nobody is there, then bytes vanish, then replies do.
    let resident_before = gateway.process().resident_bytes();
    let mut resident_most = resident_before;
    let began = Instant::now();
    for (share, nats_mode, receiver_mode) in [
        (1, Mode::Reset, Mode::BlackHole),
        (2, Mode::BlackHole, Mode::Reset),
        (3, Mode::LoseReplies, Mode::LoseReplies),
    ] {
        to_nats.set(nats_mode);
        to_receiver.set(receiver_mode);
        while began.elapsed() < OUTAGE * share / 3 {
            resident_most = resident_most.max(gateway.process().resident_bytes());
            wait::pass(Duration::from_millis(250));
        }
    }
    let away = gateway.status();
    away.assert_balanced();
    assert!(
        backlog(&away) > 10_000,
        "the outage left no backlog: {away:#?}"
    );
    assert!(
        away.destination("events").backlog < 5_000,
        "one waits for another: {away:#?}"
    );

    to_nats.set(Mode::Pass);
    to_receiver.set(Mode::Pass);
    // That it shrinks to nothing while load goes on shows that it drains faster than it
    // grows; how fast is for the bench, in a release build on a quiet machine.
    let caught_up = gateway.wait_for(Duration::from_secs(180), "the backlog to be gone", |now| {
        backlog(now) < backlog(&away) / 20
    });
    resident_most = resident_most.max(gateway.process().resident_bytes());
    assert!(
        caught_up.ledger.accepted > away.ledger.accepted,
        "nothing came in while the backlog went out: that shows nothing"
    );
    println!(
        "backlog {} at the end of the outage; {} more came in until it was {}; \
         resident {} MiB before, {} MiB at most",
        backlog(&away),
        caught_up.ledger.accepted - away.ledger.accepted,
        backlog(&caught_up),
        resident_before >> 20,
        resident_most >> 20
    );
    assert!(
        resident_most < resident_before + MEMORY_SLACK,
        "memory went from {resident_before} to {resident_most} bytes"
    );

    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
    Audit::nats(&sandbox, &fleet, &nats, "TELEMETRY", &[]).assert_clean();
    // Without replies nobody knows what the receiver has, and this one dedupes nothing.
    Audit::files(&sandbox, &fleet, receiver.dir(), &["--allow-duplicates"]).assert_clean();
}

/// Of three destinations one is away from the first event to the last.
#[test]
fn one_of_three_destinations_is_away_for_the_whole_run_and_holds_up_nobody() {
    /// Events between two looks at memory: a backlog that was in it would show.
    const PART: u64 = 15_000;
    const PARTS: u64 = 4;

    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let (near, far) = (HttpReceiver::start(&sandbox), HttpReceiver::start(&sandbox));
    let to_far = ChaosProxy::to(far.port);
    to_far.set(Mode::Reset);
    let url = |port: u16| format!("http://127.0.0.1:{port}/");
    let setup = Setup::new(&sandbox)
        .to_file("events")
        .to_http("near", &url(near.port))
        .to_http("far", &url(to_far.port));
    let mut gateway = Gateway::start(&setup).expecting(&["far"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(40, 2_000)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .start();
    let mut resident = Vec::new();
    for part in 1..=PARTS {
        let now = gateway.wait_for(
            Duration::from_secs(120),
            "the next events at the two that are there",
            |now| {
                let has = |name: &str| now.destination(name).delivered >= part * PART;
                has("events") && has("near")
            },
        );
        assert_eq!(now.destination("far").delivered, 0);
        assert!(now.destination("far").backlog >= part * PART);
        resident.push(gateway.process().resident_bytes());
    }
    println!("resident after each {PART} events: {resident:?}");
    assert!(
        resident[3] < resident[0] + MEMORY_SLACK,
        "memory grew with the backlog: {resident:?}"
    );
    fleet.stop(Duration::from_secs(60));
    let there = gateway.wait_for(
        Duration::from_secs(60),
        "all of it at the two that are there",
        |now| now.destination("events").backlog == 0 && now.destination("near").backlog == 0,
    );
    there.assert_balanced();
    assert_eq!(
        there.destination("far").backlog,
        there.destination("far").routed
    );
    // Nothing of what it did not get is lost, whatever becomes of the gateway.
    gateway.kill();
    gateway.start_again();
    let again = gateway.status();
    assert_eq!(
        again.destination("far").backlog,
        there.destination("far").backlog
    );
    to_far.set(Mode::Pass);
    gateway.wait_until_drained(Duration::from_secs(180));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
    // A request that was under way when the gateway was killed may have been done.
    let may_repeat = &["--allow-duplicates"];
    Audit::files(&sandbox, &fleet, near.dir(), may_repeat).assert_clean();
    Audit::files(&sandbox, &fleet, far.dir(), may_repeat).assert_clean();
}
