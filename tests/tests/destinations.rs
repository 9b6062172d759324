//! Destinations that come, go and are run otherwise while devices publish.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup,
    mqtt::{Client, Version},
    programs, wait,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(30);
const IN_FORCE: &str = "destinations and rules were read again and are in force";

/// Publishes, and returns when the gateway has it on disk.
fn publish(client: &mut Client, value: u32, id: u16) {
    let payload = format!("{{\"v\":{value}}}");
    let sent = client.publish("devices/b7/telemetry", payload.as_bytes(), 1, id);
    sent.expect("the gateway reads");
    let ack = client.ack(LONG).expect("the gateway answers");
    assert_eq!(ack.map(|ack| (ack.id, ack.reason)), Some((id, 0)));
}

/// Puts another configuration in the place of the one that runs.
fn change(gateway: &mut Gateway, before: &Setup, text: &str) {
    let read_again = || {
        let log = fs::read_to_string(before.log()).unwrap_or_default();
        log.matches(IN_FORCE).count()
    };
    let earlier = read_again();
    let file = before.log().with_file_name("penstock.toml");
    let new = before.log().with_file_name("new.toml");
    fs::write(&new, text).expect("it can be written");
    fs::rename(&new, &file).expect("it can be replaced");
    gateway.process().signal(Signal::HUP);
    wait::until(LONG, "the configuration to be in force", || {
        (read_again() > earlier).then_some(())
    });
}

fn destination(setup: &Setup, arguments: &[&str]) -> Output {
    Command::new(programs::penstock())
        .arg("destination")
        .args(arguments)
        .arg("--config")
        .arg(setup.log().with_file_name("penstock.toml"))
        .output()
        .expect("the program runs")
}

#[track_caller]
fn done(setup: &Setup, arguments: &[&str]) {
    let output = destination(setup, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[track_caller]
fn refused(setup: &Setup, arguments: &[&str], why: &str) {
    let output = destination(setup, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} is done");
    assert!(said.contains(why), "{arguments:?}: {said}");
}

/// The values in a file destination's files, in the order of the lines.
fn values(setup: &Setup, directory: &str) -> Vec<u64> {
    values_in(&setup.data().join(directory))
}

fn values_in(directory: &Path) -> Vec<u64> {
    let files = fs::read_dir(directory);
    let mut paths: Vec<_> = files
        .map(|all| all.filter_map(|one| Some(one.ok()?.path())).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "ndjson"));
    paths.sort();
    let mut values = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).expect("a file");
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            values.push(line["data"]["m"][0]["v"].as_u64().expect("a number"));
        }
    }
    values
}

#[test]
fn destinations_come_change_and_go_while_the_others_deliver() {
    let sandbox = Sandbox::new();
    let one = Setup::new(&sandbox).to_file("lake");
    let text = fs::read_to_string(one.write()).expect("the configuration");
    let mut gateway = Gateway::start(&one).expecting(&["destination removed"]);
    let mut client = Client::connect(one.mqtt, Version::V5, "c");
    publish(&mut client, 1, 1);
    gateway.wait_until_drained(LONG);

    // A new one, which begins with what comes from now on.
    let with = |more: &str| format!("{text}\n{more}");
    let copy = "[[destination]]\nname = \"copy\"\ntype = \"file\"\npath = \"copy\"\n";
    change(&mut gateway, &one, &with(copy));
    publish(&mut client, 2, 2);
    gateway.wait_until_drained(LONG);
    assert_eq!(values(&one, "copy"), [2]);

    // Elsewhere, by the same name: it goes on where it stood.
    done(&one, &["pause", "copy"]);
    publish(&mut client, 3, 3);
    let elsewhere = copy.replace("path = \"copy\"", "path = \"elsewhere\"");
    change(&mut gateway, &one, &with(&elsewhere));
    publish(&mut client, 4, 4);
    assert_eq!(
        gateway.status().destination("copy").backlog,
        2,
        "it is paused still"
    );
    done(&one, &["resume", "copy"]);
    gateway.wait_until_drained(LONG);
    assert_eq!(values(&one, "elsewhere"), [3, 4]);
    assert_eq!(values(&one, "copy"), [2]);

    // Gone from the configuration with something to deliver: it is kept, until somebody
    // gives it up in words.
    done(&one, &["pause", "copy"]);
    publish(&mut client, 5, 5);
    refused(&one, &["remove", "copy"], "the configuration names");
    change(&mut gateway, &one, &text);
    publish(&mut client, 6, 6);
    let status = gateway.status();
    let gone = status.destination("copy");
    assert_eq!((gone.state.as_str(), gone.backlog), ("unconfigured", 1));
    refused(&one, &["remove", "copy"], "1 events wait");
    refused(&one, &["pause", "copy"], "does not name");
    done(&one, &["remove", "copy", "--discard"]);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destinations.len(), 1);
    assert_eq!(values(&one, "lake"), [1, 2, 3, 4, 5, 6]);
    status.assert_balanced();
    drop(client);
    gateway.finish();
}

#[test]
fn a_new_destination_begins_with_what_is_kept_and_what_rules_send_it() {
    let sandbox = Sandbox::new();
    let one = Setup::new(&sandbox).to_file("lake");
    let text = fs::read_to_string(one.write()).expect("the configuration");
    let mut gateway = Gateway::start(&one);
    let mut client = Client::connect(one.mqtt, Version::V5, "c");
    done(&one, &["pause", "lake"]);
    for value in 1..=20 {
        publish(&mut client, value, u16::try_from(value).expect("small"));
    }
    let hot = "[[destination]]\nname = \"hot\"\ntype = \"file\"\npath = \"hot\"\n\
               start = \"oldest\"\n\
               [[rule]]\nname = \"hot\"\ndestinations = [\"hot\"]\n\
               pattern = '{\"values\": {\"v\": [{\"numeric\": [\">\", 15]}]}}'\n";
    change(&mut gateway, &one, &format!("{text}\n{hot}"));
    wait::until(LONG, "what was kept to arrive", || {
        (values(&one, "hot") == [16, 17, 18, 19, 20]).then_some(())
    });
    // A pause is known after a crash, and so is what was given.
    gateway.kill();
    gateway.start_with(&one.clone().with(hot));
    publish(&mut client_again(&one), 30, 30);
    wait::until(LONG, "the next one to arrive", || {
        (values(&one, "hot") == [16, 17, 18, 19, 20, 30]).then_some(())
    });
    assert_eq!(gateway.status().destination("lake").backlog, 21);
    assert!(values(&one, "lake").is_empty());
    done(&one, &["resume", "lake"]);
    gateway.wait_until_drained(LONG);
    assert_eq!(values(&one, "lake").len(), 21);
    gateway.finish();
}

fn client_again(setup: &Setup) -> Client {
    Client::connect(setup.mqtt, Version::V5, "d")
}

#[test]
fn a_draining_destination_gets_what_waits_and_nothing_more() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("lake").to_file("old");
    let mut gateway = Gateway::start(&setup);
    let mut client = Client::connect(setup.mqtt, Version::V5, "c");
    done(&setup, &["pause", "old"]);
    for value in 1..=10 {
        publish(&mut client, value, u16::try_from(value).expect("small"));
    }
    done(&setup, &["drain", "old"]);
    publish(&mut client, 11, 11);
    let status = gateway.wait_until_drained(LONG);
    assert_eq!(status.destination("old").routed, 10);
    assert_eq!(values(&setup, "old").len(), 10);
    assert_eq!(values(&setup, "lake").len(), 11);
    // That is so after a crash, too.
    gateway.kill();
    gateway.start_again();
    let mut client = client_again(&setup);
    publish(&mut client, 12, 12);
    assert_eq!(
        gateway.wait_until_drained(LONG).destination("old").routed,
        10
    );
    // Nobody is left: what comes is held, and not lost.
    done(&setup, &["drain", "lake"]);
    publish(&mut client, 13, 13);
    let said = destination(&setup, &["list"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("old  draining (idle)"), "{said}");
    assert_eq!(gateway.status().destination("lake").routed, 12);
    let said = gateway.ask(&["status"]);
    assert!(said.contains("to no destination: 1 = held 1"), "{said}");
    done(&setup, &["resume", "lake"]);
    publish(&mut client, 14, 14);
    gateway.wait_until_drained(LONG).assert_balanced();
    drop(client);
    gateway.finish();
}
