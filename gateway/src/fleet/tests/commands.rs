//! Commands, one step after the other.

use super::*;

#[tokio::test]
async fn a_request_that_comes_again_is_answered_as_before_and_changes_nothing() {
    let mut desk = Desk::new();
    let pump = json!({ "id": "pump", "site": "hall" });
    let first = desk
        .create(pump.clone(), Some("k"))
        .await
        .expect("it is added");
    assert!(!first.again && first.value.version == 1);
    desk.crash().await;
    let again = desk
        .create(pump.clone(), Some("k"))
        .await
        .expect("it was added");
    assert!(again.again && again.value == first.value);
    let other = desk.create(json!({ "id": "pump" }), Some("k")).await;
    assert_eq!(other, Err(Refusal::KeyReused));
    let twice = desk.create(pump, None).await;
    assert!(matches!(twice, Err(Refusal::Exists(_))), "{twice:?}");

    let order = json!({ "payload": { "rpm": 900 }, "deadline_secs": 60 });
    let placed = desk
        .place("pump", order.clone(), Some("k"))
        .await
        .expect("it is placed");
    desk.crash().await;
    desk.pass(5_000);
    let again = desk
        .place("pump", order, Some("k"))
        .await
        .expect("it was placed");
    assert!(again.again && again.value.id == placed.value.id);
    let other = desk.place("pump", json!({ "payload": 1 }), Some("k")).await;
    assert_eq!(other, Err(Refusal::KeyReused));
    let nobody = desk.place("valve", json!({}), None).await;
    assert_eq!(nobody, Err(Refusal::no_device("valve")));
    assert_eq!(
        kinds(&desk.told()),
        ["penstock.device.created", "penstock.command.queued"]
    );
    desk.end().await;
}

#[tokio::test]
async fn only_the_device_answers_and_an_answer_ends_a_command_once() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    desk.create(json!({ "id": "valve", "user": "lorawan" }), None)
        .await
        .expect("it is added");
    let pump = desk
        .place("pump", json!({}), None)
        .await
        .expect("placed")
        .value;
    let valve = desk
        .place("valve", json!({}), None)
        .await
        .expect("placed")
        .value;
    desk.sent(&[&pump.id, &valve.id]).await;
    assert_eq!(
        desk.reply("pump", &pump.id, "valve", true).await,
        Heard::NotYours
    );
    assert_eq!(
        desk.reply("valve", &pump.id, "lorawan", true).await,
        Heard::Unknown
    );
    assert_eq!(
        desk.reply("valve", &valve.id, "valve", true).await,
        Heard::NotYours
    );
    assert_eq!(desk.command("pump", &pump.id).state, State::Sent);
    let noted = |ended| Heard::Noted { ended };
    assert_eq!(
        desk.reply("pump", &pump.id, "pump", true).await,
        noted(true)
    );
    assert_eq!(
        desk.reply("valve", &valve.id, "lorawan", false).await,
        noted(true)
    );
    // The same said again, or something else by then.
    assert_eq!(
        desk.reply("pump", &pump.id, "pump", false).await,
        noted(false)
    );
    let (pump, valve) = (
        desk.command("pump", &pump.id),
        desk.command("valve", &valve.id),
    );
    assert_eq!(
        (pump.state, pump.reply),
        (State::Acknowledged, Some(json!({ "said": true })))
    );
    assert_eq!(
        (valve.state, valve.reply),
        (State::Failed, Some(json!({ "said": false })))
    );

    // Faster than it was noted that it was sent.
    let fast = desk
        .place("pump", json!({}), None)
        .await
        .expect("placed")
        .value;
    assert_eq!(
        desk.reply("pump", &fast.id, "pump", true).await,
        noted(true)
    );
    desk.sent(&[&fast.id]).await;
    assert_eq!(desk.command("pump", &fast.id).state, State::Acknowledged);
    desk.end().await;
}

#[tokio::test]
async fn what_is_too_late_expires_and_is_no_longer_taken_back() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let order = |secs: u64| json!({ "deadline_secs": secs });
    let never = desk
        .place("pump", order(10), None)
        .await
        .expect("placed")
        .value;
    let sent = desk
        .place("pump", order(10), None)
        .await
        .expect("placed")
        .value;
    let later = desk
        .place("pump", order(20), None)
        .await
        .expect("placed")
        .value;
    desk.sent(&[&sent.id]).await;
    let refused = desk.cancel("pump", &sent.id).await;
    assert_eq!(
        refused,
        Err(Refusal::Over("the command is sent by now".to_owned()))
    );
    assert_eq!(desk.expire().await, 0);
    desk.pass(10_000);
    assert_eq!(desk.expire().await, 2);
    let (never, sent) = (
        desk.command("pump", &never.id),
        desk.command("pump", &sent.id),
    );
    assert_eq!((never.state, never.sent_ms), (State::Expired, None));
    assert_eq!((sent.state, sent.sent_ms.is_some()), (State::Expired, true));
    // An answer is kept, and the command stays expired.
    desk.pass(1_000);
    assert_eq!(
        desk.reply("pump", &sent.id, "pump", true).await,
        Heard::Noted { ended: false }
    );
    let sent = desk.command("pump", &sent.id);
    assert_eq!(sent.state, State::Expired);
    assert_eq!(sent.late_ms, sent.ended_ms.map(|ended| ended + 1_000));
    let cancelled = desk
        .cancel("pump", &later.id)
        .await
        .expect("it was not sent");
    assert_eq!(cancelled.value.state, State::Cancelled);
    assert!(desk.cancel("pump", &later.id).await.expect("it was").again);
    for (order, expect) in [
        (
            json!({ "deadline": "2020-01-01T00:00:00Z" }),
            "the deadline has passed",
        ),
        (
            json!({ "deadline_secs": 2_592_001 }),
            "the deadline is 2592000 seconds from now at most",
        ),
    ] {
        let refused = desk
            .place("pump", order, None)
            .await
            .expect_err("it is refused");
        assert_eq!(refused.to_string(), expect);
    }
    desk.end().await;
}

#[tokio::test]
async fn no_device_has_more_than_its_bound_and_what_is_over_is_forgotten() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(
            desk.place("pump", json!({}), None)
                .await
                .expect("placed")
                .value
                .id,
        );
    }
    let more = desk.place("pump", json!({}), None).await;
    assert!(matches!(more, Err(Refusal::TooMany(_))), "{more:?}");
    desk.cancel("pump", &ids[0]).await.expect("it was not sent");
    desk.place("pump", json!({}), None)
        .await
        .expect("there is room again");
    desk.pass(1_000);
    desk.cancel("pump", &ids[1]).await.expect("it was not sent");
    let trimmed = desk
        .edit(Trim {
            keep_ms: 500,
            more: 0,
        })
        .await;
    assert_eq!(trimmed.commands, 1);
    let trimmed = desk
        .edit(Trim {
            keep_ms: 500,
            more: 3,
        })
        .await;
    assert_eq!(trimmed.commands, 1, "what is open is never forgotten");
    desk.end().await;
}

#[tokio::test]
async fn what_is_nested_too_deep_to_be_read_again_is_not_written() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let deep = |levels: usize| {
        let text = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    for (levels, fits) in [(64, true), (65, false), (120, false)] {
        let placed = desk
            .place("pump", json!({ "payload": deep(levels) }), None)
            .await;
        assert_eq!(placed.is_ok(), fits, "{levels}: {placed:?}");
        if let Ok(placed) = placed {
            assert_eq!(desk.command("pump", &placed.value.id), placed.value);
        }
    }
    desk.end().await;
}

#[tokio::test]
async fn a_damaged_command_ends_at_its_deadline_and_its_key_makes_no_second_one() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let order = json!({ "deadline_secs": 10 });
    desk.place("pump", order.clone(), Some("k"))
        .await
        .expect("it is placed");
    let running = desk.running.take().expect("it runs");
    running.shutdown().await.expect("an orderly end");
    let database = rusqlite::Connection::open(desk.dir.path().join(store::DATABASE)).expect("it");
    database
        .execute("UPDATE commands SET checksum = checksum + 1", [])
        .expect("damaged");
    drop(database);
    desk.running = Some(open(desk.dir.path(), &desk.clock));
    let again = desk.place("pump", order.clone(), Some("k")).await;
    assert_eq!(again, Err(Refusal::KeyReused));
    // Nobody else is taken along.
    desk.place("pump", order, None).await.expect("it is placed");
    desk.pass(10_000);
    assert_eq!(desk.expire().await, 2);
    assert_eq!(desk.expire().await, 0);
    desk.end().await;
}

#[tokio::test]
async fn while_nobody_knows_the_time_no_command_is_taken_and_none_is_over_for_long() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let order = json!({ "deadline_secs": 10 });
    let placed = desk.place("pump", order.clone(), Some("k")).await;
    let placed = placed.expect("it is placed").value;
    let set = desk.clock.0.swap(1_000, SeqCst);
    let refused = desk.place("pump", order.clone(), None).await;
    assert!(matches!(refused, Err(Refusal::NotYet(_))), "{refused:?}");
    let again = desk.place("pump", order.clone(), Some("k")).await;
    assert!(again.expect("it was placed").again);
    assert_eq!(desk.expire().await, 0);
    let heard = desk.reply("pump", &placed.id, "pump", true).await;
    assert_eq!(heard, Heard::Noted { ended: true });
    desk.clock.0.store(set + 1_000, SeqCst);
    let trim = Trim {
        keep_ms: 60_000,
        more: 0,
    };
    assert_eq!(desk.edit(trim).await.commands, 0);
    let again = desk.place("pump", order, Some("k")).await;
    assert!(again.expect("it was placed").again, "the key is known");
    desk.end().await;
}

#[tokio::test]
async fn what_is_over_makes_room_and_a_reply_without_room_is_in_its_event_only() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let mut ids = Vec::new();
    for n in 0..4 {
        let order = json!({ "payload": "x".repeat(1_000) });
        let placed = desk.place("pump", order, Some(&format!("k{n}"))).await;
        ids.push(placed.expect("it is placed").value.id);
    }
    let bytes = |desk: &Desk| {
        let listing = desk.store().listing().expect("the journal is read");
        rows::bytes(listing.tables()).expect("a number")
    };
    let full = bytes(&desk);
    assert!((5_000..12_000).contains(&full), "{full}");
    desk.reply("pump", &ids[0], "pump", true).await;
    desk.is_full = true;
    desk.reply("pump", &ids[1], "pump", true).await;
    assert_eq!(
        desk.command("pump", &ids[1]).reply,
        Some(json!({ "left_out_bytes": 16 }))
    );
    let told = desk.bodies();
    assert_eq!(told.iter().filter(|body| body.contains("said")).count(), 2);
    // What was over a moment ago stays, so that a request that comes again finds it.
    assert_eq!(desk.edit(Press).await, Pressed::default());
    desk.pass(600_001);
    let before = bytes(&desk);
    let pressed = desk.edit(Press).await;
    assert_eq!((pressed.commands, pressed.requests), (2, 0));
    assert_eq!(bytes(&desk), before - pressed.bytes);
    // What is not over stays.
    assert_eq!(desk.edit(Press).await, Pressed::default());
    assert_eq!(desk.command("pump", &ids[2]).state, State::Queued);
    desk.end().await;
}

#[tokio::test]
async fn a_command_in_doubt_is_sent_where_it_may_come_twice_and_else_reported() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let mut ids = Vec::new();
    for qos in 0..3 {
        let placed = desk.place("pump", json!({ "qos": qos }), None).await;
        ids.push(placed.expect("it is placed").value.id);
    }
    let certain = desk.place("pump", json!({ "qos": 2 }), None).await;
    let certain = certain.expect("it is placed").value.id;
    desk.edit(Doubt(ids.clone())).await;
    // One of them is known to be in the device's queue.
    let handed = desk.place("pump", json!({ "qos": 2 }), None).await;
    let handed = handed.expect("it is placed").value.id;
    desk.edit(Doubt(vec![handed.clone()])).await;
    desk.sent(&[&handed]).await;
    let settle = || Settle {
        announce: Arc::new(Keep),
    };
    assert_eq!(desk.edit(settle()).await.commands, 3);
    assert_eq!(desk.edit(settle()).await.commands, 0);
    let states: Vec<State> = ids
        .iter()
        .map(|id| desk.command("pump", id).state)
        .collect();
    assert_eq!(states, [State::Queued, State::Queued, State::Failed]);
    assert_eq!(desk.command("pump", &certain).state, State::Queued);
    assert_eq!(desk.command("pump", &handed).state, State::Sent);
    let listing = desk.store().listing().expect("the journal is read");
    let queued = rows::queued(listing.tables(), "pump", 9).expect("they are read");
    assert_eq!(queued.len(), 3);
    let failed = desk.command("pump", &ids[2]);
    assert!(failed.reason.is_some_and(|why| why.contains("damaged")));
    let told = desk.told();
    assert_eq!(kinds(&told).last(), Some(&"penstock.command.failed"));
    desk.end().await;
}

/// Puts commands in doubt, as a salvage does.
#[derive(Debug)]
struct Doubt(Vec<String>);

impl Edit for Doubt {
    type Answer = ();

    fn apply(
        &self,
        tables: &rusqlite::Connection,
        _now: Timestamp,
    ) -> rusqlite::Result<store::Edited<()>> {
        for id in &self.0 {
            tables.execute("UPDATE commands SET phase = 3 WHERE id = ?1", [id])?;
        }
        Ok(store::Edited::change((), Vec::new()))
    }

    fn cost_bytes(&self) -> usize {
        0
    }
}

#[tokio::test]
async fn a_command_in_doubt_is_not_over_holds_up_later_ones_and_ends_with_its_device() {
    let mut desk = Desk::new();
    desk.config.open_per_device_max = 2;
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let mut ids = Vec::new();
    for qos in [2, 1] {
        let placed = desk.place("pump", json!({ "qos": qos }), None).await;
        ids.push(placed.expect("it is placed").value.id);
    }
    desk.edit(Doubt(vec![ids[0].clone()])).await;
    let listing = desk.store().listing().expect("the journal is read");
    let wanted = Commands {
        device: "pump".to_owned(),
        state: Some(State::Queued),
        before: 0,
        limit: 9,
    };
    let (listed, _) = rows::commands(listing.tables(), &wanted).expect("they are read");
    assert_eq!(listed.len(), 2);
    let queued = rows::queued(listing.tables(), "pump", 9).expect("they are read");
    assert_eq!(queued, [], "what was placed before is not settled");
    drop(listing);
    let more = desk.place("pump", json!({}), None).await;
    assert!(matches!(more, Err(Refusal::TooMany(_))), "{more:?}");
    let cancelled = desk.cancel("pump", &ids[0]).await;
    assert!(
        matches!(cancelled, Err(Refusal::NotYet(_))),
        "{cancelled:?}"
    );
    let remove = Remove::new("pump", None, asked(None), Arc::new(Keep));
    let removed = desk.edit(remove).await.expect("it is removed");
    assert_eq!(removed.value.commands, 2);
    let states = ids.iter().map(|id| desk.command("pump", id).state);
    assert_eq!(
        states.collect::<Vec<_>>(),
        [State::Expired, State::Cancelled]
    );
    let announce = Arc::new(Keep);
    assert_eq!(desk.edit(Settle { announce }).await.commands, 0);
    desk.end().await;
}
