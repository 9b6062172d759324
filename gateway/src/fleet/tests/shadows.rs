//! What a device should be and says that it is.

use super::*;

#[tokio::test]
async fn a_shadow_is_changed_by_versions_and_told_until_that_is_noted() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let desire = |desk: &Desk, patch: Value, version| {
        let desire = Desire::new(
            "pump",
            members(patch),
            version,
            64,
            asked(None),
            Arc::new(Keep),
        );
        let store = desk.store();
        async move { store.edit(desire).await.expect("there is room") }
    };
    let untold = |desk: &Desk| {
        let listing = desk.store().listing().expect("the journal is read");
        rows::untold(listing.tables(), 10).expect("it is read")
    };
    let first = desire(&desk, json!({ "rpm": 900, "mode": "auto" }), Some(0)).await;
    assert_eq!(first.expect("it is changed").value.version, 1);
    let late = desire(&desk, json!({ "rpm": 1 }), Some(0)).await;
    assert_eq!(late, Err(Refusal::Version { has: 1 }));
    let large = desire(&desk, json!({ "text": "x".repeat(64) }), None).await;
    assert!(matches!(large, Err(Refusal::Invalid(_))), "{large:?}");
    let before = untold(&desk).pop().expect("it was not told");
    desire(&desk, json!({ "rpm": 950 }), None)
        .await
        .expect("it is changed");
    // What was told meanwhile is not all of it.
    desk.edit(Told { shadow: before }).await;
    desk.crash().await;
    let now = untold(&desk).pop().expect("it was not told");
    assert_eq!(
        (now.version, now.told()["delta"]["rpm"].as_u64()),
        (2, Some(950))
    );
    desk.edit(Told { shadow: now }).await;
    assert_eq!(untold(&desk), []);

    let report = |user: &str, patch: Value| Report {
        device: "pump".to_owned(),
        client_id: "x".into(),
        user: Some(user.into()),
        patch: members(patch),
        bytes_max: 64,
        is_full: false,
        turn: None,
        announce: Arc::new(Keep),
    };
    let taken = desk.edit(report("thief", json!({ "rpm": 1 }))).await;
    assert_eq!(taken, Taken::Heard(Heard::NotYours));
    let taken = desk
        .edit(report("pump", json!({ "rpm": 950, "heat": 40 })))
        .await;
    assert_eq!(taken, Taken::Heard(Heard::Noted { ended: false }));
    let listing = desk.store().listing().expect("the journal is read");
    let pump = device(listing.tables(), "pump")
        .expect("read")
        .expect("there");
    let shadow = shadow_of(listing.tables(), &pump).expect("read");
    assert_eq!((shadow.version, shadow.reported_version), (2, 1));
    assert_eq!(json!(shadow.delta()), json!({ "mode": "auto" }));
    // The delta is another one, so it is told again; what does not change it is not told.
    let now = untold(&desk).pop().expect("the delta was not told");
    desk.edit(Told { shadow: now }).await;
    desk.edit(report("pump", json!({ "heat": 41 }))).await;
    assert_eq!(untold(&desk), []);
    // Without room it may change, and become smaller, and not grow.
    for (patch, taken) in [
        (json!({ "more": 1 }), Taken::NoRoom),
        (
            json!({ "heat": 40 }),
            Taken::Heard(Heard::Noted { ended: false }),
        ),
        (
            json!({ "heat": null }),
            Taken::Heard(Heard::Noted { ended: false }),
        ),
    ] {
        let full = Report {
            is_full: true,
            ..report("pump", patch)
        };
        assert_eq!(desk.edit(full).await, taken);
    }
    assert_eq!(untold(&desk), []);

    let remove = Remove::new("pump", None, asked(None), Arc::new(Keep));
    desk.edit(remove).await.expect("it is removed");
    let gone = untold(&desk).pop().expect("it is to be forgotten");
    assert!(gone.is_gone);
    desk.edit(Told { shadow: gone }).await;
    assert_eq!(untold(&desk), []);
    desk.end().await;
}
