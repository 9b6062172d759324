//! Devices come, change and go.

use super::*;

#[tokio::test]
async fn a_device_is_changed_by_whoever_has_seen_what_is_there() {
    let desk = Desk::new();
    let pump = json!({ "id": "pump", "tags": { "line": "3", "old": "yes" } });
    desk.create(pump, None).await.expect("it is added");
    let update = |patch: Value, version| {
        let changes = Changes::Merge(members(patch));
        desk.edit(Update::new(
            "pump",
            changes,
            version,
            asked(None),
            Arc::new(Keep),
        ))
    };
    let changed = update(json!({ "site": "hall", "tags": { "old": null } }), Some(1)).await;
    let changed = changed.expect("it is changed").value;
    assert_eq!(
        (changed.version, changed.fields.site.as_deref()),
        (2, Some("hall"))
    );
    assert_eq!(json!(changed.fields.tags), json!({ "line": "3" }));
    let late = update(json!({ "site": "yard" }), Some(1)).await;
    assert_eq!(late, Err(Refusal::Version { has: 2 }));
    // What changes nothing is no change.
    let same = update(json!({ "site": "hall" }), None)
        .await
        .expect("it is so");
    assert_eq!(same.value.version, 2);
    let wrong = update(json!({ "sight": "hall" }), None).await;
    assert!(matches!(wrong, Err(Refusal::Invalid(_))), "{wrong:?}");

    let order = desk
        .place("pump", json!({}), None)
        .await
        .expect("it is placed")
        .value;
    let remove = Remove::new("pump", Some(2), asked(Some("r")), Arc::new(Keep));
    let removed = desk.edit(remove).await.expect("it is removed");
    assert_eq!((removed.value.commands, removed.again), (1, false));
    assert_eq!(desk.command("pump", &order.id).state, State::Cancelled);
    let remove = Remove::new("pump", Some(2), asked(Some("r")), Arc::new(Keep));
    assert!(desk.edit(remove).await.expect("it was removed").again);
    // Another one of that name begins anew, and is told of.
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    assert_eq!(
        kinds(&desk.told()),
        [
            "penstock.device.created",
            "penstock.device.updated",
            "penstock.command.queued",
            "penstock.command.cancelled",
            "penstock.device.deleted",
            "penstock.device.created",
        ]
    );
    desk.end().await;
}

#[tokio::test]
async fn a_damaged_row_is_as_good_as_none_and_ends_nothing() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    desk.create(json!({ "id": "valve" }), None)
        .await
        .expect("it is added");
    desk.running
        .take()
        .expect("it runs")
        .shutdown()
        .await
        .expect("an orderly end");
    let database = rusqlite::Connection::open(desk.dir.path().join(store::DATABASE)).expect("it");
    database
        .execute(
            "UPDATE devices SET body = replace(body, 'created', 'creeted') WHERE id = 'pump'",
            [],
        )
        .expect("a flipped byte");
    drop(database);
    desk.running = Some(open(desk.dir.path(), &desk.clock));
    let placed = desk.place("pump", json!({}), None).await;
    assert_eq!(placed, Err(Refusal::no_device("pump")));
    let listing = desk.store().listing().expect("the journal is read");
    let (found, next) = devices(listing.tables(), "", 10, |_| true).expect("a page");
    let names: Vec<&str> = found.iter().map(|device| &*device.id).collect();
    assert_eq!((names, next), (vec!["valve"], None));
    let report = store::verify(desk.dir.path(), &penstock_broker::seal::Seal::default())
        .expect("it is looked at");
    assert_eq!(report.damaged, 1, "{:?}", report.findings);
    // It can be added again.
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    desk.end().await;
}

#[test]
fn who_is_connected_is_online() {
    let online = Online::of(
        [
            ("pump", None),
            ("gw", Some("lorawan")),
            ("fan", Some("thief")),
        ]
        .map(|(client, user): (&str, Option<&str>)| (client.into(), user.map(Into::into)))
        .into_iter(),
    );
    let device = |fields: Value| {
        let draft = Draft::read(members(fields)).expect("a device");
        Device {
            id: draft.id,
            version: 1,
            fields: draft.fields,
            created_ms: 0,
            updated_ms: 0,
            heard: None,
        }
    };
    for (fields, expect) in [
        (json!({ "id": "pump" }), true),
        (json!({ "id": "fan" }), false),
        (json!({ "id": "fan", "client_id": "fan" }), true),
        (json!({ "id": "meter", "user": "lorawan" }), true),
        (json!({ "id": "lorawan" }), true),
        (json!({ "id": "gw" }), false),
        (json!({ "id": "pump", "user": "pump" }), false),
    ] {
        assert_eq!(
            online.is_online(&device(fields.clone())),
            expect,
            "{fields}"
        );
    }
    assert_eq!(
        device(json!({ "id": "a" })).addressee(),
        Addressee::Name("a".into())
    );
}

#[tokio::test]
async fn who_comes_and_goes_is_told_of_once() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    desk.create(json!({ "id": "meter", "user": "lorawan" }), None)
        .await
        .expect("it is added");
    desk.create(json!({ "id": "fan", "client_id": "f-1" }), None)
        .await
        .expect("it is added");
    let devices = |desk: &Desk, clients: &[(&str, Option<&str>)]| {
        let clients: Vec<_> = clients
            .iter()
            .map(|(client, user)| (Arc::from(*client), user.map(Arc::from)))
            .collect();
        let listing = desk.store().listing().expect("the journal is read");
        let found = rows::devices_of(listing.tables(), &clients).expect("it is read");
        found.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        devices(&desk, &[("pump", None), ("x", Some("lorawan"))]),
        ["meter", "pump"]
    );
    assert_eq!(
        devices(&desk, &[("pump", Some("thief")), ("f-1", Some("any"))]),
        ["fan"]
    );
    assert_eq!(devices(&desk, &[("y", Some("pump"))]), ["pump"]);
    assert_eq!(
        devices(&desk, &[("meter", None), ("fan", None)]),
        [] as [&str; 0]
    );
    for (online, again) in [(true, false), (true, true), (false, false), (false, true)] {
        let ids = vec!["pump".to_owned(), "nobody".to_owned()];
        desk.pass(1);
        desk.edit(Presence {
            ids,
            online,
            announce: Arc::new(Keep),
        })
        .await;
        if again {
            desk.crash().await;
        }
    }
    assert_eq!(
        kinds(&desk.told())[3..],
        ["penstock.device.online", "penstock.device.offline"]
    );
    desk.end().await;
}
