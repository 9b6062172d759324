//! Databases: what was acknowledged to a device arrives, each event once, whoever is killed
//! and whatever the wire does.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use penstock_tests::{
    Audit, Certificates, ChaosProxy, Gateway, Mode, OpenSearchServer, PostgresServer, Sandbox,
    Setup, Sim,
    mqtt::{Client, Version},
    postgres::PASSWORD,
    seed,
    sim::Fleet,
    turns, wait,
};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::Value;

/// Rows of events in the order in which they were inserted.
const EVENTS: &str = "SELECT event FROM telemetry ORDER BY place";
/// How many rows there are of each event.
const MEASUREMENTS: &str = "\
    SELECT replace(deliverykey::text, '-', ''), count(*) FROM telemetry GROUP BY deliverykey";
const TIMEOUT: Duration = Duration::from_secs(120);

fn load(sandbox: &Sandbox, setup: &Setup, seed: u64) -> Fleet {
    Sim::new(sandbox, "fleet", setup.mqtt, seed)
        .load(40, 250)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .start()
}

/// Waits until `destination` takes something new, then for a random moment after that.
fn a_moment_of_delivery(gateway: &Gateway, destination: &str, rng: &mut StdRng) {
    let before = gateway.status().destination(destination).delivered;
    gateway.wait_for(Duration::from_secs(60), "delivery", |now| {
        now.destination(destination).delivered > before
    });
    wait::pass(Duration::from_millis(rng.random_range(0..800)));
}

/// One device's messages, each acknowledged.
fn publish(setup: &Setup, payloads: impl IntoIterator<Item = String>) {
    publish_as(setup, "press-7", payloads);
}

fn publish_as(setup: &Setup, device: &str, payloads: impl IntoIterator<Item = String>) {
    let mut client = Client::connect(setup.mqtt, Version::V4, device);
    let topic = format!("devices/{device}/telemetry");
    for (id, payload) in (1..).zip(payloads) {
        let sent = client.publish(&topic, payload.as_bytes(), 1, id);
        sent.expect("the connection stays");
        let ack = client.ack(Duration::from_secs(10));
        ack.expect("the connection stays")
            .expect("it is acknowledged");
    }
}

#[test]
fn postgres_has_each_event_once_when_all_of_it_breaks_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut postgres) = PostgresServer::start(&sandbox) else {
        return;
    };
    // As the gateway would make it, with a column that counts insertions.
    postgres.query(
        "CREATE TABLE telemetry (deliverykey uuid PRIMARY KEY, eventkey uuid NOT NULL, \
             correctedtime timestamptz, time timestamptz NOT NULL, \
             recordedtime timestamptz NOT NULL, device text NOT NULL, site text, \
             type text NOT NULL, event jsonb NOT NULL, place bigserial)",
    );
    let proxy = ChaosProxy::to(postgres.port);
    let setup = Setup::new(&sandbox).to_postgres("table", proxy.port, "");
    let mut gateway = Gateway::start(&setup).expecting(&["table"]);
    let mut fleet = load(&sandbox, &setup, seed);
    for _ in 0..3 {
        a_moment_of_delivery(&gateway, "table", &mut rng);
        proxy.set(Mode::LoseReplies);
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        proxy.set(Mode::Pass);
        a_moment_of_delivery(&gateway, "table", &mut rng);
        gateway.kill();
        gateway.start_again();
        a_moment_of_delivery(&gateway, "table", &mut rng);
        postgres.kill();
        postgres.start_again();
    }
    a_moment_of_delivery(&gateway, "table", &mut rng);
    fleet.stop(TIMEOUT);
    gateway.wait_until_drained(TIMEOUT);
    gateway.finish();
    let dump = postgres.dump(&sandbox, "telemetry", EVENTS);
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn postgres_has_each_measurement_once_in_a_table_divided_by_time() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut postgres) = PostgresServer::start(&sandbox) else {
        return;
    };
    let proxy = ChaosProxy::to(postgres.port);
    // Somebody else has made it, with one column more.
    postgres.query(
        "CREATE TABLE telemetry (deliverykey text, n integer, eventkey uuid, \
             correctedtime timestamptz, time timestamptz, recordedtime timestamptz, \
             device text, site text, type text, name text, number float8, value jsonb, \
             unit text, quality text, tags json, at timestamptz DEFAULT now(), \
             PRIMARY KEY (deliverykey, n, time)) PARTITION BY RANGE (time); \
         CREATE TABLE telemetry_all PARTITION OF telemetry DEFAULT",
    );
    let more = "layout = \"measurement\"\npartitioned = true";
    let setup = Setup::new(&sandbox)
        .to_postgres("table", proxy.port, more)
        .to_file("events");
    let mut gateway = Gateway::start(&setup).expecting(&["table"]);
    let mut fleet = load(&sandbox, &setup, seed);
    for _ in 0..3 {
        a_moment_of_delivery(&gateway, "table", &mut rng);
        proxy.set(Mode::LoseReplies);
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        proxy.set(Mode::Pass);
        a_moment_of_delivery(&gateway, "table", &mut rng);
        gateway.kill();
        gateway.start_again();
        a_moment_of_delivery(&gateway, "table", &mut rng);
        postgres.kill();
        postgres.start_again();
    }
    fleet.stop(TIMEOUT);
    gateway.wait_until_drained(TIMEOUT);
    gateway.finish();
    // What the files have is known to be right, and the rows are to be the same.
    let events = setup.data().join("events");
    Audit::files(&sandbox, &fleet, &events, &[]).assert_clean();
    let rows = postgres.query(MEASUREMENTS);
    let rows: BTreeMap<String, usize> = rows.lines().map(row).collect();
    assert_eq!(rows, measurements(&events));
}

/// A key and a count.
fn row(line: &str) -> (String, usize) {
    let (key, count) = line.split_once('|').expect("two columns");
    (key.to_owned(), count.parse().expect("a count"))
}

/// The events of a directory by their keys, with how many rows each should have.
fn measurements(dir: &Path) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for file in fs::read_dir(dir).expect("there are files") {
        let file = file.expect("an entry").path();
        if file.extension().is_none_or(|kind| kind != "ndjson") {
            continue;
        }
        let text = fs::read_to_string(file).expect("text");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("an event is JSON");
            let key = event["eventkey"].as_str().expect("a key");
            let count = event["data"]["m"].as_array().expect("measurements").len();
            rows.insert(key.to_owned(), count.max(1));
        }
    }
    rows
}

#[test]
fn postgres_refuses_an_event_alone_and_takes_those_around_it() {
    let sandbox = Sandbox::new();
    let Some(postgres) = PostgresServer::start(&sandbox) else {
        return;
    };
    let more = "layout = \"measurement\"\nlinger = \"500ms\"";
    let setup = Setup::new(&sandbox).to_postgres("table", postgres.port, more);
    let gateway = Gateway::start(&setup).expecting(&["table"]);
    publish(&setup, [r#"{"n":0}"#.to_owned()]);
    gateway.wait_until_drained(TIMEOUT);
    postgres.query("ALTER TABLE telemetry ADD CONSTRAINT small CHECK (number < 100)");
    // What another index of somebody's refuses is not left out in silence.
    postgres.query("CREATE UNIQUE INDEX others ON telemetry (value)");
    let value = |n| match n {
        7 => "100",
        12 | 15 => "\"a\\u0000b\"",
        _ => "1",
    };
    publish(&setup, (1..30).map(|n| format!("{{\"n\":{}}}", value(n))));
    gateway.wait_for(TIMEOUT, "all but two", |now| {
        let table = now.destination("table");
        table.delivered == 28 && table.dead == 2
    });
    let dead = gateway.ask(&["dead-letter", "list"]);
    assert!(
        dead.contains("violates check constraint \"small\" (23514)"),
        "{dead}"
    );
    assert!(
        dead.contains("violates unique constraint \"others\" (23505)"),
        "{dead}"
    );
    gateway.finish();
    let texts = postgres.query("SELECT value FROM telemetry WHERE value IS NOT NULL");
    assert_eq!(texts.trim(), "\"a\u{2400}b\"");
}

#[test]
fn postgres_without_a_connection_to_spare_is_waited_for_and_holds_up_nobody() {
    let sandbox = Sandbox::new();
    let Some(postgres) = PostgresServer::start(&sandbox) else {
        return;
    };
    postgres.query(&format!(
        "CREATE ROLE gate LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 5"
    ));
    postgres.query("GRANT ALL ON SCHEMA public TO gate");
    let others: Vec<_> = (0..5).map(|_| postgres.occupy("gate")).collect();
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'gate'";
    wait::until(TIMEOUT, "others to take every connection", || {
        (postgres.query(at_work).trim() == "5").then_some(())
    });
    let setup = Setup::new(&sandbox).to_file("near").with(&format!(
        "[[destination]]\nname = \"table\"\ntype = \"postgres\"\n\
         servers = [\"127.0.0.1:{}\"]\ndatabase = \"postgres\"\nuser = \"gate\"\n\
         password = \"{PASSWORD}\"\ntimeout = \"3s\"\nconnect_timeout = \"2s\"\n\
         retry_max = \"1s\"",
        postgres.port
    ));
    let gateway = Gateway::start(&setup).expecting(&["table"]);
    let payload = |n: u32| format!("{{\"n\":{n}}}");
    publish(&setup, (1..=20).map(payload));
    let away = gateway.wait_for(TIMEOUT, "the server to say why", |now| {
        let error = now.destination("table").error.as_deref();
        error.is_some_and(|error| error.contains("53300"))
            && now.destination("near").delivered == 20
    });
    let table = away.destination("table");
    assert_eq!((table.backlog, table.dead), (20, 0), "{away:#?}");
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gate'";
    postgres.query(ended);
    drop(others);
    gateway.wait_until_drained(TIMEOUT);
    // What the server ends while nothing is under way is made anew.
    for round in 1..=3 {
        assert!(postgres.query(ended).contains('t'), "nobody was there");
        publish(&setup, (1..=20).map(|n| payload(round * 20 + n)));
        let status = gateway.wait_until_drained(TIMEOUT);
        assert_eq!(status.destination("table").dead, 0);
    }
    gateway.finish();
    let numbers = "SELECT event->'data'->'m'->0->>'v' FROM telemetry";
    let numbers = postgres.query(numbers);
    let mut numbers: Vec<u32> = numbers
        .lines()
        .map(|n| n.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=80).collect::<Vec<u32>>());
}

#[test]
fn postgres_needs_a_person_for_what_stays_wrong_and_no_restart_after_it() {
    let sandbox = Sandbox::new();
    let (Some(postgres), Some(certificates)) =
        (PostgresServer::start(&sandbox), Certificates::new(&sandbox))
    else {
        return;
    };
    certificates.issue("server");
    postgres.query("CREATE ROLE other LOGIN PASSWORD 'another'");
    let trust = format!("tls = true\nca = \"{}\"", certificates.ca().display());
    let wrong = format!(
        "[[destination]]\nname = \"wrong\"\ntype = \"postgres\"\n\
         servers = [\"127.0.0.1:{}\"]\ndatabase = \"postgres\"\n\
         user = \"other\"\npassword = \"open-sesame\"",
        postgres.port
    );
    let to = |setup: Setup, name: &str, more: &str| {
        let more = format!("table = \"{name}\"\n{more}");
        setup.to_postgres(name, postgres.port, &more)
    };
    let setup = to(Setup::new(&sandbox), "fine", "");
    let setup = to(setup, "nowhere", "create_table = false");
    let setup = to(to(setup, "encrypted", &trust), "distrust", "tls = true");
    let setup = setup.with(&wrong);
    let names = ["nowhere", "encrypted", "distrust", "wrong"];
    let gateway = Gateway::start(&setup).expecting(&names);
    publish(&setup, [r#"{"n":1}"#.to_owned()]);
    let stops = |name: &str, reason: &str| {
        gateway.wait_for(TIMEOUT, reason, |now| {
            let destination = now.destination(name);
            let said = destination.error.as_deref().unwrap_or_default();
            destination.state == "stopped" && said.contains(reason)
        });
    };
    let goes_on = |name: &str| {
        gateway.wait_for(TIMEOUT, name, |now| now.destination(name).delivered == 1);
    };
    stops("nowhere", "relation \"nowhere\" does not exist (42P01)");
    stops("encrypted", "server does not support TLS");
    stops(
        "wrong",
        "password authentication failed for user \"other\" (28P01)",
    );
    goes_on("fine");
    for table in ["nowhere", "telemetry"] {
        postgres.query(&format!("CREATE TABLE {table} (LIKE fine INCLUDING ALL)"));
    }
    postgres.query("ALTER ROLE other PASSWORD 'open-sesame'");
    postgres.show(
        &certificates.path("server.pem"),
        &certificates.path("server.key"),
    );
    // None of the system's authorities signed it.
    stops("distrust", "invalid peer certificate");
    for name in ["nowhere", "encrypted"] {
        goes_on(name);
    }
    // Its table is another's.
    stops("wrong", "permission denied for table telemetry (42501)");
    gateway.finish();
}

#[test]
fn opensearch_has_each_event_once_when_all_of_it_breaks_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let Some(mut opensearch) = OpenSearchServer::start(&sandbox) else {
        return;
    };
    let proxy = ChaosProxy::to(opensearch.port);
    let setup = Setup::new(&sandbox).to_opensearch("search", proxy.port, "");
    let mut gateway = Gateway::start(&setup).expecting(&["search"]);
    let mut fleet = load(&sandbox, &setup, seed);
    for _ in 0..2 {
        a_moment_of_delivery(&gateway, "search", &mut rng);
        proxy.set(Mode::LoseReplies);
        wait::pass(Duration::from_millis(rng.random_range(0..500)));
        proxy.set(Mode::Pass);
        a_moment_of_delivery(&gateway, "search", &mut rng);
        gateway.kill();
        gateway.start_again();
    }
    a_moment_of_delivery(&gateway, "search", &mut rng);
    opensearch.kill();
    opensearch.start_again();
    a_moment_of_delivery(&gateway, "search", &mut rng);
    fleet.stop(TIMEOUT);
    gateway.wait_until_drained(TIMEOUT);
    gateway.finish();
    let dump = opensearch.dump(&sandbox, "telemetry-*");
    Audit::files(&sandbox, &fleet, &dump, &[]).assert_clean();
}

#[test]
fn opensearch_refuses_what_does_not_fit_a_field_and_takes_the_rest_into_a_data_stream() {
    let sandbox = Sandbox::new();
    let Some(opensearch) = OpenSearchServer::start(&sandbox) else {
        return;
    };
    let more = "index = \"plant\"\ndata_stream = true\nlinger = \"500ms\"";
    let setup = Setup::new(&sandbox).to_opensearch("search", opensearch.port, more);
    let gateway = Gateway::start(&setup).expecting(&["search"]);
    publish(&setup, [r#"{"n":0,"state":"on"}"#.to_owned()]);
    gateway.wait_until_drained(TIMEOUT);
    let value = |n| match n {
        7 => "\"much\"".to_owned(),
        n => format!("{n}.5"),
    };
    publish(&setup, (1..30).map(|n| format!("{{\"n\":{}}}", value(n))));
    gateway.wait_for(TIMEOUT, "all but one", |now| {
        let search = now.destination("search");
        search.delivered == 29 && search.dead == 1
    });
    let dead = gateway.ask(&["dead-letter", "list"]);
    assert!(
        dead.contains("failed to parse field [values.n] of type [double]"),
        "{dead}"
    );
    gateway.finish();
    let hits = opensearch.documents("plant");
    assert_eq!(hits.len(), 29);
    // The first number that came was an integer, and the field still has fractions.
    let found = opensearch.get("/plant/_search?q=values.n:12.5&filter_path=hits.total.value");
    assert_eq!(found["hits"]["total"]["value"], 1);
    assert!(
        hits.iter().all(|hit| hit["_index"] == ".ds-plant-000001"),
        "{hits:?}"
    );
}

#[test]
fn opensearch_index_that_is_closed_holds_up_its_own_documents_only() {
    let sandbox = Sandbox::new();
    let Some(opensearch) = OpenSearchServer::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox).to_opensearch("search", opensearch.port, "");
    let gateway = Gateway::start(&setup).expecting(&["search"]);
    let delivered = |count| {
        gateway.wait_for(TIMEOUT, "documents to arrive", |now| {
            now.destination("search").delivered == count
        });
    };
    // 2025-01-15T12:00:00Z, and a minute later.
    publish(&setup, [r#"{"ts":1736942400000,"n":1}"#.to_owned()]);
    delivered(1);
    opensearch.post("/telemetry-2025.01.15/_close");
    publish(&setup, [r#"{"ts":1736942460000,"n":2}"#.to_owned()]);
    for n in 0..5 {
        publish_as(&setup, "press-8", [format!("{{\"n\":{n}}}")]);
        delivered(2 + n);
    }
    opensearch.post("/telemetry-2025.01.15/_open");
    delivered(7);
    assert_eq!(gateway.status().destination("search").dead, 0);
    gateway.finish();
    assert_eq!(opensearch.documents("telemetry-2025.01.15").len(), 2);
}
