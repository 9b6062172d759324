//! Random work on commands, checked by a simple twin in memory, with crashes in between.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Place {
        device: usize,
        key: usize,
        qos: u8,
    },
    Sent {
        place: prop::sample::Index,
    },
    Reply {
        place: prop::sample::Index,
        done: bool,
    },
    Cancel {
        place: prop::sample::Index,
    },
    Pass {
        secs: i64,
    },
    Expire,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..2_usize, 0..6_usize, 0..2_u8)
            .prop_map(|(device, key, qos)| Action::Place { device, key, qos }),
        3 => place().prop_map(|place| Action::Sent { place }),
        3 => (place(), any::<bool>()).prop_map(|(place, done)| Action::Reply { place, done }),
        1 => place().prop_map(|place| Action::Cancel { place }),
        2 => (1..30_i64).prop_map(|secs| Action::Pass { secs }),
        2 => Just(Action::Expire),
        1 => Just(Action::Crash),
    ]
}

/// A command as the twin knows it.
#[derive(Debug, Clone)]
struct Twin {
    device: usize,
    key: usize,
    qos: u8,
    state: State,
    deadline: i64,
}

const NAMES: [&str; 2] = ["pump", "valve"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn commands_are_what_a_simple_twin_says_and_each_state_is_told_once(
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut desk = Desk::new();
            for name in NAMES {
                desk.create(json!({ "id": name }), None).await.expect("it is added");
            }
            let mut twins: BTreeMap<String, Twin> = BTreeMap::new();
            let mut order: Vec<String> = Vec::new();
            let mut told: BTreeMap<&'static str, usize> = BTreeMap::new();
            let mut now = 0_i64;
            for action in actions {
                match action {
                    Action::Place { device, key, qos } => {
                        let body = json!({ "qos": qos, "deadline_secs": 20 });
                        let placed = desk
                            .place(NAMES[device], body, Some(&format!("key-{key}")))
                            .await;
                        let known = twins
                            .iter()
                            .find(|(_, twin)| (twin.device, twin.key) == (device, key));
                        let open = |twin: &&Twin| twin.device == device && !twin.state.is_over();
                        match (known, placed) {
                            (Some((id, twin)), Ok(change)) => {
                                assert!(change.again && twin.qos == qos);
                                assert_eq!((&change.value.id, change.value.state), (id, twin.state));
                            }
                            (Some((_, twin)), Err(refusal)) => {
                                assert_eq!(refusal, Refusal::KeyReused);
                                assert_ne!(twin.qos, qos);
                            }
                            (None, Ok(change)) => {
                                assert!(!change.again);
                                assert!(twins.values().filter(open).count() < 5);
                                *told.entry(State::Queued.kind()).or_default() += 1;
                                order.push(change.value.id.clone());
                                let state = State::Queued;
                                let deadline = now + 20;
                                let twin = Twin { device, key, qos, state, deadline };
                                twins.insert(change.value.id, twin);
                            }
                            (None, Err(refusal)) => {
                                assert!(matches!(refusal, Refusal::TooMany(_)), "{refusal:?}");
                                assert_eq!(twins.values().filter(open).count(), 5);
                            }
                        }
                    }
                    Action::Sent { place } if !order.is_empty() => {
                        let id = place.get(&order);
                        desk.sent(&[id]).await;
                        let twin = twins.get_mut(id).expect("a twin");
                        if twin.state == State::Queued {
                            twin.state = State::Sent;
                            *told.entry(State::Sent.kind()).or_default() += 1;
                        }
                    }
                    Action::Reply { place, done } if !order.is_empty() => {
                        let id = place.get(&order);
                        let twin = twins.get_mut(id).expect("a twin");
                        let name = NAMES[twin.device];
                        let heard = desk.reply(name, id, name, done).await;
                        let ended = !twin.state.is_over();
                        assert_eq!(heard, Heard::Noted { ended });
                        if ended {
                            twin.state = if done { State::Acknowledged } else { State::Failed };
                            *told.entry(twin.state.kind()).or_default() += 1;
                        }
                    }
                    Action::Cancel { place } if !order.is_empty() => {
                        let id = place.get(&order);
                        let twin = twins.get_mut(id).expect("a twin");
                        let cancelled = desk.cancel(NAMES[twin.device], id).await;
                        match twin.state {
                            State::Queued => {
                                assert!(!cancelled.expect("it was not sent").again);
                                twin.state = State::Cancelled;
                                *told.entry(State::Cancelled.kind()).or_default() += 1;
                            }
                            State::Cancelled => assert!(cancelled.expect("it was").again),
                            _ => assert!(matches!(cancelled, Err(Refusal::Over(_)))),
                        }
                    }
                    Action::Pass { secs } => {
                        now += secs;
                        desk.pass(secs * 1_000);
                    }
                    Action::Expire => {
                        let count = desk.expire().await;
                        let due = twins
                            .values_mut()
                            .filter(|twin| !twin.state.is_over() && twin.deadline <= now);
                        let mut expired = 0;
                        for twin in due {
                            twin.state = State::Expired;
                            expired += 1;
                            *told.entry(State::Expired.kind()).or_default() += 1;
                        }
                        assert_eq!(count, expired);
                    }
                    Action::Crash => desk.crash().await,
                    Action::Sent { .. } | Action::Reply { .. } | Action::Cancel { .. } => {}
                }
            }
            for (id, twin) in &twins {
                assert_eq!(desk.command(NAMES[twin.device], id).state, twin.state);
            }
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            for (kind, _) in desk.told() {
                if kind.starts_with("penstock.command.") && kind != "penstock.command.late" {
                    *found.entry(kind).or_default() += 1;
                }
            }
            let told: BTreeMap<String, usize> =
                told.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
            assert_eq!(found, told);
            desk.end().await;
        });
    }
}
