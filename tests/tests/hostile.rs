//! No client can stop the gateway, or another client, with what it sends.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use penstock_tests::{
    Audit, Gateway, Sandbox, Setup, Sim, http,
    mqtt::{self, Client, Version},
    seed, turns,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

const TIME: Duration = Duration::from_secs(20);
const ATTACKERS: usize = 4;

/// What a client may say, to be mutated.
fn seeds(version: Version) -> Vec<Vec<u8>> {
    vec![
        mqtt::connect(version, "hostile"),
        mqtt::publish(
            version,
            "devices/hostile/telemetry",
            b"{\"value\": 1}",
            0,
            0,
        ),
        mqtt::publish(
            version,
            "devices/hostile/telemetry",
            b"{\"value\": 1}",
            1,
            7,
        ),
        mqtt::publish(version, "devices/hostile/telemetry", b"\xa1\x61v\x01", 2, 8),
        mqtt::publish(version, "\u{e9}\u{1f680}/non-ascii", b"1", 1, 9),
        mqtt::subscribe(version, "devices/#", 2, 10),
        mqtt::subscribe(version, "$share/group/devices/+", 1, 11),
        vec![0xa2, 5, 0, 12, 0, 1, b'#'],
        vec![0x40, 2, 0, 7],
        vec![0x50, 2, 0, 8],
        vec![0x62, 2, 0, 8],
        vec![0x70, 2, 0, 8],
        // What only a server may say.
        vec![0x20, 2, 0, 0],
        vec![0xb0, 2, 0, 12],
        vec![0x90, 3, 0, 10, 0],
        vec![0xf0, 2, 0x19, 0],
        mqtt::PING.to_vec(),
        mqtt::DISCONNECT.to_vec(),
        // A length that never ends, and one that is never filled.
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0x30, 0xff, 0xff, 0x3f, 0, 1, b'a'],
    ]
}

fn mutate(frame: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(0..4) {
        if frame.is_empty() {
            return;
        }
        let at = rng.random_range(0..frame.len());
        match rng.random_range(0..6) {
            0 => frame[at] ^= 1 << rng.random_range(0..8),
            1 => frame[at] = rng.random(),
            2 => frame.truncate(at),
            3 => frame.insert(at, rng.random()),
            4 => frame.extend_from_within(at..),
            _ => {
                frame.remove(at);
            }
        }
    }
}

/// One connection after the other, until the time is over. Says how many.
fn attack(port: u16, attacker: usize, mut rng: StdRng) -> u64 {
    let began = Instant::now();
    let mut connections = 0;
    while began.elapsed() < TIME {
        connections += 1;
        let version = if rng.random() {
            Version::V4
        } else {
            Version::V5
        };
        let seeds = seeds(version);
        let mut bytes = Vec::new();
        if rng.random_bool(0.8) {
            bytes.extend(mqtt::connect(version, &format!("hostile-{attacker}")));
        }
        for _ in 0..rng.random_range(1..12) {
            let mut frame = seeds[rng.random_range(0..seeds.len())].clone();
            mutate(&mut frame, &mut rng);
            bytes.extend(frame);
        }
        // Being thrown out in the middle is what is to be expected.
        let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            continue;
        };
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a time above zero");
        socket
            .set_write_timeout(Some(Duration::from_secs(1)))
            .expect("a time above zero");
        if socket.write_all(&bytes).is_ok() && rng.random_bool(0.7) {
            while matches!(socket.read(&mut [0; 512]), Ok(1..)) {}
        }
    }
    connections
}

#[test]
fn mutated_frames_do_not_keep_an_honest_client_from_its_work() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    // Who misbehaves is said, at a bounded rate; nothing else is.
    let gateway =
        Gateway::start(&setup).expecting(&["broke the protocol", "connection was refused"]);
    let mut fleet = Sim::new(&sandbox, "honest", setup.mqtt, seed)
        .load(10, 500)
        .with(&["--qos", "1", "--protocol", "mixed"])
        .start();
    let port = setup.mqtt;
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|attacker| {
            let rng = StdRng::seed_from_u64(rng.random());
            thread::spawn(move || attack(port, attacker, rng))
        })
        .collect();
    let attacks: u64 = attackers
        .into_iter()
        .map(|one| one.join().expect("no panic"))
        .sum();
    assert!(attacks > 100, "only {attacks} attacks");
    println!("{attacks} hostile connections");

    fleet.stop(Duration::from_secs(60));
    // Live subscriptions work still.
    let mut subscriber = Client::connect(setup.mqtt, Version::V5, "afterwards");
    subscriber
        .send(&mqtt::subscribe(Version::V5, "afterwards/#", 0, 1))
        .expect("it is sent");
    assert_eq!(subscriber.read().expect("an answer").kind, 9, "SUBACK");
    let mut publisher = Client::connect(setup.mqtt, Version::V4, "speaker");
    publisher
        .publish("afterwards/all", b"well", 1, 1)
        .expect("it is sent");
    assert!(
        publisher
            .ack(Duration::from_secs(10))
            .expect("an answer")
            .is_some()
    );
    assert_eq!(subscriber.read().expect("the message").kind, 3, "PUBLISH");
    drop((subscriber, publisher));

    // Nothing of the attackers stays behind.
    gateway.wait_for(
        Duration::from_secs(90),
        "every hostile connection to be gone",
        |now| now.broker.connections_open == 0,
    );
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
}

#[test]
fn garbage_on_the_http_port_does_not_stop_the_status() {
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    for _ in 0..200 {
        let mut bytes = b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_vec();
        mutate(&mut bytes, &mut rng);
        mutate(&mut bytes, &mut rng);
        let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, setup.http)) else {
            continue;
        };
        socket.write_all(&bytes).ok();
    }
    let long = format!("GET /{} HTTP/1.0\r\n\r\n", "a".repeat(1 << 20));
    http::exchange(setup.http, long.as_bytes());
    // A page of another origin that has its name pointed at loopback.
    let rebound = b"GET /api/v1/status HTTP/1.0\r\nHost: evil.example\r\n\r\n";
    let reply = http::exchange(setup.http, rebound).expect("an answer");
    assert!(
        reply.status >= 400,
        "a foreign host name is let in: {}",
        reply.head
    );
    gateway.status().assert_balanced();
    gateway.finish();
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let gateway = Gateway::start(&setup);
    let silent: Vec<_> = (0..300)
        .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, setup.mqtt)).expect("it listens"))
        .collect();
    let mut honest = Client::connect(setup.mqtt, Version::V4, "honest");
    honest
        .publish("devices/honest/telemetry", b"1", 1, 1)
        .expect("it is sent");
    assert!(
        honest
            .ack(Duration::from_secs(10))
            .expect("an answer")
            .is_some()
    );
    // They are thrown out: reading finds the end.
    for mut socket in silent {
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a time above zero");
        let end = socket.read(&mut [0; 16]);
        let timed_out = end
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(
            !timed_out && !matches!(end, Ok(1..)),
            "a silent connection got {end:?}"
        );
    }
    drop(honest);
    gateway.finish();
}

#[test]
fn subscribers_that_read_nothing_cost_bounded_memory_and_hold_nobody_up() {
    const SUBSCRIBERS: u64 = 30;
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let mut gateway = Gateway::start(&setup);
    let stuck: Vec<_> = (0..SUBSCRIBERS)
        .map(|number| {
            let version = if number % 2 == 0 {
                Version::V4
            } else {
                Version::V5
            };
            let mut client = Client::connect(setup.mqtt, version, &format!("stuck-{number}"));
            let qos = u8::try_from(number % 3).expect("below three");
            client
                .send(&mqtt::subscribe(version, "#", qos, 1))
                .expect("it is sent");
            assert_eq!(client.read().expect("an answer").kind, 9, "SUBACK");
            client
        })
        .collect();
    let before = gateway.process().resident_bytes();
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 4_000)
        .with(&["--qos", "1", "--protocol", "mixed", "--count", "100000"])
        .start();
    fleet.finish(Duration::from_secs(120));
    // A queue of 1 MiB for each of them, and the fleet's keys and buffers.
    let most = before + SUBSCRIBERS * (1 << 20) + (64 << 20);
    let after = gateway.process().resident_bytes();
    assert!(after < most, "memory went from {before} to {after} bytes");
    drop(stuck);
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    Audit::files(&sandbox, &fleet, &setup.data().join("events"), &[]).assert_clean();
}
