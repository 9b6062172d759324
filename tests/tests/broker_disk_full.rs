//! A full disk under `broker.db` and the journal: clients are pushed back, what was
//! acknowledged stays, a start succeeds all the same, and with room everything goes on.

use std::{collections::BTreeSet, fs, io, time::Duration};

use penstock_tests::{
    Gateway, Sandbox, Setup,
    disk::SmallDisk,
    mqtt::{self, Client, Version},
    turns, wait,
};

const DISK_MEBIBYTES: u32 = 32;
const TOPIC: &str = "devices/d/blob";
const STATE: &str = "devices/d/state";
/// Words of the warnings that a full disk gives.
const EXPECTED: [&str; 2] = ["full", "room"];

fn blob(number: u16) -> Vec<u8> {
    let mut payload = format!("{{\"number\":{number},\"fill\":\"").into_bytes();
    payload.extend([b'x'; 10_000]);
    payload.extend(b"\"}");
    payload
}

fn number_in(payload: &[u8]) -> u16 {
    let digits = payload.iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits: Vec<u8> = digits
        .take_while(|byte| byte.is_ascii_digit())
        .copied()
        .collect();
    String::from_utf8_lossy(&digits).parse().expect("a number")
}

/// Publishes one at QoS 1; whether it was acknowledged, and not pushed back.
fn is_acknowledged(client: &mut Client, topic: &str, payload: &[u8], retain: bool) -> bool {
    let mut packet = mqtt::publish(Version::V5, topic, payload, 1, 1);
    packet[0] |= u8::from(retain);
    client.send(&packet).expect("the broker reads");
    let ack = client.ack(Duration::from_secs(3));
    ack.expect("the connection stays")
        .is_some_and(|ack| ack.reason < 0x80)
}

/// Publishes until it is pushed back, each number once; the numbers acknowledged.
fn publish_until_pushed_back(port: u16, id: &str, numbers: &mut u16) -> BTreeSet<u16> {
    let mut client = Client::connect(port, Version::V5, id);
    let mut acknowledged = BTreeSet::new();
    for _ in 0..1_200 {
        *numbers += 1;
        if !is_acknowledged(&mut client, TOPIC, &blob(*numbers), false) {
            return acknowledged;
        }
        acknowledged.insert(*numbers);
    }
    panic!("the disk is full, and nobody is pushed back");
}

fn subscribe(port: u16, id: &str, filter: &str) {
    let (mut client, _) = Client::try_resume(port, id).expect("there is room for a session");
    client
        .send(&mqtt::subscribe(Version::V4, filter, 1, 1))
        .expect("the broker reads");
    assert_eq!(client.read().expect("SUBACK").kind, 9);
}

/// The numbers that wait for a session, until all of `wanted` have come.
fn fetch(port: u16, id: &str, mut wanted: BTreeSet<u16>) {
    let (mut client, present) = Client::try_resume(port, id).expect("the broker takes it");
    assert!(present, "the session was promised");
    while !wanted.is_empty() {
        let packet = client
            .read()
            .unwrap_or_else(|error| panic!("{error}; missing: {wanted:?}"));
        if packet.kind == 3 {
            let topic_len = usize::from(u16::from_be_bytes([packet.body[0], packet.body[1]]));
            let [high, low, payload @ ..] = &packet.body[2 + topic_len..] else {
                panic!("a PUBLISH without an identifier");
            };
            client.send(&[0x40, 2, *high, *low]).expect("it is read");
            wanted.remove(&number_in(payload));
        }
    }
}

fn retained(port: u16) -> io::Result<Vec<u8>> {
    let mut client = Client::connect(port, Version::V4, "looking");
    client.send(&mqtt::subscribe(Version::V4, STATE, 0, 1))?;
    loop {
        let packet = client.read()?;
        if packet.kind == 3 {
            return Ok(packet.body[2 + STATE.len()..].to_vec());
        }
    }
}

#[test]
fn a_full_disk_pushes_clients_back_and_even_a_start_on_it_succeeds() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), DISK_MEBIBYTES) else {
        return;
    };
    let setup = Setup::new(&sandbox)
        .data_dir(&disk.dir().join("data"))
        .with("[store]\nreserve = \"2MiB\"")
        .with(&format!(
            "[[destination]]\nname = \"events\"\ntype = \"file\"\npath = \"{}\"",
            sandbox.path("events").display()
        ));
    let port = setup.mqtt;
    let mut gateway = Gateway::start(&setup).expecting(&EXPECTED);
    subscribe(port, "away", "devices/#");
    let mut honest = Client::connect(port, Version::V5, "honest");
    assert!(is_acknowledged(&mut honest, STATE, b"{\"v\":1}", true));
    let mut numbers = 0;
    let mut acknowledged = BTreeSet::new();
    for _ in 0..50 {
        numbers += 1;
        assert!(is_acknowledged(&mut honest, TOPIC, &blob(numbers), false));
        acknowledged.insert(numbers);
    }

    let somebody_elses = disk.occupy();
    acknowledged.append(&mut publish_until_pushed_back(port, "filler", &mut numbers));
    let mut last = b"{\"v\":1}".to_vec();
    for value in 2..5 {
        let payload = format!("{{\"v\":{value}}}").into_bytes();
        if is_acknowledged(&mut honest, STATE, &payload, true) {
            last = payload;
        }
    }

    // Nothing makes room, and it ends in the worst way: it starts all the same.
    gateway.kill();
    gateway.start_again();
    acknowledged.append(&mut publish_until_pushed_back(port, "filler", &mut numbers));
    assert_eq!(retained(port).expect("it is retained"), last);

    fs::remove_file(somebody_elses).expect("it is ours");
    let mut honest = Client::connect(port, Version::V5, "honest");
    wait::until(Duration::from_secs(60), "room again", || {
        numbers += 1;
        is_acknowledged(&mut honest, TOPIC, &blob(numbers), false).then(|| {
            acknowledged.insert(numbers);
        })
    });
    assert!(is_acknowledged(&mut honest, STATE, b"{\"v\":9}", true));
    assert_eq!(retained(port).expect("it is retained"), b"{\"v\":9}");
    subscribe(port, "new", "devices/#");
    let count = acknowledged.len();
    fetch(port, "away", acknowledged.clone());
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();

    let mut delivered = BTreeSet::new();
    for entry in fs::read_dir(sandbox.path("events")).expect("the directory") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("\"number\"") {
                delivered.insert(number_in(rest.as_bytes()));
            }
        }
    }
    let lost: Vec<_> = acknowledged.difference(&delivered).collect();
    assert!(
        lost.is_empty(),
        "acknowledged, and not in the journal: {lost:?}"
    );
    println!("{count} of {numbers} acknowledged, and all there");
}
