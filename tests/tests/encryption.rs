//! What devices said lies encrypted on the disk, whatever is killed; without the key nothing
//! starts and nothing is harmed; and everything is brought under another key, killed in the
//! midst of it again and again.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime},
};

use penstock_tests::{
    Audit, ChaosProxy, Gateway, HttpReceiver, Mode, Sandbox, Setup, Sim, damage,
    disk::SmallDisk,
    mqtt::{self, Client, Version},
    process::Process,
    programs, seed, turns, wait,
};
use rand::RngExt as _;

/// What no file may have: in a topic's payload, and within text that is no JSON.
const MARKER: &str = "marker7f3a";
/// Events that wait while keys are changed.
const WAITING: u64 = 20_000;
/// What is sealed, in the order in which it is brought under another key.
const DATABASES: [&str; 3] = ["journal.db", "broker.db", "rules.db"];
/// Devices beside those, each with an alarm, a message in a queue, and a retained one.
const PUMPS: u16 = 150;
/// The fleet's events go to `lake`, and nothing else does; pumps raise alarms.
const PUMPING: &str = r#"
[[rule]]
name = "fleet"
pattern = '{"device": [{"prefix": "plain"}, {"prefix": "sealed"}]}'
destinations = ["lake"]
[[rule]]
name = "hot"
pattern = '{"device": [{"prefix": "pump"}]}'
[rule.alarm]
severity = "critical"
text = "too hot"
"#;

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
    numbered_key(sandbox, name).0
}

/// Makes a key; where it is, and its number.
fn numbered_key(sandbox: &Sandbox, name: &str) -> (String, String) {
    let path = sandbox.path(name).display().to_string();
    let made = penstock(&["encryption", "new-key", &path], None);
    assert!(made.status.success(), "{}", said(&made));
    let again = penstock(&["encryption", "new-key", &path], None);
    assert!(!again.status.success(), "a key was written over");
    let number = said(&made).split_whitespace().nth(1).map(str::to_owned);
    (path, number.expect("key NUMBER is in FILE"))
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

/// When `penstock encryption reseal` is killed.
#[derive(Debug, Clone, Copy)]
enum At {
    /// So long after it began.
    After(Duration),
    /// So long after it began to write a database: it does one after the other.
    Writing(&'static str, Duration),
}

/// Runs it, and kills it; whether it had come to its end before.
fn killed(sandbox: &Sandbox, config: &Path, data: &Path, at: At) -> bool {
    #[expect(clippy::disallowed_methods, reason = "files have the system's time")]
    let began = SystemTime::now();
    let mut command = Command::new(programs::penstock());
    command
        .args(["encryption", "reseal", "--config"])
        .arg(config);
    let mut process = Process::spawn(command, "reseal", &sandbox.path("reseal.log"));
    let patience = Instant::now();
    let pause = match at {
        At::After(pause) => pause,
        At::Writing(database, pause) => {
            let log = data.join(format!("{database}-wal"));
            // One that an earlier kill left is older.
            let is_written = || {
                let known = fs::metadata(&log).ok().filter(|log| log.len() > 0);
                let at = known.and_then(|log| log.modified().ok());
                at.is_some_and(|at| at >= began)
            };
            while !is_written() && process.ended().is_none() {
                assert!(patience.elapsed() < Duration::from_secs(60), "{at:?}");
                std::hint::spin_loop();
            }
            pause
        }
    };
    if !pause.is_zero() {
        wait::pass(pause);
    }
    let ended = process.ended().is_some_and(|status| status.success());
    process.kill();
    ended
}

/// What `penstock encryption status` says of a database.
fn status_of(config: &Path, database: &str) -> String {
    let status = penstock(&["encryption", "status"], Some(config));
    assert!(status.status.success(), "{}", said(&status));
    let text = said(&status);
    let line = text.lines().find(|line| line.starts_with(database));
    line.unwrap_or_else(|| panic!("{database} in {text}"))
        .to_owned()
}

/// Puts something into each database beside the fleet's events: a message in the queue of a
/// session that is away and a retained one (`broker.db`), and an alarm (`rules.db`).
fn pump(setup: &Setup, from: u16, to: u16) {
    let mut device = Client::connect(setup.mqtt, Version::V4, "pumps");
    let filler = "x".repeat(2_000);
    for n in from..to {
        let payload = format!("{{\"n\":{n},\"text\":\"{filler}\"}}");
        publish(
            &mut device,
            &format!("devices/pump{n}/pumped"),
            &payload,
            n + 1,
        );
        retain(
            &mut device,
            &format!("devices/pump{n}/kept"),
            &payload,
            n + 1,
        );
    }
}

/// Everything that was put there is there.
fn is_pumped(gateway: &Gateway, setup: &Setup) {
    let alarms = gateway.ask(&["alarm", "list", "--limit", "1000"]);
    assert_eq!(
        alarms.matches("too hot").count(),
        usize::from(PUMPS),
        "{alarms}"
    );
    let is_of = |body: &[u8], n: u16| {
        let body = String::from_utf8_lossy(body);
        body.contains(&format!("\"n\":{n},"))
    };
    let (mut away, is_known) = Client::try_resume(setup.mqtt, "away").expect("connected");
    assert!(is_known, "the session is lost");
    for n in 0..PUMPS {
        let packet = away.next(Duration::from_secs(10)).expect("connected");
        let body = packet.expect("a message").body;
        assert!(is_of(&body, n), "{n}");
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        away.send(&[0x40, 2, body[topic + 2], body[topic + 3]])
            .expect("it is acknowledged");
    }
    let mut other = Client::connect(setup.mqtt, Version::V4, "other");
    other
        .send(&mqtt::subscribe(Version::V4, "devices/+/kept", 0, 1))
        .expect("sent");
    let mut kept = 0;
    while kept < PUMPS {
        let packet = other.next(Duration::from_secs(10)).expect("connected");
        let packet = packet.expect("a retained message");
        kept += u16::from((0..PUMPS).any(|n| is_of(&packet.body, n)));
    }
}

#[test]
fn another_key_takes_over_however_often_it_is_killed_on_the_way() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let mut receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    wire.set(Mode::Reset);
    let (one, first) = numbered_key(&sandbox, "one.key");
    let (two, second) = numbered_key(&sandbox, "two.key");
    let url = format!("http://127.0.0.1:{}", wire.port);
    let bare = Setup::new(&sandbox)
        .to_http("lake", &url)
        .to_file("other")
        .with(PUMPING);
    let data = bare.data().to_owned();
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
    let (mut away, _) = Client::try_resume(bare.mqtt, "away").expect("connected");
    away.send(&mqtt::subscribe(Version::V4, "devices/+/pumped", 1, 1))
        .expect("sent");
    away.next(Duration::from_secs(5))
        .expect("connected")
        .expect("SUBACK");
    drop(away);
    let plain = load("plain", bare.mqtt);
    pump(&bare, 0, PUMPS / 2);
    gateway.stop();
    gateway.start_with(&bare.clone().with(&keys(&one, &[])));
    let sealed = load("sealed", bare.mqtt);
    pump(&bare, PUMPS / 2, PUMPS);
    wait::until(Duration::from_secs(60), "the alarms", || {
        let alarms = gateway.ask(&["alarm", "list", "--limit", "1000"]);
        (alarms.matches("too hot").count() == usize::from(PUMPS)).then_some(())
    });
    // Beside a gateway nothing is changed.
    let running = gateway.command(&["encryption", "reseal"]);
    assert!(
        !running.status.success() && said(&running).contains("another gateway"),
        "{}",
        said(&running)
    );
    gateway.kill();

    // The one database, then the next: killed within each, and as the next begins.
    let both = bare.clone().with(&keys(&two, &[&one]));
    let config = both.write();
    let mut ms = |to: u64| Duration::from_millis(rng.random_range(1..to));
    let kills = [
        At::After(ms(40)),
        At::Writing("journal.db", ms(200)),
        At::Writing("journal.db", ms(200)),
        At::Writing("broker.db", Duration::ZERO),
        At::Writing("broker.db", ms(8)),
        At::Writing("rules.db", Duration::ZERO),
        At::Writing("rules.db", ms(4)),
    ];
    let mut ended = false;
    for at in kills {
        ended = killed(&sandbox, &config, &data, at);
        // Whatever was done is whole, and what was not is still known.
        let verified = penstock(&["buffer", "verify"], Some(&config));
        assert!(verified.status.success(), "{at:?}: {}", said(&verified));
        if ended {
            break;
        }
        // One comes after the other: where one has begun, those before it are done.
        let lines = DATABASES.map(|database| status_of(&config, database));
        println!("{at:?}: {lines:?}");
        for (earlier, later) in lines.iter().zip(&lines[1..]) {
            let has_begun = later.contains(&second);
            let is_done = !earlier.contains(&first) && earlier.contains(": 0 plain, ");
            assert!(is_done || !has_begun, "{at:?}: {lines:?}");
        }
        // The first key is needed to the end, and only to the end.
        let early = bare.clone().with(&keys(&two, &[])).write();
        let refused = penstock(&["encryption", "reseal"], Some(&early));
        both.write();
        if refused.status.success() {
            ended = true;
            break;
        }
        assert!(
            said(&refused).contains("sealed with the key"),
            "{at:?}: {}",
            said(&refused)
        );
    }
    if !ended {
        let done = penstock(&["encryption", "reseal"], Some(&config));
        assert!(done.status.success(), "{}", said(&done));
        assert!(
            said(&done).contains("everything is sealed"),
            "{}",
            said(&done)
        );
    }
    for database in DATABASES {
        let line = status_of(&config, database);
        assert!(
            line.starts_with(&format!("{database}: 0 plain, ")),
            "{line}"
        );
        assert!(line.ends_with(&second) && !line.contains(&first), "{line}");
    }

    gateway.start_with(&bare.clone().with(&keys(&two, &[])));
    is_pumped(&gateway, &bare);
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

#[test]
fn a_reseal_that_does_not_fit_on_the_disk_is_refused_before_anything_is_changed() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), 48) else {
        return;
    };
    let bare = Setup::new(&sandbox)
        .data_dir(&disk.dir().join("data"))
        .with("[store]\nreserve = \"1MiB\"\n[read]\nenabled = false")
        .to_file("lake");
    let mut gateway = Gateway::start(&bare);
    let mut device = Client::connect(bare.mqtt, Version::V4, "device");
    publish(
        &mut device,
        "devices/pump/reading",
        &format!("{{{MARKER}"),
        1,
    );
    drop(device);
    gateway.stop();
    let key = new_key(&sandbox, "one.key");
    let config = gateway_config(&bare, &key);
    let journal = || fs::read(bare.data().join("journal.db")).expect("the journal");
    let (before, filler) = (journal(), disk.occupy());
    // Not to the last page: 8 MiB are left, and the margin is more.
    let file = fs::File::options()
        .write(true)
        .open(&filler)
        .expect("there");
    let length = file.metadata().expect("there").len();
    file.set_len(length - (8 << 20)).expect("cut");
    drop(file);
    let refused = penstock(&["encryption", "reseal"], Some(&config));
    let words = said(&refused);
    assert!(!refused.status.success(), "{words}");
    for part in ["nothing was changed", "MiB are needed", "make room"] {
        assert!(words.contains(part), "{words}");
    }
    assert!(journal() == before, "it was changed all the same");
    fs::remove_file(filler).expect("removed");
    let done = penstock(&["encryption", "reseal"], Some(&config));
    assert!(done.status.success(), "{}", said(&done));
    assert!(status_of(&config, "journal.db").contains(": 0 plain, "));
    drop(gateway);
}

fn gateway_config(bare: &Setup, key: &str) -> std::path::PathBuf {
    bare.clone().with(&keys(key, &[])).write()
}
