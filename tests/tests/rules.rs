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
    Gateway, Sandbox, Setup,
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
