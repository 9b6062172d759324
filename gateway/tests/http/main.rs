//! The API as programs and browsers meet it: a whole gateway on ports of its own.

mod access;
mod devices;
mod gateway;
mod stream;
#[cfg(feature = "http")]
mod tls;

use std::time::Duration;

use penstock::http::{Role, Token};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use gateway::{Gateway, LONG};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_parts_are_served_with_a_policy_that_loads_nothing_from_elsewhere() {
    let gateway = Gateway::start().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.head.contains(&format!("content-type: {kind}")),
            "{path}: {}",
            answer.head
        );
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'self'"),
            "{path}"
        );
        assert!(
            !answer.body.contains("http://") && !answer.body.contains("https://"),
            "{path}"
        );
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_metrics_and_status_agree_with_what_was_published() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.get("/healthz").await.status, 200);
    for n in 0..10 {
        let payload = format!(r#"{{"boot":1,"seq":{n},"t":21.5}}"#);
        gateway
            .publish("devices/d/telemetry", payload.as_bytes())
            .await;
    }
    gateway
        .publish("devices/d/telemetry", br#"{"boot":1,"seq":9,"t":21.5}"#)
        .await;
    gateway.publish("devices/d/telemetry", br#"{"t":"#).await;

    let began = Instant::now();
    let status = loop {
        let status = gateway.get("/api/v1/status").await.json();
        if status["destinations"][0]["delivered"] == 10 && status["ready"] == true {
            break status;
        }
        assert!(began.elapsed() < LONG, "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ledger = &status["ledger"];
    assert_eq!(ledger["accepted"], 12);
    assert_eq!(
        (&ledger["stored"], &ledger["duplicate"]),
        (&10.into(), &1.into())
    );
    assert_eq!(ledger["quarantined"], 1);
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.body);
    let metrics = gateway.get("/metrics").await;
    assert!(metrics.head.contains("openmetrics-text"));
    for line in [
        "gateway_store_accepted_total 12",
        "gateway_store_duplicate_total 1",
        "gateway_destination_delivered_total{destination=\"events\"} 10",
        "gateway_ingest_events_total{id_source=\"sequence\"} 11",
        "gateway_ingest_rejected_total{class=\"syntax\"} 1",
        "# EOF",
    ] {
        assert!(
            metrics.body.lines().any(|has| has == line),
            "no {line:?} in {}",
            metrics.body
        );
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_still_the_same_is_not_sent_again() {
    let gateway = Gateway::start().await;
    let again = |path: &str, tag: &str| {
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nIf-None-Match: {tag}\r\n\r\n")
    };
    for path in ["/api/v1/openapi.json", "/page.js", "/api/v1/quarantine"] {
        let first = gateway.get(path).await;
        let tag = first
            .head
            .lines()
            .find_map(|line| line.strip_prefix("etag: "));
        let tag = tag.expect("a tag");
        let second = gateway.ask(&again(path, tag)).await;
        assert_eq!((second.status, &*second.body), (304, ""), "{path}");
        assert!(second.head.contains(&format!("etag: {tag}")), "{path}");
        let other = gateway.ask(&again(path, "\"another\"")).await;
        assert_eq!((other.status, other.body), (200, first.body), "{path}");
    }
    let before = gateway.get("/api/v1/quarantine").await;
    let tag = before
        .head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "));
    gateway.publish("devices/d/telemetry", br#"{"t":"#).await;
    let after = gateway
        .ask(&again("/api/v1/quarantine", tag.expect("a tag")))
        .await;
    assert_eq!(after.status, 200);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_reaches_nothing() {
    let gateway = Gateway::start().await;
    let foreign = "GET /api/v1/status HTTP/1.0\r\nHost: evil.example\r\n\r\n";
    assert_eq!(gateway.ask(foreign).await.status, 421);
    let nameless = "GET /api/v1/status HTTP/1.0\r\n\r\n";
    assert_eq!(gateway.ask(nameless).await.status, 421);
    let form = "POST /api/v1/quarantine/1/retry HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(gateway.ask(form).await.status, 415);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_is_listed_shown_retried_and_discarded() {
    let gateway = Gateway::start().await;
    gateway.publish("devices/d/telemetry", br#"{"t":"#).await;
    let list = gateway.get("/api/v1/quarantine").await.json();
    let item = &list["items"][0];
    assert_eq!(
        (&item["topic"], &item["class"]),
        (&"devices/d/telemetry".into(), &"syntax".into())
    );
    let path = format!("/api/v1/quarantine/{}", item["id"]);
    assert_eq!(gateway.get(&path).await.json()["payload_text"], r#"{"t":"#);
    let retried = gateway.change("POST", &format!("{path}/retry")).await;
    assert_eq!(
        (retried.status, &retried.json()["outcome"]),
        (200, &"still-bad".into())
    );
    assert_eq!(gateway.change("DELETE", &path).await.status, 200);
    assert_eq!(gateway.change("DELETE", &path).await.status, 404);
    assert_eq!(gateway.get(&path).await.status, 404);
    assert_eq!(gateway.get("/api/v1/quarantine?limitt=1").await.status, 400);
    assert_eq!(
        gateway
            .get("/api/v1/dead-letters?destination=nowhere")
            .await
            .status,
        404
    );
    gateway.stop().await;
}

#[cfg(feature = "http")]
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_destination_that_is_away_is_told_by_device() {
    use penstock::forward::{Kind, http};
    let gateway = Gateway::start_with(|config| {
        // Nobody listens on the first port.
        let away = http::Config::new("http://127.0.0.1:1/events");
        config.destinations[0].name = "away".into();
        config.destinations[0].kind = Kind::Http(Box::new(away));
        config.store.destinations = vec!["away".into()];
    })
    .await;
    for (device, n) in [("pump", 1), ("pump", 2), ("valve", 3)] {
        let payload = format!(r#"{{"t":{n}}}"#);
        let topic = format!("devices/{device}/telemetry");
        gateway.publish(&topic, payload.as_bytes()).await;
    }
    let waits = gateway.get("/api/v1/devices/waiting?limit=1").await.json();
    let pump = &waits["devices"][0];
    assert_eq!(
        (&pump["device"], &pump["waiting"]),
        (&"pump".into(), &2.into())
    );
    assert_eq!(pump["destinations"]["away"], 2);
    assert_eq!(
        (&waits["others"], &waits["complete"]),
        (&1.into(), &true.into())
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_does_not_hold_up_the_end() {
    let gateway = Gateway::start().await;
    let mut half = TcpStream::connect(gateway.http).await.expect("connect");
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: localh")
        .await
        .expect("write");
    // Answered only after the half one was accepted.
    assert_eq!(gateway.get("/healthz").await.status, 200);
    // Waiting for it would take the whole grace period, which is an error.
    gateway.stop().await;
}

/// A client that stays connected, with a subscription and a retained message.
async fn client(gateway: &Gateway, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.mqtt).await.expect("connect");
    let len = u8::try_from(id.len()).expect("short");
    let mut bytes = vec![
        0x10,
        12 + len,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        0,
        0,
        len,
    ];
    bytes.extend_from_slice(id.as_bytes());
    bytes.extend_from_slice(&[0x82, 8, 0, 1, 0, 3, b'a', b'/', b'#', 1]);
    bytes.extend_from_slice(&[0x33, 8, 0, 3, b'r', b'/', b'x', 0, 2, b'1']);
    stream.write_all(&bytes).await.expect("write");
    let mut answer = [0; 13];
    let read = timeout(LONG, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").expect("an answer");
    assert_eq!(answer, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1, 0x40, 2, 0, 2]);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_listed_in_pages_and_can_be_kicked_but_not_by_a_web_page() {
    let gateway = Gateway::start().await;
    let mut streams = Vec::new();
    for id in ["a", "b/1 ü", "c"] {
        streams.push(client(&gateway, id).await);
    }
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = gateway
            .get(&format!("/api/v1/broker/clients?limit=2&after={after}"))
            .await
            .json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        found.extend(items.iter().map(|one| one["client_id"].to_string()));
        match page["next"].as_str() {
            Some(next) => {
                after = next
                    .replace('/', "%2F")
                    .replace(' ', "%20")
                    .replace('ü', "%C3%BC")
            }
            None => break,
        }
    }
    assert_eq!(found, ["\"a\"", "\"b/1 ü\"", "\"c\""]);
    let path = "/api/v1/broker/clients/b%2F1%20%C3%BC";
    let one = gateway.get(path).await.json();
    assert_eq!(
        (&one["protocol"], &one["subscriptions"]),
        (&"3.1.1".into(), &1.into())
    );
    assert!(
        one["connected_since"]
            .as_str()
            .expect("a time")
            .ends_with('Z')
    );
    let forged = format!("DELETE {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    assert_eq!(gateway.ask(&forged).await.status, 415);
    assert_eq!(gateway.change("DELETE", path).await.json()["kicked"], 1);
    let mut rest = Vec::new();
    let end = timeout(LONG, streams[1].read_to_end(&mut rest)).await;
    end.expect("an end in time").ok();
    let began = Instant::now();
    while gateway.get(path).await.status != 404 {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.change("DELETE", path).await.status, 404);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_and_subscriptions_are_listed_and_cleared() {
    let gateway = Gateway::start().await;
    let _client = client(&gateway, "me").await;
    let listed = gateway
        .get("/api/v1/broker/retained?filter=r/%2B")
        .await
        .json();
    assert_eq!(
        listed["items"],
        serde_json::json!([{ "topic": "r/x", "qos": 1, "payload_bytes": 1 }])
    );
    let bad = gateway.get("/api/v1/broker/retained?filter=r/x%23").await;
    assert_eq!((bad.status, &bad.json()["status"]), (400, &400.into()));
    for (query, count) in [
        ("", 1),
        ("?client=me", 1),
        ("?client=you", 0),
        ("?filter=a/%23", 1),
        ("?filter=a", 0),
    ] {
        let path = format!("/api/v1/broker/subscriptions{query}");
        let listed = gateway.get(&path).await.json();
        let items = listed["items"].as_array().expect("items");
        assert_eq!(items.len(), count, "{query}");
    }
    let page = gateway
        .get("/api/v1/broker/subscriptions?limit=1")
        .await
        .json();
    let next = page["next"].as_str().expect("maybe more");
    let rest = gateway
        .get(&format!("/api/v1/broker/subscriptions?after={next}"))
        .await
        .json();
    assert_eq!(rest, serde_json::json!({ "items": [], "next": null }));
    assert_eq!(
        gateway
            .get("/api/v1/broker/subscriptions?after=x")
            .await
            .status,
        400
    );
    assert_eq!(
        gateway
            .change("DELETE", "/api/v1/broker/retained/r/x")
            .await
            .json()["cleared"],
        1
    );
    assert_eq!(
        gateway
            .change("DELETE", "/api/v1/broker/retained/r/x")
            .await
            .status,
        404
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_its_client_is_listed_with_its_subscriptions_and_can_be_ended() {
    let gateway = Gateway::start().await;
    let _other = client(&gateway, "z").await;
    let mut stream = TcpStream::connect(gateway.mqtt).await.expect("connect");
    let mut bytes = vec![
        0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'p',
    ];
    bytes.extend_from_slice(&[0x82, 8, 0, 1, 0, 3, b'q', b'/', b'#', 1]);
    stream.write_all(&bytes).await.expect("write");
    let mut answer = [0; 9];
    let read = timeout(LONG, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").expect("an answer");
    let path = "/api/v1/broker/clients/p";
    assert_eq!(gateway.get(path).await.json()["connected"], true);
    drop(stream);
    let began = Instant::now();
    while gateway.get(path).await.json()["connected"] != false {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gateway.publish("q/1", b"21.5").await;
    let all = gateway.get("/api/v1/broker/clients").await.json();
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("items");
        items
            .iter()
            .map(|one| one["client_id"].to_string())
            .collect()
    };
    let listed = ids(&all);
    assert!(listed.contains(&"\"p\"".to_owned()) && listed.contains(&"\"z\"".to_owned()));
    assert_eq!(gateway.get(path).await.json()["queue_messages"], 1);
    let live = gateway
        .get("/api/v1/broker/clients?connected=true")
        .await
        .json();
    assert!(!ids(&live).contains(&"\"p\"".to_owned()));
    let subscriptions = gateway
        .get("/api/v1/broker/subscriptions?client=p")
        .await
        .json();
    assert_eq!(
        subscriptions["items"],
        serde_json::json!([{ "client_id": "p", "filter": "q/#", "qos": 1 }])
    );
    assert_eq!(gateway.change("DELETE", path).await.status, 404);
    let ended = gateway
        .change("DELETE", &format!("{path}?session=true"))
        .await;
    assert_eq!(ended.json()["kicked"], 1);
    assert_eq!(gateway.get(path).await.status, 404);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_put_changed_and_taken_away_with_versions() {
    const TOKEN: &str = "0123456789abcdef0123";
    const PATH: &str = "/api/v1/rules/hot";

    let open = Gateway::start().await;
    let answer = open.send("PUT", PATH, "", "{}").await;
    assert_eq!(answer.status, 403, "nobody is asked who they are");
    assert_eq!(open.change("DELETE", PATH).await.status, 403);
    open.stop().await;

    let gateway = Gateway::start_with(|config| {
        config.http.tokens = vec![Token {
            name: "ann".to_owned(),
            role: Role::Admin,
            secret: TOKEN.to_owned().into(),
        }];
    })
    .await;
    let get = async |path: &str| gateway.with_token("GET", path, TOKEN).await;
    let delete = async || gateway.with_token("DELETE", PATH, TOKEN).await;
    let rule = |above: u32| {
        format!(
            r#"{{"pattern": {{"values": {{"v": [{{"numeric": [">", {above}]}}]}}}}, "alarm": {{}}}}"#
        )
    };
    let put = async |head: &str, text: &str| {
        let head = format!("Authorization: Bearer {TOKEN}\r\n{head}");
        gateway.send("PUT", PATH, &head, text).await
    };
    let answer = put("If-None-Match: *\r\n", &rule(80)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("etag: \"1\""), "{}", answer.head);
    assert_eq!(put("If-Match: \"7\"\r\n", &rule(1)).await.status, 412);
    assert_eq!(put("If-Match: seven\r\n", &rule(1)).await.status, 400);
    let wrong = put("", r#"{"pattern": {"v": 5}, "alarn": {}}"#).await;
    assert_eq!(wrong.status, 400);
    let said = wrong.json()["detail"].as_str().expect("words").to_owned();
    assert!(
        said.contains("pattern: line 1") && said.contains("alarn: is not a key"),
        "{said}"
    );

    // It is in force with the answer, and raises its alarm.
    gateway.publish("devices/b7/t", br#"{"v":90}"#).await;
    let alarm = timeout(LONG, async {
        loop {
            let mut alarms = get("/api/v1/alarms").await.json();
            if let Some(alarm) = alarms["items"].get_mut(0) {
                return alarm.take();
            }
        }
    });
    let alarm = alarm.await.expect("an alarm in time");
    assert_eq!(
        (&alarm["rule"], &alarm["device"]),
        (&"hot".into(), &"b7".into())
    );

    assert_eq!(
        put("If-Match: \"1\"\r\n", &rule(95)).await.json()["version"],
        2
    );
    // What is in the answer besides may be another although the version is not.
    let head = format!("Authorization: Bearer {TOKEN}\r\nIf-None-Match: \"2\"\r\n");
    assert_eq!(gateway.send("GET", PATH, &head, "").await.status, 200);
    let shown = get(PATH).await.json();
    assert_eq!(shown["rule"]["pattern"]["values"]["v"][0]["numeric"][1], 95);
    assert_eq!(get("/api/v1/rules").await.json()["items"][0]["name"], "hot");
    assert_eq!(delete().await.status, 200);
    assert_eq!(delete().await.status, 404);
    assert_eq!(get(PATH).await.status, 404);
    let versions = get("/api/v1/rules/hot/versions").await.json();
    let numbers: Vec<_> = versions["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["version"].as_u64())
        .collect();
    assert_eq!(numbers, [Some(3), Some(2), Some(1)]);
    gateway.stop().await;
}
