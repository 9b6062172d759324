//! Every kind of destination at once, and everything that a kill and a wire can do to each:
//! what was acknowledged to a device arrives, and where docs/delivery.md says so once and in
//! order.

use std::{
    fs,
    time::{Duration, Instant},
};

use penstock_tests::{
    Everywhere, Gateway, Numbered, Sandbox, Setup,
    disk::FrozenDisk,
    everywhere::{DESTINATIONS, PATIENCE},
    seed, turns, wait,
    wire::{Fault, Then},
};
use rand::{RngExt as _, seq::SliceRandom as _};
use rustix::process::Signal;

const KILLS: u32 = 50;
/// Of the kills those that have to be between sending and the answer.
const HELD_MIN: usize = 45;
const DEVICES: u64 = 5;
const LONG: Duration = Duration::from_secs(120);

/// Every other time, what is held is not the answer to the events but that to what makes
/// them count.
fn then(destination: &str) -> Option<Then> {
    match destination {
        // EndTxn of Kafka's protocol, behind the length of the request.
        "kafka-transactions" => Some(|chunk| chunk.get(4..6) == Some(&[0, 26])),
        "eventbridge" => Some(|chunk| {
            let asked = b"DescribeEventBus";
            chunk.windows(asked.len()).any(|window| window == asked)
        }),
        _ => None,
    }
}

#[test]
fn killed_fifty_times_before_any_answer_every_destination_has_what_it_was_promised() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let Some(everywhere) = Everywhere::start(&sandbox) else {
        return;
    };
    let names = DESTINATIONS.map(|(name, _)| name);
    let mut gateway = Gateway::start(&everywhere.setup).expecting(&names);
    let mut numbered = Numbered::new(&everywhere.setup, DEVICES);
    let mut held = vec![0_usize; everywhere.wires.len()];
    let began = Instant::now();
    for turn in 0..KILLS {
        let mark = format!("turn-{turn:04}");
        for (name, wire) in &everywhere.wires {
            wire.hold(&mark, then(name).filter(|_| turn % 2 == 1));
        }
        // What is sent before the marked one may be answered, and what is sent after it not.
        let marked = rng.random_range(0..8);
        for place in 0..8 {
            numbered.publish(if place == marked { &mark } else { "plain" });
        }
        numbered.wait_for_acks();
        let deadline = Instant::now() + Duration::from_secs(20);
        let all_held = || everywhere.wires.iter().all(|(_, wire)| wire.is_held());
        while !all_held() && Instant::now() < deadline {
            wait::pass(Duration::from_millis(10));
        }
        for (held, (_, wire)) in held.iter_mut().zip(&everywhere.wires) {
            *held += usize::from(wire.is_held());
        }
        // The disk, which nobody can hold, is in the middle of these.
        for _ in 0..rng.random_range(0..20) {
            numbered.publish("burst");
        }
        wait::pass(Duration::from_micros(rng.random_range(0..5_000)));
        gateway.kill();
        numbered.lost_the_connection();
        for (_, wire) in &everywhere.wires {
            wire.release();
        }
        gateway.start_again();
        // Otherwise what goes again is in one batch with what comes next.
        if rng.random() {
            gateway.wait_until_drained(LONG);
        }
    }
    println!("{KILLS} kills in {:?}; held by then:", began.elapsed());
    for (held, (name, _)) in held.iter().zip(&everywhere.wires) {
        println!("{name:20} {held:3}");
    }
    let status = gateway.wait_until_drained(LONG);
    gateway.finish();
    for (name, found) in everywhere.audit(&sandbox, &numbered, &status, true) {
        if ["http", "kafka", "kinesis", "eventbridge"].contains(&name) {
            assert!(found.copies() > HELD_MIN, "{name}: nothing went twice");
        }
    }
    for (name, refused) in everywhere.refused() {
        assert!(refused > HELD_MIN as u64, "{name}: nothing went twice");
    }
    for (held, (name, _)) in held.iter().zip(&everywhere.wires) {
        assert!(
            *held >= HELD_MIN,
            "{name}: killed before an answer only {held} times"
        );
    }
    everywhere.finish();
}

#[test]
fn whatever_the_wire_does_and_when_every_destination_has_what_it_was_promised() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let Some(everywhere) = Everywhere::start(&sandbox) else {
        return;
    };
    let names = DESTINATIONS.map(|(name, _)| name);
    let gateway = Gateway::start(&everywhere.setup).expecting(&names);
    let mut numbered = Numbered::new(&everywhere.setup, DEVICES);
    let faults = Fault::every(PATIENCE);
    for (_, wire) in &everywhere.wires {
        let mut plan = faults.clone();
        plan.shuffle(&mut rng);
        wire.plan("marked", plan);
    }
    let began = Instant::now();
    let doing = || -> Vec<String> {
        let wires = everywhere.wires.iter();
        wires
            .filter_map(|(name, wire)| Some(format!("{name} {}: {}", wire.struck(), wire.doing()?)))
            .collect()
    };
    while !doing().is_empty() {
        assert!(began.elapsed() < LONG * 2, "{:#?}", doing());
        for _ in 0..rng.random_range(1..10) {
            numbered.publish("marked");
        }
        numbered.wait_for_acks();
        wait::pass(Duration::from_millis(100));
    }
    println!(
        "{} faults at each of {} wires in {:?}",
        faults.len(),
        everywhere.wires.len(),
        began.elapsed()
    );
    let status = gateway.wait_until_drained(LONG);
    gateway.finish();
    for (name, wire) in &everywhere.wires {
        assert_eq!(wire.struck(), faults.len(), "{name}");
    }
    for (name, found) in everywhere.audit(&sandbox, &numbered, &status, false) {
        if ["http", "kinesis", "eventbridge"].contains(&name) {
            assert!(found.copies() > 0, "{name}: no answer was lost");
        }
    }
    everywhere.finish();
}

/// Publishes, and waits until all of it is at the destination that works.
fn fifty_more(numbered: &mut Numbered, gateway: &Gateway) {
    for _ in 0..50 {
        numbered.publish("plain");
    }
    numbered.wait_for_acks();
    let count = numbered.published();
    gateway.wait_for(LONG, "all of it nearby", |now| {
        now.destination("near").delivered == count
    });
}

/// A disk of its own: on that of the journal nobody would hear of anything.
#[test]
fn a_disk_that_is_full_or_hangs_holds_up_its_own_destination_and_no_event_is_lost() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(disk) = FrozenDisk::mount(&sandbox.path("disk"), 16) else {
        return;
    };
    let lake = disk.dir().join("lake");
    let setup = Setup::new(&sandbox).to_file("near").with(&format!(
        "[[destination]]\nname = \"lake\"\ntype = \"file\"\nretry_max = \"1s\"\npath = \"{}\"",
        lake.display()
    ));
    let mut gateway = Gateway::start(&setup).expecting(&["lake"]);
    let mut numbered = Numbered::new(&setup, DEVICES);
    fifty_more(&mut numbered, &gateway);
    gateway.wait_until_drained(LONG);

    let somebody_elses = disk.occupy();
    fifty_more(&mut numbered, &gateway);
    gateway.wait_for(LONG, "a full disk to be said", |now| {
        let error = now.destination("lake").error.as_deref();
        error.is_some_and(|error| error.contains("space"))
    });
    // The last page of a file that is there has some room.
    assert!(gateway.status().destination("lake").backlog > 30);
    fs::remove_file(somebody_elses).expect("it is ours");
    gateway.wait_until_drained(LONG);

    let frozen = disk.freeze();
    fifty_more(&mut numbered, &gateway);
    fifty_more(&mut numbered, &gateway);
    assert_eq!(gateway.status().destination("lake").backlog, 100);
    drop(frozen);
    gateway.wait_until_drained(LONG);

    for _ in 0..10 {
        let frozen = disk.freeze();
        fifty_more(&mut numbered, &gateway);
        // It dies when the disk lets go of it, in the middle of its writing.
        gateway.process().signal(Signal::KILL);
        drop(frozen);
        gateway.process().kill();
        numbered.lost_the_connection();
        gateway.start_again();
    }
    let end = gateway.wait_until_drained(LONG);
    assert!(end.destinations.iter().all(|one| one.dead == 0));
    gateway.finish();
    let found = numbered.found("lake", &lake, "eventkey");
    assert_eq!((found.copies(), found.late), (0, 0));
    assert_eq!(found.arrived, 700);
}
