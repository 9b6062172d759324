//! What the broker promised its clients survives `kill -9`: QoS 2 arrives once, at
//! subscribers and in the journal, a subscriber that is away misses nothing, and what is
//! retained is what was acknowledged last. Work that a group shares reaches one of its
//! members, and a will is published, once in the journal.
//!
//! The messages have neither an identity nor a time of their own, so nothing but the
//! QoS 2 exchange tells one that is sent again from a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup,
    mqtt::{self, Client, Version},
    seed, turns, wait,
};
use rand::RngExt as _;

const KILLS: usize = 12;
const FILTER: &str = "devices/d/#";
const TOPIC: &str = "devices/d/reading";

/// What runs beside the test until it is told to stop.
#[derive(Debug, Default)]
struct Run {
    is_over: AtomicBool,
    /// Publishes that are over.
    progress: AtomicUsize,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.is_over.load(SeqCst)
    }
}

/// Connects as often as it takes; whether the session was there.
fn connect(port: u16, id: &str) -> (Client, bool) {
    loop {
        if let Ok(connected) = Client::try_resume(port, id) {
            return connected;
        }
        wait::pass(Duration::from_millis(20));
    }
}

fn id_of(body: &[u8]) -> u16 {
    u16::from_be_bytes([body[0], body[1]])
}

fn with_dup(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= 0b1000;
    packet
}

fn answer(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 2, high, low]
}

/// Publishes numbers at QoS 2, one after the other, each to its PUBCOMP; how many.
fn publish_exactly_once(port: u16, run: &Run) -> usize {
    let mut number = 0;
    let mut is_received = false;
    let mut is_new = true;
    let mut is_first = true;
    while run.goes_on() || !is_new {
        let (mut client, present) = connect(port, "exactly-once");
        assert!(present || is_first, "the session was promised");
        is_first = false;
        let mut step = || -> io::Result<()> {
            loop {
                if is_new && !run.goes_on() {
                    return Ok(());
                }
                let id = u16::try_from(number % 3 + 1).expect("small");
                if !is_received {
                    let payload = format!("{{\"number\":{number}}}");
                    let packet = mqtt::publish(Version::V4, TOPIC, payload.as_bytes(), 2, id);
                    let packet = if is_new { packet } else { with_dup(packet) };
                    is_new = false;
                    client.send(&packet)?;
                    while client.read()?.kind != 5 {}
                    is_received = true;
                }
                client.send(&answer(0x62, id))?;
                while client.read()?.kind != 7 {}
                is_received = false;
                is_new = true;
                number += 1;
                run.progress.fetch_add(1, SeqCst);
            }
        };
        if step().is_ok() {
            break;
        }
    }
    number
}

/// Changes retained messages at QoS 1; what was acknowledged last for each topic.
fn change_retained(port: u16, run: &Run) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    let mut is_new = true;
    while run.goes_on() || !is_new {
        let (mut client, _) = connect(port, "retaining");
        let mut step = || -> io::Result<()> {
            while run.goes_on() || !is_new {
                let topic = format!("state/{}", number % 4);
                let payload = number.to_string();
                let mut packet = mqtt::publish(Version::V4, &topic, payload.as_bytes(), 1, 1);
                packet[0] |= 1;
                let packet = if is_new { packet } else { with_dup(packet) };
                is_new = false;
                client.send(&packet)?;
                while client.read()?.kind != 4 {}
                acknowledged.insert(topic, payload);
                is_new = true;
                number += 1;
            }
            Ok(())
        };
        if step().is_ok() {
            break;
        }
    }
    acknowledged
}

/// Takes messages at QoS 2 as the specification wants it, until `enough` have come; the
/// payloads in the order in which they came first.
fn subscribe_exactly_once(port: u16, id: &str, enough: impl Fn(usize) -> bool) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut held = BTreeSet::new();
    let mut is_subscribed = false;
    loop {
        let (mut client, present) = connect(port, id);
        assert!(present || !is_subscribed, "the session was promised");
        let mut step = || -> io::Result<()> {
            if !present {
                client.send(&mqtt::subscribe(Version::V4, FILTER, 2, 77))?;
            }
            loop {
                if enough(payloads.len()) && held.is_empty() {
                    return Ok(());
                }
                let packet = match client.read() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    packet => packet?,
                };
                match packet.kind {
                    9 => is_subscribed = true,
                    3 => {
                        let topic_len = usize::from(id_of(&packet.body));
                        let rest = &packet.body[2 + topic_len..];
                        let id = id_of(rest);
                        if held.insert(id) {
                            payloads.push(String::from_utf8_lossy(&rest[2..]).into_owned());
                        }
                        client.send(&answer(0x50, id))?;
                    }
                    6 => {
                        let id = id_of(&packet.body);
                        held.remove(&id);
                        client.send(&answer(0x70, id))?;
                    }
                    _ => {}
                }
            }
        };
        if step().is_ok() {
            return payloads;
        }
    }
}

/// Subscribes for later.
fn leave_behind(port: u16, id: &str, filter: &str, qos: u8) {
    let (mut client, _) = connect(port, id);
    client
        .send(&mqtt::subscribe(Version::V4, filter, qos, 77))
        .expect("the broker reads");
    assert_eq!(client.read().expect("SUBACK").kind, 9);
}

/// How often each payload is in the files of the journal's destination.
fn journalled(dir: &Path) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("the directory") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("\"number\"") else {
                continue;
            };
            // The value comes behind the name, whatever stands around it.
            let digits: String = rest
                .chars()
                .skip_while(|c| !c.is_ascii_digit())
                .take_while(char::is_ascii_digit)
                .collect();
            *counts.entry(digits.parse().expect("a number")).or_default() += 1;
        }
    }
    counts
}

#[test]
fn what_the_broker_promised_survives_twelve_kills() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup);
    leave_behind(port, "away", FILTER, 2);
    leave_behind(port, "online", FILTER, 2);

    let run = Arc::new(Run::default());
    let wanted = Arc::new(AtomicUsize::new(usize::MAX));
    let publisher = thread::spawn({
        let run = Arc::clone(&run);
        move || publish_exactly_once(port, &run)
    });
    let retaining = thread::spawn({
        let run = Arc::clone(&run);
        move || change_retained(port, &run)
    });
    let online = thread::spawn({
        let wanted = Arc::clone(&wanted);
        move || subscribe_exactly_once(port, "online", |count| count >= wanted.load(SeqCst))
    });
    for _ in 0..KILLS {
        let before = run.progress.load(SeqCst);
        wait::until(Duration::from_secs(60), "publishes go on", || {
            (run.progress.load(SeqCst) > before).then_some(())
        });
        wait::pass(Duration::from_millis(rng.random_range(0..400)));
        gateway.kill();
        gateway.start_again();
    }
    run.is_over.store(true, SeqCst);
    let count = publisher.join().expect("the publisher ends");
    let retained = retaining.join().expect("the publisher ends");
    wanted.store(count, SeqCst);
    let expect: Vec<String> = (0..count).map(|n| format!("{{\"number\":{n}}}")).collect();
    assert_eq!(online.join().expect("the subscriber ends"), expect);
    assert_eq!(
        subscribe_exactly_once(port, "away", |got| got >= count),
        expect
    );

    let mut looking = Client::connect(port, Version::V4, "looking");
    looking
        .send(&mqtt::subscribe(Version::V4, "state/#", 0, 1))
        .expect("the broker reads");
    let mut found = BTreeMap::new();
    while found.len() < retained.len() {
        let packet = looking.read().expect("a retained message");
        if packet.kind == 3 {
            let end = 2 + usize::from(id_of(&packet.body));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.insert(text(&packet.body[2..end]), text(&packet.body[end..]));
        }
    }
    assert_eq!(found, retained);

    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let counts = journalled(&setup.data().join("events"));
    let once: BTreeMap<u64, usize> = (0..count as u64).map(|n| (n, 1)).collect();
    assert_eq!(counts, once, "each is in the journal once");
    println!("{count} messages of QoS 2 across {KILLS} kills");
}

const KILLS_OF_A_GROUP: usize = 10;
const WORK: &str = "work/w/item";
const GROUP: &str = "$share/g/work/#";
const WILL: &str = "devices/mortal/will";
/// Wills are numbered from here, to tell them from work.
const WILLS_FROM: u64 = 1_000_000;

fn numbered(number: u64) -> String {
    format!("{{\"number\":{number}}}")
}

fn number_in(payload: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(payload);
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// Publishes numbers at QoS 1, each until its PUBACK; how many.
fn publish_at_least_once(port: u16, run: &Run) -> u64 {
    let mut number = 0;
    let mut is_new = true;
    while run.goes_on() || !is_new {
        let (mut client, _) = connect(port, "at-least-once");
        let mut step = || -> io::Result<()> {
            while run.goes_on() || !is_new {
                let packet = mqtt::publish(Version::V4, WORK, numbered(number).as_bytes(), 1, 1);
                let packet = if is_new { packet } else { with_dup(packet) };
                is_new = false;
                client.send(&packet)?;
                while client.read()?.kind != 4 {}
                is_new = true;
                number += 1;
                run.progress.fetch_add(1, SeqCst);
            }
            Ok(())
        };
        if step().is_ok() {
            break;
        }
    }
    number
}

/// Takes one message at QoS 1, acknowledges it, and gives its number.
fn take(client: &mut Client) -> io::Result<u64> {
    loop {
        let packet = client.read()?;
        if packet.kind == 3 {
            let rest = &packet.body[2 + usize::from(id_of(&packet.body))..];
            client.send(&answer(0x40, id_of(rest)))?;
            return Ok(number_in(&rest[2..]));
        }
    }
}

/// A member of the group that works until there is a number from `end` on.
fn work_until(port: u16, id: &str, end: u64) -> BTreeSet<u64> {
    let mut taken = BTreeSet::new();
    loop {
        let (mut client, present) = connect(port, id);
        assert!(present, "the session was promised");
        let mut step = || -> io::Result<()> {
            loop {
                match take(&mut client) {
                    Ok(number) if number >= end => return Ok(()),
                    Ok(number) => _ = taken.insert(number),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        if step().is_ok() {
            return taken;
        }
    }
}

/// Takes what waits for a session until it was all that is wanted.
fn take_all(port: u16, id: &str, mut wanted: BTreeSet<u64>) {
    let (mut client, present) = connect(port, id);
    assert!(present, "the session was promised");
    while !wanted.is_empty() {
        let number =
            take(&mut client).unwrap_or_else(|error| panic!("{id} waits for {wanted:?}: {error}"));
        wanted.remove(&number);
    }
}

#[test]
fn what_a_group_shares_and_wills_survive_ten_kills() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup);
    leave_behind(port, "working", GROUP, 1);
    leave_behind(port, "absent", GROUP, 1);
    leave_behind(port, "mourning", WILL, 1);

    let run = Arc::new(Run::default());
    let publisher = thread::spawn({
        let run = Arc::clone(&run);
        move || publish_at_least_once(port, &run)
    });
    let working = thread::spawn(move || work_until(port, "working", WILLS_FROM));
    for kill in 0..KILLS_OF_A_GROUP {
        let will = numbered(WILLS_FROM + kill as u64);
        let mortal = Client::try_resume_with(port, "mortal", Some((WILL, &will)));
        let (mortal, _) = mortal.expect("the broker takes the client");
        let before = run.progress.load(SeqCst);
        wait::until(Duration::from_secs(60), "publishes go on", || {
            (run.progress.load(SeqCst) > before).then_some(())
        });
        if kill % 2 == 0 {
            // The connection dies first: the will is on its way, or there.
            drop(mortal);
            wait::pass(Duration::from_millis(rng.random_range(0..30)));
            gateway.kill();
        } else {
            wait::pass(Duration::from_millis(rng.random_range(0..300)));
            gateway.kill();
            drop(mortal);
        }
        gateway.start_again();
    }
    run.is_over.store(true, SeqCst);
    let count = publisher.join().expect("the publisher ends");

    // The worker gets a number that ends it, by way of the group: it is the one member
    // that is there, unless it is on its way back.
    let mut client = Client::connect(port, Version::V4, "ending");
    let end = numbered(2 * WILLS_FROM).into_bytes();
    wait::until(Duration::from_secs(60), "the worker to end", || {
        client.publish(WORK, &end, 1, 1).expect("the broker reads");
        client.ack(Duration::from_secs(10)).expect("PUBACK");
        working.is_finished().then_some(())
    });
    let worked = working.join().expect("the worker ends");

    // One that is there only as long as its connection gets the work meanwhile, and what
    // it has not acknowledged waits for those that are away.
    let mut passing = Client::connect(port, Version::V4, "passing");
    passing
        .send(&mqtt::subscribe(Version::V4, GROUP, 1, 1))
        .expect("the broker reads");
    assert_eq!(passing.read().expect("SUBACK").kind, 9);
    for number in count..count + 20 {
        client
            .publish(WORK, numbered(number).as_bytes(), 1, 1)
            .expect("the broker reads");
        client.ack(Duration::from_secs(10)).expect("PUBACK");
    }
    let mut passed = BTreeSet::new();
    for _ in 0..10 {
        passed.insert(take(&mut passing).expect("the member that is there gets it"));
    }
    drop(passing);

    let mut seen = worked;
    seen.append(&mut passed);
    let missing: BTreeSet<u64> = (0..count + 20).filter(|one| !seen.contains(one)).collect();
    let waiting = take_all_of_two(port, ["absent", "working"], missing);
    assert!(
        waiting.is_empty(),
        "acknowledged, and with no member: {waiting:?}"
    );

    let wills: BTreeSet<u64> = (0..KILLS_OF_A_GROUP as u64)
        .map(|n| WILLS_FROM + n)
        .collect();
    take_all(port, "mourning", wills.clone());
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let counts = journalled(&setup.data().join("events"));
    let in_journal = counts
        .into_iter()
        .filter(|(number, _)| wills.contains(number));
    let once: BTreeMap<u64, usize> = wills.iter().map(|&number| (number, 1)).collect();
    assert_eq!(in_journal.collect::<BTreeMap<_, _>>(), once);
    println!("{count} messages of a group across {KILLS_OF_A_GROUP} kills");
}

/// Takes what waits for two sessions; what of `wanted` was for neither.
fn take_all_of_two(port: u16, ids: [&str; 2], mut wanted: BTreeSet<u64>) -> BTreeSet<u64> {
    let mut members = ids.map(|id| connect(port, id).0);
    for member in &mut members {
        while !wanted.is_empty()
            && let Ok(number) = take(member)
        {
            wanted.remove(&number);
        }
    }
    wanted
}
