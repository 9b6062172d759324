//! Answers of the API are what its document says, every member of them, for every
//! operation that answers with JSON.

use std::{collections::BTreeSet, time::Duration};

use penstock_tests::{
    Gateway, Sandbox, Setup, http,
    http_stub::HttpStub,
    mqtt::{Client, Version, publish, subscribe},
    wait,
};
use serde_json::{Map, Value, json};

const LONG: Duration = Duration::from_secs(60);
const ADMIN: &str = "0123456789-of-an-admin";

/// Operations whose answers are no JSON, have no end, or are the document itself.
const NOT_ASKED: [&str; 7] = [
    "get /",
    "get /api/v1/events/stream",
    "get /api/v1/openapi.json",
    "get /healthz",
    "get /metrics",
    "get /page.css",
    "get /page.js",
];

const CONFIG: &str = r#"
[store]
keep_delivered = "1h"
[read]
enabled = true
[[http.token]]
name = "a"
role = "admin"
secret = "0123456789-of-an-admin"
[[mapping]]
topic = "devices/{device}/#"
raw = "always"
[[rule]]
name = "hot"
pattern = '{"values": {"v": [{"numeric": [">", 80]}]}}'
throttle = "9 per 1m"
[rule.alarm]
text = "hot"
[rule.command]
device = "nobody"
[[rule]]
name = "cold"
pattern = '{"values": {"v": [{"numeric": ["<", 0]}]}}'
destinations = ["refuses"]
"#;

/// What was asked, and the document that the answers are compared with.
struct Asking {
    port: u16,
    document: Value,
    asked: BTreeSet<String>,
    /// What was otherwise than the document says.
    wrong: BTreeSet<String>,
}

impl Asking {
    /// Asks, compares, and gives the answer.
    fn ask(&mut self, method: &str, template: &str, path: &str, body: Option<Value>) -> Value {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = format!(
            "{} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            method.to_uppercase(),
            body.len()
        );
        let reply = http::exchange(self.port, request.as_bytes()).expect("an answer");
        let which = format!("{method} {template}");
        let said: Value = serde_json::from_str(&reply.body)
            .unwrap_or_else(|error| panic!("{which}: {error}: {}", reply.body));
        assert!(reply.status < 300, "{which}: {} {said}", reply.status);
        let status = reply.status.to_string();
        let response = &self.document["paths"][template][method]["responses"][&status];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{which} says nothing of {status}");
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": strict_components(&self.document),
            "allOf": [strict(schema, true, &self.document)],
        });
        let validator = jsonschema::validator_for(&whole).expect("a schema");
        for error in validator.iter_errors(&said) {
            let at = error.instance_path();
            self.wrong
                .insert(format!("{which}: {at}: {error} in {said}"));
        }
        self.asked.insert(which);
        said
    }

    fn get(&mut self, template: &str, path: &str) -> Value {
        self.ask("get", template, path, None)
    }
}

fn strict_components(document: &Value) -> Value {
    let all = document["components"]["schemas"].as_object().expect("some");
    let all = all
        .iter()
        .map(|(name, one)| (name.clone(), strict(one, false, document)));
    json!({ "schemas": all.collect::<Map<String, Value>>() })
}

/// A schema in which an object has no member that is not said; but for one of `wrap`, which
/// is part of another.
fn strict(schema: &Value, wrap: bool, document: &Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let mut made = Map::new();
    for (key, value) in schema {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(all)) => {
                let all = all.iter();
                let all = all.map(|(name, one)| (name.clone(), strict(one, true, document)));
                Value::Object(all.collect())
            }
            ("items" | "additionalProperties", one) => strict(one, true, document),
            ("oneOf" | "anyOf", Value::Array(all)) => {
                all.iter().map(|one| strict(one, wrap, document)).collect()
            }
            ("allOf", Value::Array(all)) => {
                all.iter().map(|one| strict(one, false, document)).collect()
            }
            (_, value) => value.clone(),
        };
        made.insert(key.clone(), value);
    }
    if wrap && says_members(&Value::Object(schema.clone()), document) {
        return json!({ "allOf": [made], "unevaluatedProperties": false });
    }
    Value::Object(made)
}

/// Whether a schema says which members an object has.
fn says_members(schema: &Value, document: &Value) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        let found = document.pointer(name.trim_start_matches('#'));
        return says_members(found.expect("it is there"), document);
    }
    let any = |key: &str| {
        let all = schema[key].as_array().into_iter().flatten();
        all.into_iter().any(|one| says_members(one, document))
    };
    schema["properties"].is_object() || any("allOf")
}

/// A gateway with something for every list.
fn fill(setup: &Setup) -> Client {
    let mut client = Client::connect(setup.mqtt, Version::V5, "b7");
    let publishes: [&[u8]; 5] = [
        br#"{"id":"1","v":21.5,"state":"hot"}"#,
        br#"{"id":"2","v":90}"#,
        br#"{"id":"3","v":-5}"#,
        br#"{"v":"#,
        br#"{"id":"2","v":90}"#,
    ];
    for (id, payload) in (1..).zip(publishes) {
        client
            .publish("devices/b7/telemetry", payload, 1, id)
            .expect("it can be sent");
        client.ack(LONG).expect("it is acknowledged");
    }
    let mut retained = publish(Version::V5, "last/word", b"hello", 1, 9);
    retained[0] |= 1;
    client.send(&retained).expect("it can be sent");
    client.ack(LONG).expect("it is acknowledged");
    // One that is away, and one that stays.
    let (mut away, _) = Client::try_resume(setup.mqtt, "away").expect("it is let in");
    away.send(&subscribe(Version::V4, "last/#", 1, 1))
        .expect("it can be sent");
    away.read().expect("an answer");
    client
}

#[test]
fn every_answer_has_the_members_that_the_document_says_and_no_others() {
    let sandbox = Sandbox::new();
    let stub = HttpStub::answering(400);
    let setup = Setup::new(&sandbox)
        .to_file("lake")
        .to_http("refuses", &stub.url())
        .with(CONFIG);
    let mut gateway = Gateway::start(&setup).expecting(&["refuses"]);
    let _client = fill(&setup);
    let mut asking = Asking {
        port: setup.http,
        document: Value::Null,
        asked: BTreeSet::new(),
        wrong: BTreeSet::new(),
    };
    let request = format!(
        "GET /api/v1/openapi.json HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n\r\n"
    );
    let document = http::exchange(setup.http, request.as_bytes()).expect("an answer");
    asking.document = serde_json::from_str(&document.body).expect("JSON");
    wait::until(LONG, "the read side to follow, and a dead letter", || {
        let status = asking.get("/api/v1/status", "/api/v1/status");
        let read = &status["read"];
        let follows = read["state"] == "following" && read["lag"] == 0;
        let has = status["store"]["dead_letters"] == 1 && status["rules"]["failures"] == 2;
        (follows && has).then_some(())
    });

    // The gateway as a whole.
    asking.get("/readyz", "/readyz");
    asking.get("/api/v1/instance", "/api/v1/instance?challenge=abc");
    // Devices, commands, shadows.
    let device = json!({"id": "b7", "name": "press", "site": "hall", "tags": {"a": "b"}});
    asking.ask("post", "/api/v1/devices", "/api/v1/devices", Some(device));
    asking.get("/api/v1/devices", "/api/v1/devices");
    let (one, at) = ("/api/v1/devices/{id}", "/api/v1/devices/b7");
    asking.get(one, at);
    asking.ask("put", one, at, Some(json!({"name": "press 7"})));
    asking.ask("patch", one, at, Some(json!({"site": "north"})));
    let (of, commands) = (format!("{one}/commands"), format!("{at}/commands"));
    let order = json!({"name": "open", "payload": {"a": 1}});
    let placed = asking.ask("post", &of, &commands, Some(order));
    asking.get(&of, &commands);
    let id = placed["id"].as_str().expect("an id");
    let (of, command) = (format!("{of}/{{command}}"), format!("{commands}/{id}"));
    asking.get(&of, &command);
    asking.ask("delete", &of, &command, None);
    let (of, shadow) = (format!("{one}/shadow"), format!("{at}/shadow"));
    asking.ask("patch", &of, &shadow, Some(json!({"desired": {"rate": 5}})));
    asking.get(&of, &shadow);
    for path in ["waiting", "clocks"] {
        let path = format!("/api/v1/devices/{path}");
        asking.get(&path, &path);
    }
    asking.get("/api/v1/dedup", "/api/v1/dedup");
    // What was kept and not delivered.
    let list = "/api/v1/dead-letters";
    let letters = asking.get(list, list);
    let number = letters["items"][0]["id"].to_string();
    asking.get(&format!("{list}/{{id}}"), &format!("{list}/{number}"));
    let redrive = format!("{list}/{{id}}/redrive");
    asking.ask("post", &redrive, &format!("{list}/{number}/redrive"), None);
    let number = wait::until(LONG, "it to be refused again", || {
        let letters = asking.get(list, list);
        letters["items"][0]["id"].as_u64()
    });
    asking.get("/api/v1/search", "/api/v1/search?q=telemetry&in=all");
    asking.get("/api/v1/search", "/api/v1/search?q=400&in=dead-letters");
    let discard = format!("{list}/{number}");
    asking.ask("delete", &format!("{list}/{{id}}"), &discard, None);
    let list = "/api/v1/quarantine";
    let kept = asking.get(list, list);
    let number = kept["items"][0]["id"].to_string();
    asking.get(&format!("{list}/{{id}}"), &format!("{list}/{number}"));
    asking.get("/api/v1/search", "/api/v1/search?q=b7&in=quarantine");
    let retry = format!("{list}/{{id}}/retry");
    asking.ask("post", &retry, &format!("{list}/{number}/retry"), None);
    asking.ask(
        "delete",
        &format!("{list}/{{id}}"),
        &format!("{list}/{number}"),
        None,
    );
    // Alarms, and what rules could not do.
    let list = "/api/v1/alarms";
    let alarms = asking.get(list, list);
    let number = alarms["items"][0]["id"].to_string();
    for what in ["acknowledge", "clear"] {
        let path = format!("{list}/{number}/{what}?note=seen");
        asking.ask("post", &format!("{list}/{{id}}/{what}"), &path, None);
    }
    asking.get(&format!("{list}/{{id}}"), &format!("{list}/{number}"));
    let list = "/api/v1/rule-failures";
    let failures = asking.get(list, list);
    let number = failures["items"][0]["id"].to_string();
    let (one, at) = (format!("{list}/{{id}}"), format!("{list}/{number}"));
    asking.get(&one, &at);
    let nobody = json!({"id": "nobody"});
    asking.ask("post", "/api/v1/devices", "/api/v1/devices", Some(nobody));
    asking.ask(
        "post",
        &format!("{one}/retry"),
        &format!("{at}/retry"),
        None,
    );
    // Rules.
    let (list, one, at) = (
        "/api/v1/rules",
        "/api/v1/rules/{name}",
        "/api/v1/rules/warm",
    );
    let warm = json!({"pattern": {"device": ["b7"]}, "topic": "warm"});
    asking.ask("put", one, at, Some(warm.clone()));
    asking.get(list, list);
    asking.get(one, at);
    asking.get(one, "/api/v1/rules/hot");
    let versions = format!("{one}/versions");
    asking.ask(
        "post",
        "/api/v1/backtest",
        "/api/v1/backtest",
        Some(json!({})),
    );
    let named = json!({"name": "warm", "pattern": {"device": ["b7"]}, "topic": "warm"});
    let change = json!({"rules": [named]});
    asking.ask("post", "/api/v1/backtest", "/api/v1/backtest", Some(change));
    asking.ask("delete", one, at, None);
    asking.ask("put", one, at, Some(warm));
    asking.get(&versions, &format!("{at}/versions"));
    // A failure that nobody tries again.
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    asking.ask(
        "delete",
        "/api/v1/devices/{id}",
        "/api/v1/devices/nobody",
        None,
    );
    client
        .publish("devices/b8/telemetry", b"{\"v\":95}", 1, 1)
        .expect("it can be sent");
    client.ack(LONG).expect("it is acknowledged");
    let list = "/api/v1/rule-failures";
    let number = wait::until(LONG, "another failure", || {
        asking.get(list, list)["items"][0]["id"].as_u64()
    });
    let one = format!("{list}/{{id}}");
    asking.ask("delete", &one, &format!("{list}/{number}"), None);
    // Replays.
    let list = "/api/v1/replays";
    let begun = asking.ask("post", list, &format!("{list}?destination=lake"), None);
    let at = begun["at"].as_str().expect("a name");
    asking.ask(
        "post",
        &format!("{list}/{{at}}/next"),
        &format!("{list}/{at}/next"),
        None,
    );
    asking.get(list, list);
    asking.ask(
        "post",
        "/api/v1/replay",
        "/api/v1/replay?dry_run=true",
        None,
    );
    // The read side.
    asking.get("/api/v1/read", "/api/v1/read");
    asking.get("/api/v1/last", "/api/v1/last");
    asking.get("/api/v1/ledger", "/api/v1/ledger");
    asking.get("/api/v1/ledger", "/api/v1/ledger?device=b7");
    asking.get("/api/v1/history", "/api/v1/history?device=b7&name=v");
    asking.get(
        "/api/v1/history",
        "/api/v1/history?device=b7&name=v&step=1m",
    );
    for position in ["1", "3"] {
        let path = format!("/api/v1/events/{position}/where");
        asking.get("/api/v1/events/{event}/where", &path);
    }
    asking.ask("post", "/api/v1/read/rebuild", "/api/v1/read/rebuild", None);
    // The broker.
    let list = "/api/v1/broker/clients";
    asking.get(list, list);
    for client in ["b7", "away"] {
        asking.get(&format!("{list}/{{id}}"), &format!("{list}/{client}"));
    }
    for list in ["/api/v1/broker/subscriptions", "/api/v1/broker/retained"] {
        asking.get(list, list);
    }
    let topic = "/api/v1/broker/retained/last/word";
    asking.ask("delete", "/api/v1/broker/retained/{topic}", topic, None);
    let away = "/api/v1/broker/clients/away?session=true";
    asking.ask("delete", "/api/v1/broker/clients/{id}", away, None);
    asking.ask("delete", "/api/v1/devices/{id}", "/api/v1/devices/b7", None);
    // Destinations, last.
    let (list, one) = ("/api/v1/destinations", "/api/v1/destinations/{name}");
    asking.get(list, list);
    asking.get(one, "/api/v1/destinations/lake");
    for what in ["pause", "drain", "resume"] {
        let path = format!("{list}/lake/{what}");
        asking.ask("post", &format!("{one}/{what}"), &path, None);
    }
    // One that the configuration names no more.
    drop(client);
    gateway.kill();
    let text = std::fs::read_to_string(setup.write()).expect("the configuration");
    let (before, after) = text
        .split_once("[[destination]]\nname = \"refuses\"")
        .expect("it");
    let rest = after.split_once("[store]").expect("more").1;
    let rest = rest
        .split_once("[[rule]]\nname = \"cold\"")
        .expect("more")
        .0;
    let without = Setup::new(&sandbox).data_dir(setup.data());
    asking.port = without.http;
    let own = before.split_once("format = \"json\"\n").expect("a head").1;
    gateway.start_with(&without.with(&format!("{own}[store]{rest}")));
    let path = "/api/v1/destinations/refuses?discard=true";
    asking.ask("delete", one, path, None);

    let paths = asking.document["paths"].as_object().expect("some");
    let all = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, _)| format!("{method} {path}"))
    });
    let missing: Vec<String> = all
        .filter(|which| !asking.asked.contains(which) && !NOT_ASKED.contains(&which.as_str()))
        .collect();
    let wrong = &asking.wrong;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(missing.is_empty(), "nobody asked for {missing:#?}");
    gateway.finish();
}
