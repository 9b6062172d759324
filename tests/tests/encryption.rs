//! What devices said lies encrypted on the disk, whatever is killed; without the key nothing
//! starts and nothing is harmed; and everything is brought under another key, killed in the
//! midst of it again and again.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use penstock_tests::{
    Audit, ChaosProxy, Gateway, HttpReceiver, Mode, Sandbox, Setup, Sim, damage,
    mqtt::{self, Client, Version},
    process::Process,
    programs, seed, turns, wait,
};
use rand::RngExt as _;

/// What no file may have: in a topic's payload, and within text that is no JSON.
const MARKER: &str = "marker7f3a";
/// Events that wait while keys are changed.
const WAITING: u64 = 20_000;

fn penstock(arguments: &[&str], config: Option<&Path>) -> Output {
    let mut command = Command::new(programs::penstock());
    command.args(arguments);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.output().expect("the program runs")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Makes a key; where it is.
fn new_key(sandbox: &Sandbox, name: &str) -> String {
    let path = sandbox.path(name).display().to_string();
    let made = penstock(&["encryption", "new-key", &path], None);
    assert!(made.status.success(), "{}", said(&made));
    let again = penstock(&["encryption", "new-key", &path], None);
    assert!(!again.status.success(), "a key was written over");
    path
}

fn keys(current: &str, old: &[&str]) -> String {
    let mut text = format!("[encryption]\nkey_file = {current:?}\n");
    for old in old {
        text += &format!("[[encryption.old_keys]]\nkey_file = {old:?}\n");
    }
    text
}

/// Files in a directory that have the marker.
fn found(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let is_there = path.is_file() && {
            // One that the gateway has renamed meanwhile is looked at under its name.
            let bytes = fs::read(&path).unwrap_or_default();
            bytes
                .windows(MARKER.len())
                .any(|part| part == MARKER.as_bytes())
        };
        if is_there {
            found.push(path.display().to_string());
        }
    }
    found
}

fn publish(client: &mut Client, topic: &str, payload: &str, id: u16) {
    client
        .publish(topic, payload.as_bytes(), 1, id)
        .expect("it is sent");
    let ack = client.ack(Duration::from_secs(10)).expect("connected");
    assert_eq!(ack.map(|ack| ack.id), Some(id));
}

/// The same, retained.
fn retain(client: &mut Client, topic: &str, payload: &str, id: u16) {
    let mut packet = mqtt::publish(Version::V4, topic, payload.as_bytes(), 1, id);
    packet[0] |= 1;
    client.send(&packet).expect("it is sent");
    client.ack(Duration::from_secs(10)).expect("connected");
}

#[test]
fn nothing_that_was_said_is_on_the_disk_and_nothing_is_read_without_the_key() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let mut receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    wire.set(Mode::Reset);
    let key = new_key(&sandbox, "one.key");
    let other = new_key(&sandbox, "other.key");
    let url = format!("http://127.0.0.1:{}", wire.port);
    let bare = Setup::new(&sandbox).to_http("lake", &url).with(&format!(
        "[[rule]]\nname = \"hot\"\npattern = '{{\"device\":[{{\"exists\":true}}]}}'\n\
         destinations = [\"lake\"]\n[rule.alarm]\nseverity = \"critical\"\ntext = \"{MARKER} is hot\"\n\
         [[mapping]]\ntopic = \"devices/{{device}}/{{type}}\"\nraw = \"always\"\n"
    ));
    let setup = bare.clone().with(&keys(&key, &[]));
    let mut gateway = Gateway::start(&setup).expecting(&["lake", "damage", "set aside", "salvag"]);
    let data = setup.data();

    let (away, _) = Client::try_resume(setup.mqtt, "away").expect("connected");
    let mut away = away;
    away.send(&mqtt::subscribe(Version::V4, "devices/#", 1, 1))
        .expect("sent");
    away.next(Duration::from_secs(5))
        .expect("connected")
        .expect("SUBACK");
    drop(away);
    let mut device = Client::connect(setup.mqtt, Version::V4, "device");
    for n in 1..=50 {
        let text = format!("{{\"note\":\"{MARKER}\",\"n\":{n}}}");
        publish(&mut device, "devices/pump/reading", &text, n);
    }
    publish(
        &mut device,
        "devices/pump/reading",
        &format!("{{{MARKER}"),
        60,
    );
    retain(
        &mut device,
        "devices/pump/last",
        &format!("{{\"last\":\"{MARKER}\"}}"),
        61,
    );
    gateway.wait_for(Duration::from_secs(20), "an alarm", |status| {
        status.store.in_quarantine >= 1 && data.join("rules.db").is_file()
    });
    wait::pass(Duration::from_secs(1));
    assert_eq!(found(data), Vec::<String>::new(), "while it runs");
    gateway.kill();
    assert_eq!(found(data), Vec::<String>::new(), "after a kill");

    // Without the key, or with another one, nothing starts and nothing changes.
    let config = setup.write();
    let journal = fs::read(data.join("journal.db")).expect("the journal");
    for (wrong, words) in [
        (bare.clone(), "name it in [encryption]"),
        (
            bare.clone().with(&keys(&other, &[])),
            "none of those in [encryption]",
        ),
        (bare.clone().with(&keys("gone.key", &[])), "new-key"),
    ] {
        let file = wrong.write();
        let output = penstock(&["run"], Some(&file));
        assert!(!output.status.success());
        assert!(said(&output).contains(words), "{}", said(&output));
        let list = penstock(&["quarantine", "list"], Some(&file));
        assert!(!list.status.success(), "{}", said(&list));
    }
    assert_eq!(
        fs::read(data.join("journal.db")).expect("the journal"),
        journal
    );
    // And an open key file is none.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
    setup.write();
    let output = penstock(&["check-config"], Some(&config));
    assert!(said(&output).contains("chmod 600"), "{}", said(&output));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");

    // A damaged file is salvaged as ever, and nothing of it is written in plain text.
    damage::blank(&data.join("journal.db"), 0, 4_096);
    gateway.start_again();
    let quarantine = gateway.ask(&["quarantine", "list"]);
    assert!(quarantine.contains("devices/pump/reading"), "{quarantine}");
    assert_eq!(found(data), Vec::<String>::new(), "after a salvage");
    wire.set(Mode::Pass);
    gateway.wait_until_drained(Duration::from_secs(60));
    let (mut away, is_known) = Client::try_resume(setup.mqtt, "away").expect("connected");
    assert!(is_known);
    let first = away
        .next(Duration::from_secs(5))
        .expect("connected")
        .expect("a message");
    assert!(String::from_utf8_lossy(&first.body).contains(MARKER));
    gateway.finish();
    let received = fs::read_to_string(receiver.dir().join("events.ndjson")).expect("received");
    for n in 1..=50 {
        // As a measurement of its own.
        let value = format!("{{\"n\":\"n\",\"v\":{n}}}");
        assert!(received.contains(&value), "{n}");
    }
    assert!(received.contains(MARKER), "the test can fail");
    receiver.kill();
}

#[test]
fn another_key_takes_over_however_often_it_is_killed_on_the_way() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let mut receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    wire.set(Mode::Reset);
    let (one, two) = (new_key(&sandbox, "one.key"), new_key(&sandbox, "two.key"));
    let url = format!("http://127.0.0.1:{}", wire.port);
    let bare = Setup::new(&sandbox).to_http("lake", &url);
    // Half of it from before there was a key.
    let mut gateway = Gateway::start(&bare).expecting(&["lake", "before stays as it is"]);
    let load = |name: &str, port| {
        let mut fleet = Sim::new(&sandbox, name, port, seed)
            .load(20, 0)
            .with(&["--qos", "1", "--protocol", "mixed", "--prefix", name])
            .with(&["--count", &(WAITING / 2).to_string()])
            .start();
        fleet.finish(Duration::from_secs(120));
        fleet
    };
    let plain = load("plain", bare.mqtt);
    gateway.stop();
    gateway.start_with(&bare.clone().with(&keys(&one, &[])));
    let sealed = load("sealed", bare.mqtt);
    // Beside a gateway nothing is changed.
    let running = gateway.command(&["encryption", "reseal"]);
    assert!(
        !running.status.success() && said(&running).contains("another gateway"),
        "{}",
        said(&running)
    );
    gateway.kill();

    let both = bare.clone().with(&keys(&two, &[&one]));
    let config = both.write();
    let mut ended = false;
    for turn in 0..8 {
        let mut command = Command::new(programs::penstock());
        command
            .args(["encryption", "reseal", "--config"])
            .arg(&config);
        let mut process = Process::spawn(command, "reseal", &sandbox.path("reseal.log"));
        wait::pass(Duration::from_millis(rng.random_range(5..400)));
        ended = process.ended().is_some_and(|status| status.success());
        process.kill();
        // Whatever was done is whole, and what was not is still known.
        let verified = penstock(&["buffer", "verify"], Some(&config));
        assert!(
            verified.status.success(),
            "kill {turn}: {}",
            said(&verified)
        );
        if ended {
            break;
        }
        // The first key is needed to the end, and only to the end.
        let early = bare.clone().with(&keys(&two, &[])).write();
        let refused = penstock(&["buffer", "verify"], Some(&early));
        both.write();
        if refused.status.success() {
            break;
        }
        assert!(
            said(&refused).contains("sealed with the key"),
            "{}",
            said(&refused)
        );
    }
    if !ended {
        let done = penstock(&["encryption", "reseal"], Some(&config));
        assert!(done.status.success(), "{}", said(&done));
    }
    let status = said(&penstock(&["encryption", "status"], Some(&config)));
    assert!(status.contains("journal.db: 0 plain"), "{status}");
    assert_eq!(
        status.matches("under key").count(),
        status.matches("0 plain, ").count(),
        "{status}"
    );

    gateway.start_with(&bare.clone().with(&keys(&two, &[])));
    wire.set(Mode::Pass);
    gateway.wait_until_drained(Duration::from_secs(120));
    gateway.finish();
    let more = sealed.ack_log().display().to_string();
    let audit = Audit::files(&sandbox, &plain, receiver.dir(), &["--ack-log", &more]);
    assert_eq!((audit.count("lost"), audit.count("phantom")), (0, 0));
    receiver.kill();

    // And off again.
    let off = penstock(
        &["encryption", "reseal", "--plain"],
        Some(&gateway_config(&bare, &two)),
    );
    assert!(off.status.success(), "{}", said(&off));
    let verified = penstock(&["buffer", "verify"], Some(&bare.write()));
    assert!(verified.status.success(), "{}", said(&verified));
}

fn gateway_config(bare: &Setup, key: &str) -> std::path::PathBuf {
    bare.clone().with(&keys(key, &[])).write()
}
