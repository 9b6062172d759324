//! Devices, commands and shadows.

use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway};

/// Asks for a change with JSON and further lines of the head.
async fn ask(gateway: &Gateway, method: &str, path: &str, head: &str, body: &Value) -> Answer {
    gateway.send(method, path, head, &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_added_changed_by_version_and_removed() {
    let gateway = Gateway::start().await;
    let pump = json!({ "id": "line 1/pump", "site": "hall", "tags": { "line": "3" } });
    let created = ask(&gateway, "POST", "/api/v1/devices", "", &pump).await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert!(created.head.contains("etag: \"1\""), "{}", created.head);
    assert_eq!(
        ask(&gateway, "POST", "/api/v1/devices", "", &pump)
            .await
            .status,
        409
    );
    let path = "/api/v1/devices/line%201%2Fpump";
    let shown = gateway.get(path).await.json();
    assert_eq!(
        (&shown["id"], &shown["online"]),
        (&pump["id"], &false.into())
    );
    let patch = json!({ "name": "Feed pump", "site": null });
    let (stale, fresh) = ("If-Match: \"7\"\r\n", "If-Match: \"1\"\r\n");
    assert_eq!(
        ask(&gateway, "PATCH", path, stale, &patch).await.status,
        412
    );
    let changed = ask(&gateway, "PATCH", path, fresh, &patch).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let changed = changed.json();
    assert_eq!(
        (&changed["version"], &changed["name"]),
        (&2.into(), &"Feed pump".into())
    );
    assert_eq!(changed["site"], Value::Null);
    let replaced = ask(&gateway, "PUT", path, "", &json!({ "site": "yard" }))
        .await
        .json();
    assert_eq!(
        (&replaced["site"], &replaced["name"]),
        (&"yard".into(), &Value::Null)
    );
    for (body, expect) in [(json!({ "sight": 1 }), 422), (json!([]), 400)] {
        assert_eq!(ask(&gateway, "PATCH", path, "", &body).await.status, expect);
    }
    let valve = json!({ "id": "valve", "tags": { "line": "3" } });
    ask(&gateway, "POST", "/api/v1/devices", "", &valve).await;
    let list = gateway.get("/api/v1/devices?tag=line=3").await.json();
    assert_eq!(list["items"][0]["id"], "valve");
    assert_eq!(
        (list["items"].as_array().map(Vec::len), &list["next"]),
        (Some(1), &Value::Null)
    );
    let list = gateway.get("/api/v1/devices?limit=1").await.json();
    assert_eq!(
        (&list["items"][0]["id"], &list["next"]),
        (&pump["id"], &pump["id"])
    );
    let rest = gateway
        .get("/api/v1/devices?limit=1&after=line%201%2Fpump")
        .await
        .json();
    assert_eq!(rest["items"][0]["id"], "valve");

    let removed = gateway.change("DELETE", path).await;
    assert_eq!(
        (removed.status, &removed.json()["removed"]["id"]),
        (200, &pump["id"])
    );
    assert_eq!(gateway.get(path).await.status, 404);
    assert_eq!(gateway.change("DELETE", path).await.status, 404);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_placed_once_for_a_key_and_taken_back_before_it_is_sent() {
    let gateway = Gateway::start().await;
    let path = "/api/v1/devices/pump/commands";
    let order = json!({ "name": "start", "payload": { "rpm": 900 }, "qos": 2 });
    assert_eq!(ask(&gateway, "POST", path, "", &order).await.status, 404);
    ask(
        &gateway,
        "POST",
        "/api/v1/devices",
        "",
        &json!({ "id": "pump" }),
    )
    .await;
    let key = "Idempotency-Key: one\r\n";
    let placed = ask(&gateway, "POST", path, key, &order).await;
    assert_eq!(placed.status, 202, "{}", placed.body);
    let (placed, again) = (
        placed.json(),
        ask(&gateway, "POST", path, key, &order).await,
    );
    assert_eq!((again.status, again.json()), (202, placed.clone()));
    let other = ask(&gateway, "POST", path, key, &json!({ "name": "stop" })).await;
    assert_eq!(other.status, 422);
    for wrong in [
        json!({ "qos": 3 }),
        json!({ "deadline": "soon" }),
        json!({ "pay": 1 }),
    ] {
        assert_eq!(
            ask(&gateway, "POST", path, "", &wrong).await.status,
            422,
            "{wrong}"
        );
    }
    let one = format!("{path}/{}", placed["id"].as_str().expect("an id"));
    assert_eq!(gateway.get(&one).await.json(), placed);
    let list = gateway.get(&format!("{path}?state=queued")).await.json();
    assert_eq!(list["items"], json!([placed]));
    let cancelled = gateway.change("DELETE", &one).await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &"cancelled".into())
    );
    assert_eq!(
        gateway.get(&format!("{path}?state=queued")).await.json()["items"],
        json!([])
    );
    assert_eq!(
        gateway
            .change("DELETE", &format!("{path}/none"))
            .await
            .status,
        404
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_says_which_version_a_change_was_too_late_for() {
    let gateway = Gateway::start().await;
    let path = "/api/v1/devices/pump/shadow";
    assert_eq!(gateway.get(path).await.status, 404);
    ask(
        &gateway,
        "POST",
        "/api/v1/devices",
        "",
        &json!({ "id": "pump" }),
    )
    .await;
    let first = json!({ "desired": { "rpm": 900 }, "version": 0 });
    let changed = ask(&gateway, "PATCH", path, "", &first).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert!(changed.head.contains("etag: \"1\""), "{}", changed.head);
    let late = ask(&gateway, "PATCH", path, "", &first).await;
    assert_eq!(
        (late.status, &late.json()["detail"]),
        (409, &"it has version 1 by now".into())
    );
    let stale = "If-Match: \"0\"\r\n";
    assert_eq!(
        ask(&gateway, "PATCH", path, stale, &first).await.status,
        412
    );
    gateway
        .publish("devices/pump/shadow/reported", br#"{"rpm":900}"#)
        .await;
    // The client was called "me", and is no device.
    assert_eq!(gateway.get(path).await.json()["reported"], json!({}));
    let me = json!({ "client_id": "me" });
    ask(&gateway, "PATCH", "/api/v1/devices/pump", "", &me).await;
    gateway
        .publish("devices/pump/shadow/reported", br#"{"rpm":850}"#)
        .await;
    let shadow = gateway.get(path).await.json();
    assert_eq!(
        (&shadow["reported"], &shadow["delta"]),
        (&json!({ "rpm": 850 }), &json!({ "rpm": 900 }))
    );
    gateway.stop().await;
}
