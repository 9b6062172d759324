//! Gateways and other brokers: events out, messages in, and nothing in circles.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use penstock_tests::{
    ChaosProxy, Gateway, Mode, Sandbox, Setup, Sim,
    http_stub::HttpStub,
    mosquitto::{Mosquitto, Subscriber, publish, publish_lines, publish_with},
    seed, wait,
};
use rand::RngExt as _;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// The events in the files of a destination, in order.
fn events(dir: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("the destination has files")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ndjson")
        })
        .collect();
    files.sort();
    let text: String = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a file"))
        .collect();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line is an event"))
        .collect()
}

fn text<'e>(event: &'e Value, name: &str) -> &'e str {
    event[name].as_str().expect("an attribute")
}

#[test]
fn another_gateway_keeps_each_event_once_and_in_order_whichever_of_the_two_is_killed() {
    let (here, there) = (Sandbox::new(), Sandbox::new());
    let (seed, mut rng) = seed::seeded();
    let far_setup = Setup::new(&there).to_file("events");
    let mut far = Gateway::start(&far_setup);
    let wire = ChaosProxy::to(far_setup.mqtt);
    let setup = Setup::new(&here)
        .to_file("events")
        .to_mqtt("far", wire.port, "in_flight = 500");
    let mut near = Gateway::start(&setup).expecting(&["far"]);
    let mut fleet = Sim::new(&here, "fleet", setup.mqtt, seed)
        .load(20, 1_000)
        .with(&["--qos", "1", "--protocol", "mixed", "--format", "mixed"])
        .start();
    let delivered = |gateway: &Gateway| gateway.status().destination("far").delivered;
    for round in 0..6 {
        let before = delivered(&near);
        near.wait_for(SOON, "events on their way", |now| {
            now.destination("far").delivered > before + 500
        });
        wait::pass(Duration::from_millis(rng.random_range(0..300)));
        match round % 3 {
            // What was kept there and not heard of here goes again.
            0 => {
                wire.set(Mode::LoseReplies);
                wait::pass(Duration::from_millis(200));
                near.kill();
                wire.set(Mode::Pass);
                near.start_again();
            }
            1 => {
                far.kill();
                far.start_again();
            }
            _ => {
                wire.set(Mode::Reset);
                wait::pass(Duration::from_millis(200));
                wire.set(Mode::Pass);
            }
        }
    }
    let report = fleet.stop(Duration::from_secs(120));
    println!("the fleet: {report}");
    near.wait_until_drained(SOON);
    let doubled = far.wait_until_drained(SOON).ledger.duplicate;
    near.finish();
    far.finish();

    let sent = events(&setup.data().join("events"));
    let arrived = events(&far_setup.data().join("events"));
    println!("{} events, {doubled} second copies refused", sent.len());
    assert!(doubled > 0, "nothing was sent twice, so nothing is shown");
    let mut places = HashMap::new();
    for (place, event) in arrived.iter().enumerate() {
        let twice = places.insert(text(event, "id"), place);
        assert_eq!(twice, None, "{} arrived twice", text(event, "id"));
    }
    assert_eq!(arrived.len(), sent.len());
    let mut last: HashMap<&str, usize> = HashMap::new();
    for event in &sent {
        let place = places[text(event, "eventkey")];
        let before = last.insert(text(event, "device"), place);
        assert!(
            before < Some(place),
            "{} out of order",
            text(event, "device")
        );
        assert_eq!(text(&arrived[place], "device"), text(event, "device"));
    }
}

#[test]
fn local_programs_see_each_event_once_after_its_commit_and_in_order() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let Some(subscriber) = Subscriber::start(&sandbox, setup.mqtt, "$penstock/events/#") else {
        return;
    };
    for n in 0..20 {
        for _ in 0..2 {
            let key = format!("k{n}");
            let payload = format!("{{\"n\":{n}}}");
            publish(
                setup.mqtt,
                "devices/a/env/x",
                &payload,
                &[("idempotency-key", &key)],
            );
        }
    }
    let messages = subscriber.wait_for(20);
    for (n, message) in messages.iter().enumerate() {
        let (head, payload) = message.split_at(message.find('{').expect("JSON"));
        let (topic, head) = head.split_once(' ').expect("a topic");
        assert_eq!(topic, "$penstock/events/a/env.x");
        assert!(head.starts_with("application/cloudevents+json"), "{head}");
        let event: Value = serde_json::from_str(payload).expect("an event");
        assert_eq!(event["id"], format!("k{n}"));
        assert_eq!(event["data"]["m"][0]["v"], n);
        let key = format!("idempotency-key:{}", text(&event, "eventkey"));
        assert!(head.contains(&key), "{head}");
    }
    // A round trip: nothing else was on its way.
    publish(setup.mqtt, "devices/b/env", "{\"n\":99}", &[]);
    let messages = subscriber.wait_for(21);
    assert_eq!(messages.len(), 21);
    assert!(messages[20].starts_with("$penstock/events/b/env "));
    gateway.wait_until_drained(SOON);
    assert_eq!(gateway.status().ledger.stored, 21);
    drop(subscriber);
    gateway.finish();
}

/// A remote of the broker on `port`: commands for subscribers, settings for the journal.
fn remote(setup: Setup, port: u16, more: &str) -> Setup {
    setup.with(&format!(
        "[[remote]]\nname = \"cloud\"\nserver = \"mqtt://127.0.0.1:{port}\"\n{more}\n\
         [[remote.subscribe]]\nfilter = \"site/7/commands/#\"\n\
         remote_prefix = \"site/7/\"\nlocal_prefix = \"cloud/\"\n\
         [[remote.subscribe]]\nfilter = \"site/7/settings/#\"\njournal = true\n"
    ))
}

#[test]
fn what_a_remote_broker_took_while_the_gateway_was_down_arrives_in_order() {
    for version in ["5", "3.1.1"] {
        let sandbox = Sandbox::new();
        let Some(mut cloud) = Mosquitto::start(&sandbox) else {
            return;
        };
        let setup = Setup::new(&sandbox).to_file("events");
        let setup = remote(setup, cloud.port, &format!("version = \"{version}\""));
        let mut gateway = Gateway::start(&setup).expecting(&["remote"]);
        let connected = |gateway: &Gateway| {
            gateway.wait_for(SOON, "the remote", |now| {
                now.remotes[0].state == "connected"
            });
        };
        connected(&gateway);
        let Some(subscriber) = Subscriber::start(&sandbox, setup.mqtt, "cloud/#") else {
            return;
        };
        let send = |n: u32| {
            let payload = format!("{{\"n\":{n}}}");
            publish(cloud.port, "site/7/settings/a", &payload, &[]);
        };
        publish(
            cloud.port,
            "site/7/commands/valve",
            "open",
            &[("from", "them")],
        );
        let message = subscriber.wait_for(1).remove(0);
        assert!(message.starts_with("cloud/commands/valve "), "{message}");
        assert!(message.ends_with(" open"), "{message}");
        assert_eq!(message.contains("from:them"), version == "5", "{message}");
        drop(subscriber);

        (0..5).for_each(send);
        gateway.kill();
        (5..10).for_each(send);
        gateway.start_again();
        connected(&gateway);
        (10..15).for_each(send);
        let numbers = || -> Vec<u64> {
            events(&setup.data().join("events"))
                .iter()
                .map(|event| event["data"]["m"][0]["v"].as_u64().expect("a number"))
                .collect()
        };
        let arrived = |n| wait::until(SOON, "the last", || numbers().contains(&n).then_some(()));
        arrived(14);
        // The remote broker goes away and comes back.
        cloud.stop();
        gateway.wait_for(SOON, "the end of the remote", |now| {
            now.remotes[0].state == "connecting"
        });
        cloud.start_again();
        connected(&gateway);
        publish(cloud.port, "site/7/settings/a", "{\"n\":15}", &[]);
        arrived(15);
        gateway.finish();
        let mut seen = numbers();
        // At least once: what was not acknowledged when it died came again.
        seen.dedup();
        assert!(seen.ends_with(&(5..16).collect::<Vec<_>>()), "{seen:?}");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..16).collect::<Vec<_>>(), "in version {version}");
    }
}

#[test]
fn commands_wait_at_another_gateway_for_one_that_is_down_although_both_are_killed() {
    let (here, there) = (Sandbox::new(), Sandbox::new());
    let far_setup = Setup::new(&there).to_file("events");
    let mut far = Gateway::start(&far_setup);
    let setup = Setup::new(&here).to_file("events").with(&format!(
        "[[remote]]\nname = \"far\"\nserver = \"mqtt://127.0.0.1:{}\"\n\
         [[remote.subscribe]]\nfilter = \"commands/#\"\njournal = true\n",
        far_setup.mqtt
    ));
    let mut near = Gateway::start(&setup).expecting(&["remote"]);
    near.wait_for(SOON, "the remote", |now| {
        now.remotes[0].state == "connected"
    });
    let send = |n: u32| {
        let (payload, key) = (format!("{{\"n\":{n}}}"), format!("k{n}"));
        let user = [("idempotency-key", &*key)];
        publish(far_setup.mqtt, "commands/a", &payload, &user);
    };
    (0..5).for_each(send);
    near.kill();
    (5..10).for_each(send);
    far.kill();
    far.start_again();
    (10..15).for_each(send);
    near.start_again();
    near.wait_for(SOON, "all of them", |now| now.ledger.stored >= 15);
    near.wait_until_drained(SOON);
    near.finish();
    far.finish();
    let seen: Vec<u64> = events(&setup.data().join("events"))
        .iter()
        .map(|event| event["data"]["m"][0]["v"].as_u64().expect("a number"))
        .collect();
    // Each has a key, so those that came twice are kept once.
    assert_eq!(seen, (0..15).collect::<Vec<_>>());
}

#[test]
fn two_gateways_that_send_each_other_everything_make_no_circle() {
    let (here, there) = (Sandbox::new(), Sandbox::new());
    let (one, other) = (Setup::new(&here), Setup::new(&there));
    let (port_one, port_other) = (one.mqtt, other.mqtt);
    let both = |setup: Setup, port: u16| {
        setup
            .to_file("events")
            .to_mqtt("peer", port, "")
            .with(&format!(
                "[[remote]]\nname = \"peer\"\nserver = \"mqtt://127.0.0.1:{port}\"\n\
             [[remote.subscribe]]\nfilter = \"#\"\njournal = true\n"
            ))
    };
    let one = Gateway::start(&both(one, port_other)).expecting(&["peer"]);
    let other = Gateway::start(&both(other, port_one)).expecting(&["peer"]);
    for gateway in [&one, &other] {
        gateway.wait_for(SOON, "the remote", |now| {
            now.remotes[0].state == "connected"
        });
    }
    for n in 0..10 {
        let payload = format!("{{\"n\":{n}}}");
        publish(
            port_one,
            "devices/a/env",
            &payload,
            &[("idempotency-key", &payload)],
        );
        publish(
            port_other,
            "devices/b/env",
            &payload,
            &[("idempotency-key", &payload)],
        );
    }
    // Until nothing moves any more, which in a circle is never.
    let still = |gateway: &Gateway| {
        let status = gateway.wait_until_drained(SOON);
        (status.ledger.accepted, status.remotes[0].received)
    };
    let deadline = Instant::now() + SOON;
    let (mut before, mut since) = ((still(&one), still(&other)), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        assert!(Instant::now() < deadline, "messages go round and round");
        wait::pass(Duration::from_millis(200));
        let now = (still(&one), still(&other));
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    for gateway in [one, other] {
        let status = gateway.status();
        let remote = &status.remotes[0];
        println!("{:?} {remote:?}", status.ledger);
        // Its own, those of the other as events, and those of the other as messages.
        assert_eq!(status.ledger.stored, 30, "{:?}", status.ledger);
        assert!(remote.circles > 0, "{remote:?}");
        gateway.finish();
    }
}

#[test]
fn more_messages_than_there_is_room_for_wait_and_arrive_in_order() {
    const TOTAL: u64 = 2_000;
    for version in ["5", "3.1.1"] {
        let sandbox = Sandbox::new();
        let Some(cloud) = Mosquitto::start(&sandbox) else {
            return;
        };
        let setup = Setup::new(&sandbox).to_file("events");
        // A server of 3.1.1 does not know of our room, and sends twenty at a time.
        let more = format!("version = \"{version}\"\nin_flight = 1");
        let setup = remote(setup, cloud.port, &more);
        let gateway = Gateway::start(&setup);
        gateway.wait_for(SOON, "the remote", |now| {
            now.remotes[0].state == "connected"
        });
        let lines: String = (0..TOTAL).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        publish_lines(cloud.port, "site/7/settings/a", &lines);
        gateway.wait_for(SOON, "all of them", |now| now.ledger.stored >= TOTAL);
        gateway.wait_until_drained(SOON);
        gateway.finish();
        let seen: Vec<u64> = events(&setup.data().join("events"))
            .iter()
            .map(|event| event["data"]["m"][0]["v"].as_u64().expect("a number"))
            .collect();
        assert_eq!(seen, (0..TOTAL).collect::<Vec<_>>(), "in version {version}");
    }
}

/// A gateway with a remote that is connected, and its Mosquitto.
fn with_remote(
    sandbox: &Sandbox,
    setup: impl FnOnce(Setup, u16) -> Setup,
) -> Option<(Mosquitto, Gateway)> {
    let cloud = Mosquitto::start(sandbox)?;
    let setup = remote(setup(Setup::new(sandbox), cloud.port), cloud.port, "");
    let gateway = Gateway::start(&setup);
    gateway.wait_for(SOON, "the remote", |now| {
        now.remotes[0].state == "connected"
    });
    Some((cloud, gateway))
}

#[test]
fn events_of_a_remote_broker_go_everywhere_but_back_to_it() {
    let sandbox = Sandbox::new();
    let setup = |setup: Setup, port| setup.to_file("events").to_mqtt("back", port, "");
    let Some((cloud, gateway)) = with_remote(&sandbox, setup) else {
        return;
    };
    publish(cloud.port, "site/7/settings/a", "{\"n\":1}", &[]);
    gateway.wait_for(SOON, "the message", |now| now.ledger.stored == 1);
    publish(gateway.setup().mqtt, "devices/a/env", "{\"n\":2}", &[]);
    let status = gateway.wait_until_drained(SOON);
    assert_eq!(status.ledger.stored, 2);
    assert_eq!(status.destination("events").delivered, 2);
    assert_eq!(status.destination("back").routed, 1, "only the device's");
    gateway.finish();
}

#[test]
fn messages_of_qos_0_and_retained_ones_come_from_a_remote_broker_too() {
    let sandbox = Sandbox::new();
    let Some(cloud) = Mosquitto::start(&sandbox) else {
        return;
    };
    // Before there is a subscription.
    let retained = ["-q", "0", "-r"];
    publish_with(cloud.port, "site/7/settings/a", "{\"n\":1}", &retained);
    publish_with(cloud.port, "site/7/commands/valve", "open", &retained);
    let setup = remote(Setup::new(&sandbox).to_file("events"), cloud.port, "");
    let gateway = Gateway::start(&setup);
    gateway.wait_for(SOON, "what is retained", |now| {
        now.ledger.stored == 1 && now.remotes[0].received == 2
    });
    publish_with(cloud.port, "site/7/settings/a", "{\"n\":2}", &["-q", "0"]);
    gateway.wait_for(SOON, "the message", |now| now.ledger.stored == 2);
    // Retained there is retained here.
    let Some(subscriber) = Subscriber::start(&sandbox, setup.mqtt, "cloud/#") else {
        return;
    };
    let message = subscriber.wait_for(1).remove(0);
    assert!(message.starts_with("cloud/commands/valve "), "{message}");
    drop(subscriber);
    gateway.wait_until_drained(SOON);
    gateway.finish();
    let seen = events(&setup.data().join("events"));
    let seen: Vec<_> = seen
        .iter()
        .map(|event| &event["data"]["m"][0]["v"])
        .collect();
    assert_eq!(seen, [1, 2]);
}

#[test]
fn a_remote_broker_keeps_what_a_full_journal_has_no_room_for() {
    const TOTAL: u64 = 1_500;
    let sandbox = Sandbox::new();
    let hub = HttpStub::answering(503);
    let setup = |setup: Setup, _| {
        setup
            .with("[store]\nsize_max = \"16MiB\"\nreserve = \"4MiB\"")
            .to_http("hub", &hub.url())
    };
    let Some((cloud, gateway)) = with_remote(&sandbox, setup) else {
        return;
    };
    let gateway = gateway.expecting(&["hub", "full", "room"]);
    let filling = "x".repeat(16 * 1024);
    let line = |n| format!("{{\"n\":{n},\"s\":\"{filling}\"}}\n");
    let lines: String = (0..TOTAL).map(line).collect();
    publish_lines(cloud.port, "site/7/settings/a", &lines);
    let full = gateway.wait_for(SOON, "a full journal", |now| now.store.full);
    assert!(full.ledger.stored < TOTAL, "{:?}", full.ledger);
    hub.set(202);
    gateway.wait_for(SOON, "all of them", |now| now.ledger.stored >= TOTAL);
    gateway.wait_until_drained(SOON);
    gateway.finish();
}

#[test]
fn a_reply_with_the_marks_of_a_command_that_was_only_shown_is_kept() {
    let sandbox = Sandbox::new();
    let setup = |setup: Setup, _| setup.to_file("events");
    let Some((cloud, gateway)) = with_remote(&sandbox, setup) else {
        return;
    };
    let mqtt = gateway.setup().mqtt;
    let Some(subscriber) = Subscriber::start(&sandbox, mqtt, "cloud/#") else {
        return;
    };
    publish(cloud.port, "site/7/commands/valve", "open", &[]);
    let message = subscriber.wait_for(1).remove(0);
    let mark = message
        .split(' ')
        .find_map(|word| word.strip_prefix("penstock-shown:"))
        .unwrap_or_else(|| panic!("no mark in {message}"));
    assert!(!message.contains("penstock-via:"), "{message}");
    // As programs do that answer with the properties of the question.
    let marks = [("penstock-shown", mark)];
    publish(mqtt, "devices/valve/state", "{\"open\":true}", &marks);
    gateway.wait_for(SOON, "the answer", |now| now.ledger.stored == 1);
    // The question itself, sent here once more by another broker, is known by its mark.
    publish(cloud.port, "site/7/settings/a", "{\"n\":1}", &marks);
    gateway.wait_for(SOON, "the copy", |now| now.remotes[0].received == 2);
    let status = gateway.wait_until_drained(SOON);
    assert_eq!((status.ledger.stored, status.remotes[0].circles), (1, 1));
    drop(subscriber);
    gateway.finish();
}
