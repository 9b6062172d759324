//! A damaged journal never stops the gateway: it starts, says what is lost, and keeps the rest.

use std::time::Duration;

use penstock_tests::{
    Audit, ChaosProxy, Gateway, Mode, NatsServer, Sandbox, Setup, Sim, damage, seed, sim::Fleet,
    turns,
};
use rand::rngs::StdRng;

/// Events that wait when the damage is done.
const WAITING: u64 = 30_000;
/// The first page and the roots of the tables are near the beginning of the file.
const PAGE: u64 = 4_096;

/// How the gateway ends before the damage.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Orderly,
    Killed,
}

/// Fills the journal, ends the gateway, does the damage, and checks that only what is
/// counted as damaged is missing in the end, and not more than `lost_max`.
#[track_caller]
fn survives(end: End, set_aside: bool, lost_max: u64, harm: impl FnOnce(&Setup, &mut StdRng)) {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let wire = ChaosProxy::to(nats.port);
    let setup = Setup::new(&sandbox).to_nats("stream", wire.port, "TELEMETRY");
    let mut gateway = Gateway::start(&setup).expecting(&[
        "stream",
        "damage",
        "set aside",
        "salvag",
        "missing from the journal",
    ]);
    wire.set(Mode::Reset);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 0)
        .with(&[
            "--qos",
            "1",
            "--protocol",
            "mixed",
            "--count",
            &WAITING.to_string(),
        ])
        .start();
    fleet.finish(Duration::from_secs(120));
    match end {
        End::Orderly => gateway.stop(),
        End::Killed => gateway.kill(),
    }
    harm(&setup, &mut rng);

    gateway.start_again();
    let found = gateway.status();
    found.assert_balanced();
    if set_aside {
        assert!(
            !found.store.set_aside.is_empty(),
            "no damaged file was set aside: {found:#?}"
        );
    }
    // It works as before.
    let mut second = Sim::new(&sandbox, "second", setup.mqtt, seed)
        .load(20, 2_000)
        .with(&["--qos", "1", "--count", "2000", "--prefix", "second-"])
        .start();
    second.finish(Duration::from_secs(60));
    wire.set(Mode::Pass);
    let end = gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();

    let damaged = end.destination("stream").damaged;
    let audit = |of: &Fleet, and: &Fleet| {
        let and = and.ack_log().display().to_string();
        Audit::nats(&sandbox, of, &nats, "TELEMETRY", &["--ack-log", &and])
    };
    let both = audit(&fleet, &second);
    let lost = both.count("lost");
    assert!(
        lost <= damaged,
        "{lost} events are missing, and only {damaged} are counted"
    );
    assert!(
        lost <= lost_max,
        "{lost} of {WAITING} events are missing, which is too many"
    );
    assert_eq!((both.count("duplicated"), both.count("phantom")), (0, 0));
    let second = Audit::nats(&sandbox, &second, &nats, "TELEMETRY", &[]);
    assert_eq!(
        second.count("lost"),
        0,
        "what came after the damage is whole"
    );
}

fn journal(setup: &Setup) -> std::path::PathBuf {
    setup.data().join("journal.db")
}

#[test]
fn a_journal_with_flipped_bytes_gives_what_can_be_read() {
    // A hundred pages of some two thousand, and what hangs on them.
    survives(End::Orderly, false, WAITING / 2, |setup, rng| {
        damage::flip_bytes(&journal(setup), PAGE, 100, rng);
    });
}

#[test]
fn a_journal_that_was_cut_in_half_is_set_aside_and_salvaged() {
    survives(End::Orderly, true, WAITING * 3 / 4, |setup, _| {
        damage::cut(&journal(setup), 50);
    });
}

#[test]
fn a_journal_without_its_first_page_is_set_aside_and_salvaged() {
    // No row of ours lies on it.
    survives(End::Orderly, true, 0, |setup, _| {
        damage::blank(&journal(setup), 0, 4_096)
    });
}

#[test]
fn a_damaged_write_ahead_log_is_noticed() {
    // SQLite ends its log where the damage begins; most of what comes after is found all the same.
    survives(End::Killed, false, WAITING / 10, |setup, rng| {
        damage::flip_bytes(&setup.data().join("journal.db-wal"), 32, 20, rng);
    });
}
