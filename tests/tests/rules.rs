//! Rules with the real gateway: what goes where, and what happens while they change.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup, http,
    mqtt::{Client, Version},
    wait,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(30);

fn rule(above: u32) -> String {
    format!(
        "[[rule]]\nname = \"hot\"\n\
         pattern = '{{\"values\": {{\"v\": [{{\"numeric\": [\">\", {above}]}}]}}}}'\n\
         destinations = [\"alarms\"]\n"
    )
}

/// Publishes, and returns when the gateway has it on disk.
fn publish(client: &mut Client, value: u32, id: u16) {
    let payload = format!("{{\"v\":{value}}}");
    let sent = client.publish("devices/b7/telemetry", payload.as_bytes(), 1, id);
    sent.expect("the gateway reads");
    let ack = client.ack(LONG).expect("the gateway answers");
    assert_eq!(ack.map(|ack| (ack.id, ack.reason)), Some((id, 0)));
}

/// How often the configuration was read again, with these words about it.
fn read_again(setup: &Setup, words: &str) -> usize {
    let log = fs::read_to_string(setup.log()).unwrap_or_default();
    log.matches(words).count()
}

/// Changes the file and waits until the gateway has said something about it.
fn change(gateway: &mut Gateway, setup: &Setup, text: &str, words: &str) {
    let before = read_again(setup, words);
    // At once, so that nobody reads half of it.
    let (file, new) = (
        setup.log().with_file_name("penstock.toml"),
        setup.log().with_file_name("new.toml"),
    );
    fs::write(&new, text).expect("it can be written");
    fs::rename(&new, &file).expect("it can be replaced");
    gateway.process().signal(Signal::HUP);
    wait::until(LONG, "the configuration to be read again", || {
        (read_again(setup, words) > before).then_some(())
    });
}

#[test]
fn rules_route_and_change_while_devices_publish_without_losing_an_event() {
    const IN_FORCE: &str = "were read again and are in force";

    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox)
        .to_file("lake")
        .to_file("alarms")
        .with(&rule(80));
    let text = fs::read_to_string(setup.write()).expect("the configuration");
    let with = |above| text.replace(&rule(80), &rule(above));
    let mut gateway = Gateway::start(&setup).expecting(&["stay as they were"]);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for (id, value) in (1..).zip([90, 10, 81, 80, 20]) {
        publish(&mut client, value, id);
    }
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("lake").routed, 5);
    assert_eq!(status.destination("alarms").routed, 2);

    // Somebody publishes all the time while the rules change to and fro.
    let (stop, acknowledged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU16::new(0)),
    );
    let device = thread::spawn({
        let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
        let mut client = Client::connect(setup.mqtt, Version::V5, "d");
        move || {
            while !stop.load(Relaxed) && acknowledged.load(Relaxed) < 60_000 {
                publish(&mut client, 90, acknowledged.load(Relaxed) + 1);
                acknowledged.fetch_add(1, Relaxed);
            }
        }
    });
    for above in [95, 80, 95, 80, 95] {
        change(&mut gateway, &setup, &with(above), IN_FORCE);
        let before = acknowledged.load(Relaxed);
        wait::until(LONG, "some events to pass by these rules", || {
            (acknowledged.load(Relaxed) > before + 2).then_some(())
        });
    }
    stop.store(true, Relaxed);
    device.join().expect("every publish was acknowledged");
    let many = u64::from(acknowledged.load(Relaxed));
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("lake").routed, 5 + many);
    let hot = status.destination("alarms").routed;
    assert!(hot > 2 && hot < 2 + many, "{hot} of {many}");

    // What is wrong changes nothing, and the rule before it holds.
    let wrong = with(95).replace("\">\"", "\"=>\"");
    change(&mut gateway, &setup, &wrong, "stay as they were");
    for (id, value) in (6..).zip([96, 90]) {
        publish(&mut client, value, id);
    }
    // Nor do rules that come with events that are made otherwise.
    let more = format!("site = \"north\"\n{}", with(10));
    change(
        &mut gateway,
        &setup,
        &more,
        "stay as they were until a restart",
    );
    publish(&mut client, 50, 8);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("alarms").routed, hot + 1);
    assert_eq!(status.destination("lake").routed, 8 + many);
    drop(client);
    gateway.finish();
}

#[test]
fn rules_wait_for_what_they_were_written_with_and_a_new_file_is_watched_before_it_is_right() {
    const IN_FORCE: &str = "destinations and rules were read again and are in force";

    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox)
        .to_file("lake")
        .to_file("alarms")
        .with(&rule(80));
    let text = fs::read_to_string(setup.write()).expect("the configuration");
    let mut gateway = Gateway::start(&setup).expecting(&["stay as they were"]);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");

    // Wider, because events are made otherwise: nothing of it holds before the restart.
    let otherwise = text.replace(&rule(80), &rule(10));
    let otherwise = format!("site = \"north\"\n{otherwise}");
    change(
        &mut gateway,
        &setup,
        &otherwise,
        "until a restart, because what they are written for has changed: site",
    );
    publish(&mut client, 50, 1);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("alarms").routed, 0);

    // A pattern in a new file, with a mistake: putting the file right is enough.
    let pattern = setup.log().with_file_name("new.json");
    let device = |value| format!(r#"{{"device": [{value}]}}"#);
    fs::write(&pattern, device("b7")).expect("it can be written");
    let inline = rule(80);
    let line = inline.lines().find(|line| line.starts_with("pattern"));
    let with_file = text.replace(line.expect("it has one"), "pattern_file = \"new.json\"");
    change(&mut gateway, &setup, &with_file, "stay as they were: ");
    let before = read_again(&setup, IN_FORCE);
    fs::write(&pattern, device("\"b7\"")).expect("it can be written");
    wait::until(LONG, "the file to be read again", || {
        (read_again(&setup, IN_FORCE) > before).then_some(())
    });
    publish(&mut client, 1, 2);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("alarms").routed, 1);
    drop(client);
    gateway.finish();
}

/// Asks for a backtest.
fn backtest(setup: &Setup, token: &str, asked: &str) -> (u16, serde_json::Value) {
    let request = format!(
        "POST /api/v1/backtest HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{asked}",
        asked.len()
    );
    let reply = http::exchange(setup.http, request.as_bytes()).expect("an answer");
    let body = serde_json::from_str(&reply.body).expect("JSON");
    (reply.status, body)
}

#[test]
fn a_change_of_a_rule_is_tried_over_the_api_by_who_may_and_changes_nothing() {
    const OPERATOR: &str = "0123456789-of-an-operator";
    const VIEWER: &str = "0123456789-of-a-viewer";
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox)
        .to_file("lake")
        .to_file("alarms")
        .with("[store]\nkeep_delivered = \"1h\"")
        .with(&rule(80))
        .with(&format!(
            "[[http.token]]\nname = \"o\"\nrole = \"operator\"\nsecret = \"{OPERATOR}\"\n\
             [[http.token]]\nname = \"v\"\nrole = \"viewer\"\nsecret = \"{VIEWER}\"\n"
        ));
    let gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    for (id, value) in (1..).zip([90, 10, 81, 80]) {
        publish(&mut client, value, id);
    }
    let hotter = r#"{"rules": [{"name": "hot", "destinations": ["alarms"],
        "pattern": {"values": {"v": [{"numeric": [">", 85]}]}}}]}"#;
    let (status, said) = backtest(&setup, OPERATOR, hotter);
    assert_eq!((status, &said["events"]), (200, &4.into()), "{said}");
    let rule = &said["rules"][0];
    let counts = ["takes", "in_force", "gained", "lost"].map(|name| rule[name].as_u64());
    assert_eq!(counts, [Some(1), Some(2), Some(0), Some(1)], "{said}");
    assert_eq!(rule["devices"]["b7"], 1);
    assert!(said["next"].is_null() && said["until"] == 4, "{said}");
    // Where a page ended another one begins; nothing was received later.
    let rest = backtest(&setup, OPERATOR, r#"{"after": 2, "until": 3}"#).1;
    assert_eq!((&rest["events"], &rest["until"]), (&1.into(), &3.into()));
    let later = r#"{"from": "2100-01-01T00:00:00Z", "pattern": {"device": ["b7"]}}"#;
    let said = backtest(&setup, OPERATOR, later).1;
    assert_eq!(
        (&said["events"], &said["rules"][0]["rule"]),
        (&0.into(), &"(pattern)".into())
    );
    for (asked, words) in [
        ("[]", "should be a JSON object"),
        (r#"{"rule": "none"}"#, "there is no rule \"none\""),
        (r#"{"form": "x"}"#, "unknown field `form`"),
        (r#"{"from": "noon"}"#, "from: \"noon\" is not a time"),
        (r#"{"pattern": {"device": "b7"}}"#, "pattern: line 1"),
        (
            r#"{"rules": [{"name": "a", "pattern": {"device": ["b7"]}, "destinations": ["lak"]}]}"#,
            "rule[1].destinations: \"lak\" should be one of",
        ),
        (
            r#"{"rules": [{"name": "a", "pattern": {"device": ["b7"]}, "destinations": ["lake"]},
                {"name": "a", "pattern": {"device": ["b8"]}, "destinations": ["lake"]}]}"#,
            "rule[2].name: another one is named \"a\" as well",
        ),
    ] {
        let (status, said) = backtest(&setup, OPERATOR, asked);
        let detail = said["detail"].as_str().expect("a reason");
        assert!(status == 400 && detail.contains(words), "{asked}: {said}");
    }
    assert_eq!(backtest(&setup, VIEWER, "{}").0, 403);
    let request = format!(
        "GET /api/v1/status HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {VIEWER}\r\n\r\n"
    );
    let reply = http::exchange(setup.http, request.as_bytes()).expect("an answer");
    let status: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
    let of = |name: &str| {
        status["destinations"]
            .as_array()
            .expect("some")
            .iter()
            .find(|one| one["name"] == name)
            .cloned()
    };
    assert_eq!(of("alarms").expect("it is there")["routed"], 2);
    drop(client);
    gateway.finish();
}
