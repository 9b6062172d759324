//! A damaged `broker.db` is set aside and said loudly, before a start or while the
//! gateway runs. Sessions begin anew; the gateway goes on, and the journal is not touched.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use penstock_tests::{
    Gateway, Sandbox, Setup, damage,
    mqtt::{self, Client, Version},
    seed, turns, wait,
};

const TOPIC: &str = "devices/d/reading";
/// Words of the errors that damage gives.
const EXPECTED: [&str; 3] = ["damage", "set aside", "a connection was refused"];
const PAGE: usize = 4_096;

fn subscribe(port: u16, id: &str) {
    let (mut client, _) = Client::try_resume(port, id).expect("the broker takes it");
    client
        .send(&mqtt::subscribe(Version::V4, "devices/#", 1, 1))
        .expect("the broker reads");
    assert_eq!(client.read().expect("SUBACK").kind, 9);
}

fn reading(number: u32, fill: usize) -> String {
    format!("{{\"number\":{number},\"fill\":\"{}\"}}", "x".repeat(fill))
}

/// Publishes numbered readings at QoS 1; each is acknowledged.
fn publish(port: u16, numbers: std::ops::Range<u32>, fill: usize) {
    let mut client = Client::connect(port, Version::V4, "publisher");
    for number in numbers {
        client
            .publish(TOPIC, reading(number, fill).as_bytes(), 1, 1)
            .expect("the broker reads");
        let ack = client.ack(Duration::from_secs(20)).expect("it stays");
        assert!(ack.is_some(), "{number} is acknowledged");
    }
}

/// Fetches messages that wait for a session; how many of `count` come.
fn fetch(port: u16, id: &str, count: usize) {
    let (mut client, present) = Client::try_resume(port, id).expect("the broker takes it");
    assert!(present, "the session was promised");
    let mut came = 0;
    while came < count {
        let packet = client.read().expect("a message");
        if packet.kind == 3 {
            let id = 2 + usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
            let answer = [0x40, 2, packet.body[id], packet.body[id + 1]];
            client.send(&answer).expect("it is read");
            came += 1;
        }
    }
}

/// Fetches what waits of the first `count` readings: each as it was published, or not at
/// all. How many came.
fn fetch_what_is_whole(mut client: Client, count: u32) -> usize {
    let published: BTreeSet<_> = (0..count).map(|n| reading(n, 400).into_bytes()).collect();
    let mut came = 0;
    while let Ok(Some(packet)) = client.next(Duration::from_secs(2)) {
        if packet.kind == 3 {
            let id = 2 + usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
            let payload = &packet.body[id + 2..];
            let text = String::from_utf8_lossy(payload);
            assert!(published.contains(payload), "{text}");
            let answer = [0x40, 2, packet.body[id], packet.body[id + 1]];
            client.send(&answer).expect("it is read");
            came += 1;
        }
    }
    came
}

/// The numbers that are in the files of the destination.
fn delivered(dir: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("the directory") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("\"number\"") {
                let digits: String = rest
                    .chars()
                    .skip_while(|c| !c.is_ascii_digit())
                    .take_while(char::is_ascii_digit)
                    .collect();
                found.insert(digits.parse().expect("a number"));
            }
        }
    }
    found
}

/// Ends the gateway; every event is delivered, and the journal was never set aside.
fn finish(gateway: Gateway, setup: &Setup, count: u32) {
    let end = gateway.wait_until_drained(Duration::from_secs(60));
    assert!(end.store.set_aside.is_empty(), "{end:#?}");
    gateway.finish();
    let expect: BTreeSet<u32> = (0..count).collect();
    assert_eq!(delivered(&setup.data().join("events")), expect);
}

/// Damages the file while nothing runs; it is set aside at the next start.
fn is_set_aside_at_the_start(harm: impl FnOnce(&Path)) {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup).expecting(&EXPECTED);
    subscribe(port, "away");
    publish(port, 0..200, 400);
    gateway.stop();
    let file = setup.data().join("broker.db");
    harm(&file);
    gateway.start_again();
    assert_eq!(gateway.status().broker.keep_set_aside, 1);
    assert!(setup.data().join("broker.db.damaged-1").is_file());
    // It works as before, and keeps what it promises from here on.
    let (_, present) = Client::try_resume(port, "away").expect("the broker takes it");
    assert!(!present, "what cannot be read is not pretended");
    subscribe(port, "away");
    publish(port, 200..300, 400);
    gateway.kill();
    gateway.start_again();
    fetch(port, "away", 100);
    finish(gateway, &setup, 300);
}

#[test]
fn a_file_without_its_first_page_is_set_aside_at_the_start() {
    is_set_aside_at_the_start(|file| damage::blank(file, 0, PAGE));
}

#[test]
fn a_file_that_is_something_else_is_set_aside_at_the_start() {
    is_set_aside_at_the_start(|file| fs::write(file, vec![7; 100_000]).expect("it is written"));
}

#[test]
fn flipped_bytes_cost_what_they_hit_and_nothing_of_the_journal() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup).expecting(&EXPECTED);
    subscribe(port, "away");
    publish(port, 0..300, 400);
    gateway.stop();
    damage::flip_bytes(&setup.data().join("broker.db"), PAGE as u64, 40, &mut rng);
    gateway.start_again();
    // Whoever comes gets what can be read, as it was, or begins anew; who asks meets the
    // damage.
    if let Ok((client, true)) = Client::try_resume(port, "away") {
        fetch_what_is_whole(client, 300);
    }
    let found = gateway.status().broker;
    assert!(found.keep_set_aside + found.kept_damaged > 0, "{found:?}");
    subscribe(port, "new");
    publish(port, 300..400, 400);
    fetch(port, "new", 100);
    finish(gateway, &setup, 400);
}

/// SQLite believes it; the message's own checksum does not.
#[test]
fn a_flipped_byte_of_a_queued_message_costs_that_message_alone() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup).expecting(&EXPECTED);
    subscribe(port, "away");
    publish(port, 0..100, 400);
    gateway.stop();
    let file = setup.data().join("broker.db");
    let mut bytes = fs::read(&file).expect("the file");
    let beginning = &reading(50, 400).into_bytes()[..30];
    let found = bytes.windows(30).position(|some| some == beginning);
    let at = found.expect("the message is in the file") + 25;
    bytes[at] ^= 1;
    fs::write(&file, bytes).expect("it is written");
    gateway.start_again();
    let (client, present) = Client::try_resume(port, "away").expect("the broker takes it");
    assert!(present, "nothing else is damaged");
    assert_eq!(fetch_what_is_whole(client, 100), 99);
    let found = gateway.status().broker;
    assert_eq!((found.kept_damaged, found.keep_set_aside), (1, 0));
    finish(gateway, &setup, 100);
}

#[test]
fn a_file_that_is_damaged_while_the_gateway_runs_is_set_aside() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let gateway = Gateway::start(&setup).expecting(&EXPECTED);
    subscribe(port, "away");
    // More than the database keeps in memory, and than it lets the log grow to.
    publish(port, 0..1_400, 10_000);
    let file = setup.data().join("broker.db");
    let bytes = fs::metadata(&file).expect("the file").len();
    assert!(bytes > 8 << 20, "only {bytes} bytes of it are in the file");
    damage::blank(
        &file,
        PAGE as u64,
        usize::try_from(bytes).expect("small") - PAGE,
    );
    wait::until(Duration::from_secs(60), "the damage to be met", || {
        // It is met where the queue is read.
        drop(Client::try_resume(port, "away"));
        (gateway.status().broker.keep_set_aside == 1).then_some(())
    });
    assert!(setup.data().join("broker.db.damaged-1").is_file());
    subscribe(port, "away");
    publish(port, 1_400..1_500, 400);
    fetch(port, "away", 100);
    finish(gateway, &setup, 1_500);
}
