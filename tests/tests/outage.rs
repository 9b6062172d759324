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
        .load(40, 2_000)
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
