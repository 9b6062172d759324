//! The questions of docs/queries.md to PostgreSQL and OpenSearch, as they stand there: each
//! answer is that of the gateway's own read side.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use penstock_tests::{
    Gateway, OpenSearchServer, PostgresServer, Sandbox, Setup, http,
    mqtt::{Client, Version},
    wait,
};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

/// The blocks of the page's section in a language, in their order.
fn blocks(language: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/queries.md");
    let page = fs::read_to_string(page).expect("the page");
    let (_, section) = page
        .split_once("## A bigger read side")
        .expect("the section");
    let begin = format!("```{language}\n");
    let begun = section.split(&begin).skip(1);
    let blocks = begun.filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

/// What a question of the page gives, a row an object.
fn ask_postgres(postgres: &PostgresServer, question: &str) -> Value {
    let question = question.trim().trim_end_matches(';');
    let rows = postgres.query(&format!(
        "SELECT coalesce(json_agg(row), '[]') FROM ({question}) row"
    ));
    serde_json::from_str(&rows).expect("JSON")
}

/// Sends a block of the page.
fn ask_opensearch(opensearch: &OpenSearchServer, block: &str) -> Value {
    let (line, body) = block.split_once('\n').expect("a line and a body");
    let request = format!(
        "{line} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let reply = http::exchange(opensearch.port, request.as_bytes()).expect("an answer");
    assert_eq!(reply.status, 200, "{line}: {}", reply.body);
    serde_json::from_str(&reply.body).expect("JSON")
}

/// What the gateway's read side says.
fn ask(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    let answer: Value = serde_json::from_str(&gateway.ask(&arguments)).expect("JSON");
    let items = answer["items"].as_array().expect("items");
    items.clone()
}

/// A list in an answer.
#[track_caller]
fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

/// These members of each item, in their order.
fn members(items: &[Value], names: &[&str]) -> Vec<Value> {
    let of = |item: &Value| names.iter().map(|name| item[*name].clone()).collect();
    items.iter().map(of).collect()
}

/// Two devices' messages of the last 40 minutes, one a minute: numbers, words, and one that
/// comes late.
fn publish(setup: &Setup) -> u16 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of devices, as they have it"
    )]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("a time after 1970").as_millis();
    let mut id = 0;
    for device in ["press-7", "press-8"] {
        let mut client = Client::connect(setup.mqtt, Version::V4, device);
        let topic = format!("devices/{device}/telemetry");
        let latest_last = (1..40).rev().chain([20]);
        for (n, minutes) in (0_u32..).zip(latest_last) {
            let note = match n % 8 {
                0 => "bearing warm",
                4 => "bearing cold",
                _ => "fine",
            };
            let payload = json!({
                "ts": now - minutes * 60_000,
                "temperature": f64::from(n) / 4.0,
                "running": n % 3 == 0,
                "note": note,
            });
            id += 1;
            let sent = client.publish(&topic, payload.to_string().as_bytes(), 1, id);
            sent.expect("the connection stays");
            client
                .ack(LONG)
                .expect("it stays")
                .expect("an acknowledgement");
        }
    }
    id
}

/// A number as good as equal.
fn about(ours: &Value, theirs: &Value) -> bool {
    match (ours.as_f64(), theirs.as_f64()) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() < 1e-9,
        _ => ours == theirs,
    }
}

#[track_caller]
fn same(ours: &[Value], theirs: &[Value]) {
    let alike = |ours: &Value, theirs: &Value| {
        let (ours, theirs) = (list(ours), list(theirs));
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(o, t)| about(o, t))
    };
    assert!(!ours.is_empty());
    assert!(
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(o, t)| alike(o, t)),
        "{ours:#?}\n{theirs:#?}"
    );
}

#[test]
fn postgres_and_opensearch_answer_as_the_gateway_does() {
    let sandbox = Sandbox::new();
    let (Some(postgres), Some(opensearch)) = (
        PostgresServer::start(&sandbox),
        OpenSearchServer::start(&sandbox),
    ) else {
        return;
    };
    let (sql, http) = (blocks("sql"), blocks("http"));
    let [prepare, last, history, words, there] = &sql[..] else {
        panic!("{} blocks of SQL", sql.len());
    };
    let [template, last_there, history_there, words_there, is_there] = &http[..] else {
        panic!("{} blocks of HTTP", http.len());
    };
    ask_opensearch(&opensearch, template);
    let setup = Setup::new(&sandbox)
        .with("[read]\nenabled = true")
        .to_postgres("rows", postgres.port, "layout = \"measurement\"")
        .to_postgres("events", postgres.port, "table = \"events\"")
        .to_opensearch("search", opensearch.port, "");
    let gateway = Gateway::start(&setup);
    let published = publish(&setup);
    gateway.wait_until_drained(LONG);
    wait::until(LONG, "the read side to follow", || {
        let found = ask(&gateway, &["search", "device:press*", "--limit", "1000"]);
        (found.len() == usize::from(published)).then_some(())
    });
    postgres.query(prepare);
    opensearch.post("/telemetry-*/_refresh");

    let ours = ask(&gateway, &["last", "--device", "press-7"]);
    let theirs = ask_postgres(&postgres, last);
    let theirs = list(&theirs);
    let names = ["device", "name", "value", "unit"];
    same(&members(&ours, &names), &members(theirs, &names));
    let found = ask_opensearch(&opensearch, last_there);
    let devices = list(&found["aggregations"]["devices"]["buckets"]);
    assert_eq!((devices.len(), &devices[0]["key"]), (1, &json!("press-7")));
    let hit = &devices[0]["last"]["hits"]["hits"][0]["_source"];
    let temperature = ours
        .iter()
        .find(|item| item["name"] == "temperature")
        .expect("a temperature");
    assert!(
        about(&temperature["value"], &hit["values"]["temperature"]),
        "{hit}"
    );

    let steps = [
        "history",
        "press-7",
        "temperature",
        "--from",
        "6h",
        "--step",
        "5m",
    ];
    let ours = ask(&gateway, &steps);
    let theirs = ask_postgres(&postgres, history);
    let names = ["count", "min", "max", "mean"];
    let ours = members(&ours, &names);
    same(&ours, &members(list(&theirs), &names));
    let found = ask_opensearch(&opensearch, history_there);
    let buckets = list(&found["aggregations"]["steps"]["buckets"]);
    let stats: Vec<Value> = buckets
        .iter()
        .map(|one| one["temperature"].clone())
        .collect();
    same(&ours, &members(&stats, &["count", "min", "max", "avg"]));

    let ours = ask(&gateway, &["search", "bearing -cold", "--limit", "100"]);
    let mut keys: Vec<Value> = ours
        .iter()
        .map(|item| item["event"]["eventkey"].clone())
        .collect();
    keys.sort_by_key(Value::to_string);
    assert_eq!(keys.len(), 10);
    let plain = |key: &Value| json!(key.as_str().expect("a key").replace('-', ""));
    let theirs = ask_postgres(&postgres, words);
    let rows = list(&theirs).iter();
    let mut theirs: Vec<Value> = rows.map(|row| plain(&row["eventkey"])).collect();
    theirs.sort_by_key(Value::to_string);
    assert_eq!(keys, theirs);
    let found = ask_opensearch(&opensearch, words_there);
    let hits = list(&found["hits"]["hits"]).iter();
    let mut theirs: Vec<Value> = hits.map(|hit| hit["_source"]["eventkey"].clone()).collect();
    theirs.sort_by_key(Value::to_string);
    assert_eq!(keys, theirs);

    let key = keys[0].as_str().expect("a key");
    let theirs = ask_postgres(&postgres, &there.replace("EVENTKEY", key));
    assert_eq!(list(&theirs).len(), 1);
    let found = ask_opensearch(&opensearch, &is_there.replace("EVENTKEY", key));
    assert_eq!(found["hits"]["total"]["value"], 1);
    gateway.finish();
}
