//! Nobody's queue is another's ruin.

use proptest::prelude::*;
use rusqlite::StatementStatus;

use super::{desk::Desk, *};
use crate::keep::{
    QueueFull, Refused,
    exchange::EXCHANGES_MAX,
    job::{Answer, Work},
    quota::{DROPS_IN_A_ROW, DROPS_MAX, OLDEST},
};

const TOTAL: u64 = 60_000;

#[test]
fn a_few_large_queues_do_not_starve_the_others() {
    for policy in [
        QueueFull::DropOldest,
        QueueFull::DropNewest,
        QueueFull::Refuse,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut desk = Desk::open(Config {
            queue_total_bytes_max: TOTAL,
            queue_full: policy,
            ..config(dir.path())
        });
        for hog in ["hog 1", "hog 2"] {
            desk.away(hog, hog);
        }
        for n in 0..100 {
            desk.publish(["hog 1", "hog 2"][n % 2], &"x".repeat(1_000), false);
        }
        assert!(desk.counters().queued_bytes.get() > TOTAL - 2_000);
        desk.away("small", "small");
        for n in 0..10 {
            let payload = format!("{n}{}", "x".repeat(500));
            assert!(desk.publish("small", &payload, false), "{policy:?}: {n}");
        }
        let small = desk.enter("small", None).unwrap();
        assert_eq!(small.dropped, 0, "{policy:?}");
        assert_eq!(texts(&small).len(), 10, "{policy:?}");
        let most = match policy {
            QueueFull::Refuse => TOTAL / 2 * 3,
            _ => TOTAL,
        };
        assert!(desk.counters().queued_bytes.get() <= most, "{policy:?}");
        // Beyond its share it is as anybody.
        let session = desk.enter("small", None).unwrap().session;
        desk.leave(session);
        let taken = (0..100).filter(|_| desk.publish("small", &"x".repeat(1_000), false));
        let taken = taken.count();
        assert_eq!(taken < 100, policy == QueueFull::Refuse, "{policy:?}");
        assert!(desk.counters().queued_bytes.get() <= most, "{policy:?}");
    }
}

#[test]
fn the_largest_queue_pays_with_its_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_total_bytes_max: TOTAL,
        ..config(dir.path())
    });
    for client in ["large", "medium"] {
        desk.away(client, client);
    }
    for n in 0..10 {
        desk.publish("medium", &format!("{n:01000}"), false);
    }
    for n in 0..200 {
        desk.publish("large", &format!("{n:01000}"), false);
    }
    let medium = desk.enter("medium", None).unwrap();
    assert_eq!((medium.dropped, texts(&medium).len()), (0, 10));
    let large = desk.enter("large", None).unwrap();
    let first = texts(&large)[0].parse::<u64>().unwrap();
    assert_eq!(first, large.dropped);
}

#[test]
fn a_member_of_a_share_that_ends_leaves_its_messages_to_the_others_also_where_all_is_full() {
    for policy in [
        QueueFull::DropOldest,
        QueueFull::DropNewest,
        QueueFull::Refuse,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut desk = Desk::open(Config {
            queue_total_bytes_max: TOTAL,
            queue_full: policy,
            ..config(dir.path())
        });
        for member in ["goes", "stays"] {
            desk.away(member, "$share/g/t");
        }
        desk.away("hog", "hog");
        // Larger than what is left of the total.
        let payloads: Vec<_> = (0..8).map(|n| format!("{n:01500}")).collect();
        for payload in &payloads {
            assert!(desk.publish("t", payload, false));
        }
        for _ in 0..100 {
            desk.publish("hog", &"x".repeat(1_000), false);
        }
        assert!(desk.counters().queued_bytes.get() > TOTAL - 2_000);
        drop(desk.ask(Work::Remove(Arc::from("goes"))));
        // What makes room empties what is left behind, too.
        desk.publish("hog", &"x".repeat(5_000), false);
        desk.idle();
        let stays = desk.enter("stays", None).unwrap();
        assert_eq!(stays.dropped, 0, "{policy:?}");
        let mut all = texts(&stays);
        all.sort_unstable();
        assert_eq!(all, payloads, "{policy:?}");
        assert_eq!(desk.count("SELECT count(*) FROM leftovers"), 0);
        assert!(desk.counters().queued_bytes.get() <= TOTAL, "{policy:?}");
    }
}

#[test]
fn one_user_has_not_all_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        sessions_per_user_max: 2,
        ..config(dir.path())
    });
    for client in ["a", "b"] {
        desk.enter(client, Some("eve")).unwrap();
        desk.enter(&format!("{client} of nobody"), None).unwrap();
    }
    let refused = Some(Refused::TooManyOfUser);
    assert_eq!(desk.enter("c", Some("eve")).err(), refused);
    assert_eq!(desk.enter("c", None).err(), refused);
    assert_eq!(
        desk.enter("a of nobody", Some("eve")).err(),
        refused,
        "what nobody owns is not a way around it"
    );
    assert!(desk.enter("a", Some("eve")).unwrap().present);
    assert!(!desk.enter("c", Some("bob")).unwrap().present);
}

#[test]
fn the_filters_of_sessions_that_are_away_have_a_bound_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let session = desk.enter("d", None).unwrap().session;
    let long = "x/".repeat(100);
    let mut full = false;
    for n in 0..2_000 {
        let turn = Turn {
            subscribe: vec![add(&format!("{n}/{long}"), QoS::AtLeastOnce)],
            ..Turn::default()
        };
        match desk.ask(Work::Turn(session, turn)).try_recv().unwrap() {
            Ok(_) => {}
            Err(refused) => {
                assert_eq!(refused, Refused::Full);
                full = true;
                break;
            }
        }
    }
    assert!(full, "{}", desk.writer.shared.weight());
    // What it has may still change, and what it ends makes room.
    let turn = |subscribe: &str, unsubscribe: &[String]| Turn {
        subscribe: vec![add(subscribe, QoS::ExactlyOnce)],
        unsubscribe: unsubscribe.iter().map(|one| Arc::from(&**one)).collect(),
        ..Turn::default()
    };
    let known = format!("0/{long}");
    let work = Work::Turn(session, turn(&known, &[]));
    assert!(desk.ask(work).try_recv().unwrap().is_ok());
    let ended = Turn {
        unsubscribe: vec![Arc::from(&*known)],
        ..Turn::default()
    };
    assert!(
        desk.ask(Work::Turn(session, ended))
            .try_recv()
            .unwrap()
            .is_ok()
    );
    let work = Work::Turn(session, turn("new/x", &[]));
    assert!(desk.ask(work).try_recv().unwrap().is_ok());
    drop(desk.ask(Work::Remove(Arc::from("d"))));
    assert_eq!(desk.writer.shared.weight(), 0);
}

#[test]
fn exchanges_that_are_never_released_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let session = desk.enter("d", None).unwrap().session;
    let max = u16::try_from(EXCHANGES_MAX).unwrap();
    let begin = |packet: u16| Work::Begin(session, vec![(packet, [7; 16])]);
    for packet in 1..=max {
        let begun = desk.ask(begin(packet)).try_recv().unwrap();
        assert!(matches!(begun, Ok(Answer::Done)), "{packet}");
    }
    drop(desk);
    let mut desk = Desk::open(config(dir.path()));
    let refused = desk.ask(begin(max + 1)).try_recv().unwrap();
    assert_eq!(refused.err(), Some(Refused::Full));
    let released = Turn {
        released: vec![(3, [7; 16])],
        ..Turn::default()
    };
    drop(desk.ask(Work::Turn(session, released)));
    let begun = desk.ask(begin(max + 1)).try_recv().unwrap();
    assert!(matches!(begun, Ok(Answer::Done)));
    let again = vec![(1, [7; 16]), (max + 1, [7; 16])];
    let begun = desk.ask(Work::Begin(session, again)).try_recv().unwrap();
    assert!(matches!(begun, Ok(Answer::Done)), "they are noted already");
}

#[test]
fn queues_that_have_nothing_to_drop_are_not_asked_for_every_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_total_bytes_max: TOTAL,
        ..config(dir.path())
    });
    // All that they have may have been sent.
    let clients: Vec<_> = (0..10).map(|n| format!("d{n}")).collect();
    let mut connected = Vec::new();
    for client in &clients {
        desk.away(client, client);
        connected.push(desk.enter(client, None).unwrap());
    }
    desk.away("away", "away");
    for n in 0..100 {
        desk.publish(&clients[n % 10], &"x".repeat(1_000), false);
    }
    let asked = |desk: &Desk| {
        let statement = desk.writer.sql(OLDEST).unwrap();
        statement.get_status(StatementStatus::Run)
    };
    let before = asked(&desk);
    for n in 0..100 {
        desk.publish(&clients[n % 10], &"x".repeat(1_000), false);
    }
    let more = asked(&desk) - before;
    assert!(more <= 10, "{more}");
    // A connection that ends has places again that may be dropped.
    let gone = connected.swap_remove(0);
    desk.leave(gone.session);
    for _ in 0..100 {
        assert!(desk.publish("away", &"x".repeat(500), false));
    }
    let gone = desk.enter(&clients[0], None).unwrap();
    assert!(texts(&gone).len() < 5 && gone.dropped > 0);
}

/// Where a dropped place frees little, because other queues have its message too.
#[test]
fn many_large_messages_do_not_cost_others_hundreds_of_places_each() {
    const MANY: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_total_bytes_max: 1_000_000,
        ..config(dir.path())
    });
    for n in 0..4 {
        desk.away(&format!("d{n}"), "all");
    }
    for _ in 0..4_000 {
        desk.publish("all", "x", false);
    }
    desk.away("large", "large");
    let op = Op {
        message: Some(desk.message("large", &"x".repeat(100_000), false)),
        from: None,
        exchange: None,
        by: None,
    };
    let before = desk.counters().dropped_kept_queue_full.get();
    drop(desk.ask(Work::Publish(vec![op; MANY])));
    let dropped = desk.counters().dropped_kept_queue_full.get() - before;
    // Their own, and for each a few, in turn.
    let most = DROPS_MAX + MANY * (DROPS_IN_A_ROW + 2);
    assert!(usize::try_from(dropped).unwrap() <= most, "{dropped}");
    assert!(dropped > 256);
    assert!(desk.counters().queued_bytes.get() <= 1_500_000);
}

#[test]
fn a_page_is_no_larger_than_what_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let session = desk.away("d", "t");
    for _ in 0..10 {
        assert!(desk.publish("t", &"x".repeat(1_000), false));
    }
    let lens = |desk: &mut Desk, bytes| {
        let page = desk.writer.read(session, 0, 256, bytes).unwrap();
        page.items.len()
    };
    assert_eq!(lens(&mut desk, 2_500), 2);
    assert_eq!(lens(&mut desk, 1), 1, "one always comes");
    assert_eq!(lens(&mut desk, 1 << 20), 10);
}

#[test]
fn a_session_has_a_number_of_its_own_also_after_the_file_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let before = desk.enter("a", None).unwrap();
    desk.enter("b", None).unwrap();
    desk.writer.replace_file().unwrap();
    assert!(before.feed.is_gone());
    let after = desk.enter("c", None).unwrap();
    assert!(after.session > before.session);
    assert_eq!(after.session.0, 3);
    let turn = Turn {
        done: vec![1],
        ..Turn::default()
    };
    let late = desk.ask(Work::Turn(before.session, turn)).try_recv();
    assert_eq!(late.unwrap().err(), Some(Refused::Gone));
}

/// What a message of so many bytes takes at most.
fn at_most(bytes: usize) -> u64 {
    bytes as u64 + 256
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn who_stays_below_a_fair_share_loses_nothing_whatever_others_do(
        policy in prop::sample::select(vec![
            QueueFull::DropOldest,
            QueueFull::DropNewest,
            QueueFull::Refuse,
        ]),
        // Hogs publish much, the others little.
        publishes in prop::collection::vec(
            prop_oneof![
                3 => (0..2_usize, 500..4_000_usize),
                1 => (2..4_usize, 1..900_usize),
            ],
            1..120,
        ),
    ) {
        const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
        let dir = tempfile::tempdir().unwrap();
        let mut desk = Desk::open(Config {
            queue_total_bytes_max: TOTAL,
            queue_full: policy,
            ..config(dir.path())
        });
        let sessions = CLIENTS.map(|client| desk.away(client, client));
        let mut published = [(0, 0); 4];
        for (client, bytes) in publishes {
            let (count, sum) = &mut published[client];
            *count += 1;
            *sum += at_most(bytes);
            let is_below = *sum <= TOTAL / 4;
            let taken = desk.publish(CLIENTS[client], &"x".repeat(bytes), false);
            prop_assert!(taken || policy == QueueFull::Refuse && !is_below);
            let most = if policy == QueueFull::Refuse { TOTAL / 2 * 3 } else { TOTAL };
            prop_assert!(desk.counters().queued_bytes.get() <= most);
            for (session, (count, sum)) in sessions.iter().zip(published) {
                let session = &desk.writer.state.sessions[session];
                if sum <= TOTAL / 4 {
                    prop_assert_eq!((session.row.dropped, session.count), (0, count));
                } else if policy != QueueFull::Refuse {
                    prop_assert_eq!(session.row.dropped + session.count, count);
                }
            }
        }
    }
}
