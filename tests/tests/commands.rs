//! Commands survive `kill -9`: one that was accepted over HTTP is carried out once by a
//! device that subscribes at QoS 2 in a session that lasts, or is reported expired, and
//! none is forgotten. Devices keep their half of the exchange: a message identifier that is
//! not released is not a new message.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use penstock_tests::{
    Gateway, NatsServer, Sandbox, Setup, http,
    mqtt::{self, Client, Version},
    seed, turns, wait,
};
use rand::RngExt as _;
use serde_json::{Value, json};

const KILLS: usize = 10;
const DEVICES: usize = 4;
const LONG: Duration = Duration::from_secs(120);

/// Asks for a change; `None` when there was no answer.
fn ask(port: u16, method: &str, path: &str, key: &str, body: &Value) -> Option<(u16, Value)> {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let reply = http::exchange(port, request.as_bytes())?;
    let body = serde_json::from_str(&reply.body).ok()?;
    Some((reply.status, body))
}

/// Asks until there is an answer: a repeated request with the same key is the same one.
fn insist(run: &Run, port: u16, path: &str, key: &str, body: &Value) -> (u16, Value) {
    loop {
        if let Some(answer) = ask(port, "POST", path, key, body) {
            return answer;
        }
        run.unanswered.fetch_add(1, SeqCst);
        wait::pass(Duration::from_millis(20));
    }
}

#[track_caller]
fn get(port: u16, path: &str) -> Value {
    let reply = http::get(port, path).expect("the gateway answers");
    assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    serde_json::from_str(&reply.body).expect("JSON")
}

/// What runs beside the test until it is told to stop.
#[derive(Debug, Default)]
struct Run {
    is_over: AtomicBool,
    /// Commands that were accepted.
    accepted: AtomicUsize,
    /// Requests that a kill left without an answer.
    unanswered: AtomicUsize,
    /// Commands that are carried out, device by device.
    done: Mutex<BTreeMap<String, Vec<String>>>,
    /// Commands that nobody needs to wait for any more.
    finished: AtomicBool,
}

fn id_of(body: &[u8]) -> u16 {
    u16::from_be_bytes([body[0], body[1]])
}

fn answer(first: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [first, 2, high, low]
}

/// A device: carries out what comes at QoS 2, once for each exchange, and says so at
/// QoS 1. Nothing but the exchange tells a command that comes again from a new one.
fn device(port: u16, name: &str, run: &Run) {
    let mut held: BTreeSet<u16> = BTreeSet::new();
    // Replies that have no PUBACK yet, by the identifier of their packet.
    let mut owed: BTreeMap<u16, (String, String)> = BTreeMap::new();
    let mut next = 1_u16;
    let mut is_subscribed = false;
    while !run.finished.load(SeqCst) {
        let Ok((mut client, present)) = Client::try_resume(port, name) else {
            wait::pass(Duration::from_millis(20));
            continue;
        };
        assert!(
            present || !is_subscribed,
            "the session of {name} was promised"
        );
        let mut step = || -> io::Result<()> {
            if !present {
                let filter = format!("devices/{name}/commands");
                client.send(&mqtt::subscribe(Version::V4, &filter, 2, 9))?;
            }
            for (id, (topic, payload)) in &owed {
                let mut packet = mqtt::publish(Version::V4, topic, payload.as_bytes(), 1, *id);
                packet[0] |= 0b1000;
                client.send(&packet)?;
            }
            while !run.finished.load(SeqCst) {
                let Some(packet) = client.next(Duration::from_millis(200))? else {
                    continue;
                };
                match packet.kind {
                    9 => is_subscribed = true,
                    4 => drop(owed.remove(&id_of(&packet.body))),
                    3 => {
                        let end = 2 + usize::from(id_of(&packet.body));
                        let (id, payload) = (id_of(&packet.body[end..]), &packet.body[end + 2..]);
                        if held.insert(id) {
                            let command: Value =
                                serde_json::from_slice(payload).expect("an envelope");
                            let text =
                                |name: &str| command[name].as_str().expect("a text").to_owned();
                            let mut done = run.done.lock().expect("nobody panicked");
                            done.entry(name.to_owned()).or_default().push(text("id"));
                            drop(done);
                            let reply = (text("reply_to"), r#"{"status":"ok"}"#.to_owned());
                            next = next % 60_000 + 1;
                            let (topic, payload) = owed.entry(next).or_insert(reply);
                            let packet =
                                mqtt::publish(Version::V4, topic, payload.as_bytes(), 1, next);
                            client.send(&answer(0x50, id))?;
                            client.send(&packet)?;
                        } else {
                            client.send(&answer(0x50, id))?;
                        }
                    }
                    6 => {
                        let id = id_of(&packet.body);
                        held.remove(&id);
                        client.send(&answer(0x70, id))?;
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        // A kill cuts the connection.
        drop(step());
    }
}

/// Places commands for all devices in turn, each until it is answered; which were
/// accepted, device by device, in order.
fn place(port: u16, run: &Run) -> BTreeMap<String, Vec<String>> {
    let mut accepted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut number = 0;
    while !run.is_over.load(SeqCst) {
        let name = format!("device-{}", number % DEVICES);
        let path = format!("/api/v1/devices/{name}/commands");
        let key = format!("key-{number}");
        let order = json!({ "qos": 2, "payload": { "number": number }, "deadline_secs": 3600 });
        let (status, placed) = insist(run, port, &path, &key, &order);
        if status == 429 {
            // As many are open as may be: nothing was accepted.
            wait::pass(Duration::from_millis(50));
            continue;
        }
        assert_eq!(status, 202, "{placed}");
        let id = placed["id"].as_str().expect("an id").to_owned();
        accepted.entry(name).or_default().push(id);
        run.accepted.fetch_add(1, SeqCst);
        number += 1;
    }
    accepted
}

#[test]
fn every_accepted_command_is_carried_out_once_across_ten_kills() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    let setup = Setup::new(&sandbox).to_file("events");
    let (port, api) = (setup.mqtt, setup.http);
    let mut gateway = Gateway::start(&setup);
    for n in 0..DEVICES {
        let device = json!({ "id": format!("device-{n}"), "site": "hall" });
        let created = ask(
            api,
            "POST",
            "/api/v1/devices",
            &format!("create-{n}"),
            &device,
        );
        assert_eq!(created.expect("an answer").0, 201);
    }
    let run = Arc::new(Run::default());
    let devices: Vec<_> = (0..DEVICES)
        .map(|n| {
            let run = Arc::clone(&run);
            thread::spawn(move || device(port, &format!("device-{n}"), &run))
        })
        .collect();
    let placing = thread::spawn({
        let run = Arc::clone(&run);
        move || place(api, &run)
    });
    for _ in 0..KILLS {
        let before = run.accepted.load(SeqCst);
        wait::until(LONG, "commands are accepted", || {
            (run.accepted.load(SeqCst) > before).then_some(())
        });
        wait::pass(Duration::from_millis(rng.random_range(0..300)));
        gateway.kill();
        gateway.start_again();
    }
    run.is_over.store(true, SeqCst);
    let accepted = placing.join().expect("every request was answered");
    let count: usize = accepted.values().map(Vec::len).sum();

    // All are over at last, and each device has done what was accepted for it, once and
    // in order.
    for (name, ids) in &accepted {
        wait::until(LONG, "every command is over", || {
            let open: usize = ["queued", "sent"]
                .iter()
                .map(|state| {
                    let path = format!("/api/v1/devices/{name}/commands?state={state}&limit=1000");
                    get(api, &path)["items"].as_array().expect("a list").len()
                })
                .sum();
            (open == 0).then_some(())
        });
        for id in ids {
            let command = get(api, &format!("/api/v1/devices/{name}/commands/{id}"));
            assert_eq!(command["state"], "acknowledged", "{command}");
        }
    }
    run.finished.store(true, SeqCst);
    for device in devices {
        device.join().expect("the device ends");
    }
    let done = run.done.lock().expect("nobody panicked").clone();
    assert_eq!(done, accepted);
    let unanswered = run.unanswered.load(SeqCst);
    println!("{count} commands across {KILLS} kills; {unanswered} requests were asked again");
    gateway.finish();
}

#[test]
fn a_command_waits_for_its_device_and_expires_when_nobody_comes() {
    let sandbox = Sandbox::new();
    let setup = Setup::new(&sandbox).to_file("events");
    let (port, api) = (setup.mqtt, setup.http);
    let mut gateway = Gateway::start(&setup).expecting(&["a publish was refused"]);
    let created = ask(
        api,
        "POST",
        "/api/v1/devices",
        "1",
        &json!({ "id": "pump" }),
    );
    assert_eq!(created.expect("an answer").0, 201);
    let path = "/api/v1/devices/pump/commands";
    let place = |key: &str, order: Value| ask(api, "POST", path, key, &order).expect("an answer");
    let (status, late) = place("late", json!({ "payload": 1, "deadline_secs": 3600 }));
    assert_eq!((status, &late["state"]), (202, &json!("queued")), "{late}");
    let (status, never) = place("never", json!({ "payload": 2, "deadline_secs": 1 }));
    assert_eq!(
        (status, &never["state"]),
        (202, &json!("queued")),
        "{never}"
    );
    let show = |command: &Value| {
        get(
            api,
            &format!("{path}/{}", command["id"].as_str().expect("an id")),
        )
    };
    wait::until(LONG, "the deadline to pass", || {
        (show(&never)["state"] == "expired").then_some(())
    });
    assert_eq!(show(&never)["sent"], Value::Null);

    // Somebody else's subscription is nobody's: the pump was never here.
    let (mut monitor, _) = Client::try_resume(port, "monitor").expect("the broker takes it");
    monitor
        .send(&mqtt::subscribe(Version::V4, "devices/#", 2, 1))
        .expect("the broker reads");
    assert_eq!(monitor.read().expect("SUBACK").kind, 9);
    assert_eq!(show(&late)["state"], "queued");

    gateway.kill();
    gateway.start_again();
    let (mut pump, _) = Client::try_resume(port, "pump").expect("the broker takes it");
    pump.send(&mqtt::subscribe(Version::V4, "devices/pump/commands", 1, 1))
        .expect("the broker reads");
    assert_eq!(pump.read().expect("SUBACK").kind, 9);
    let packet = pump.read().expect("the command");
    assert_eq!(packet.kind, 3);
    let end = 2 + usize::from(id_of(&packet.body));
    let command: Value = serde_json::from_slice(&packet.body[end + 2..]).expect("an envelope");
    assert_eq!(
        (&command["id"], &command["payload"]),
        (&late["id"], &json!(1))
    );
    assert_eq!(command["key"], "late");
    wait::until(LONG, "that it was sent is noted", || {
        (show(&late)["state"] == "sent").then_some(())
    });

    // Nobody answers for it but itself.
    let topic = command["reply_to"].as_str().expect("a topic");
    let mut thief = Client::connect(port, Version::V5, "thief");
    thief.publish(topic, b"{}", 1, 1).expect("the broker reads");
    let refused = thief.ack(LONG).expect("an answer").expect("a PUBACK");
    assert_eq!(refused.reason, 0x87);
    assert_eq!(show(&late)["state"], "sent");
    let reply = br#"{"status":"failed","why":"no water"}"#;
    pump.publish(topic, reply, 1, 7).expect("the broker reads");
    let acknowledged = pump.ack(LONG).expect("an answer").expect("a PUBACK");
    assert_eq!(acknowledged.id, 7);
    // What is acknowledged is on disk.
    gateway.kill();
    gateway.start_again();
    let failed = show(&late);
    assert_eq!(
        (&failed["state"], &failed["reply"]["why"]),
        (&json!("failed"), &json!("no water"))
    );

    // The same request once more is answered with what became of it.
    let (status, again) = place("late", json!({ "payload": 1, "deadline_secs": 3600 }));
    assert_eq!(
        (status, &again["id"], &again["state"]),
        (202, &late["id"], &json!("failed"))
    );
    let (status, other) = place("late", json!({ "payload": 3 }));
    assert_eq!(status, 422, "{other}");

    // All of it is in the journal, as events that go to destinations.
    gateway.wait_until_drained(LONG);
    gateway.finish();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(setup.data().join("events")).expect("the directory") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("an event");
            let kind = event["type"].as_str().expect("a type").to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let expect = [
        ("penstock.command.expired", 1),
        ("penstock.command.failed", 1),
        ("penstock.command.queued", 2),
        ("penstock.command.sent", 1),
        ("penstock.device.created", 1),
    ];
    assert_eq!(
        kinds,
        expect.map(|(kind, count)| (kind.to_owned(), count)).into()
    );
}

/// Speaks NATS by hand: asks the server, and gives its answer.
fn nats_ask(url: &str, subject: &str, headers: &str, payload: &str) -> Value {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let address = url.strip_prefix("nats://").expect("an address");
    let mut stream = std::net::TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(LONG)).expect("a socket");
    let head = match headers {
        "" => format!("PUB {subject} _INBOX.a {}\r\n", payload.len()),
        _ => {
            let headers = headers.len();
            format!(
                "HPUB {subject} _INBOX.a {headers} {}\r\n",
                headers + payload.len()
            )
        }
    };
    write!(
        stream,
        "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\n\
         SUB _INBOX.a 1\r\n{head}{headers}{payload}\r\n"
    )
    .expect("the server reads");
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("the server answers");
        if !line.starts_with("MSG ") {
            assert!(
                !line.starts_with("-ERR") && !line.starts_with("HMSG"),
                "{line}"
            );
            continue;
        }
        let length = line.trim().rsplit(' ').next().expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        reader.read_exact(&mut body).expect("the message");
        return serde_json::from_slice(&body).expect("JSON");
    }
}

#[test]
fn commands_come_by_mqtt_and_from_a_nats_stream_each_once() {
    let sandbox = Sandbox::new();
    let Some(nats) = NatsServer::start(&sandbox) else {
        return;
    };
    let stream = json!({ "name": "ORDERS", "subjects": ["orders.*"], "storage": "file" });
    let made = nats_ask(
        &nats.url(),
        "$JS.API.STREAM.CREATE.ORDERS",
        "",
        &stream.to_string(),
    );
    assert_eq!(made["error"], Value::Null, "{made}");
    let setup = Setup::new(&sandbox).to_file("events").with(&format!(
        "[commands]\norders = \"orders/{{device}}\"\n\
         [[upstream]]\nname = \"control\"\nservers = [\"{}\"]\nstream = \"ORDERS\"",
        nats.url()
    ));
    let (port, api) = (setup.mqtt, setup.http);
    let mut gateway = Gateway::start(&setup).expecting(&[
        "no commands come from there",
        "a command was not accepted",
        "a publish was refused",
    ]);
    let created = ask(
        api,
        "POST",
        "/api/v1/devices",
        "1",
        &json!({ "id": "pump" }),
    );
    assert_eq!(created.expect("an answer").0, 201);
    let path = "/api/v1/devices/pump/commands";
    let list = || get(api, path)["items"].as_array().expect("a list").clone();
    let keys = |list: &[Value]| -> BTreeSet<String> {
        list.iter()
            .map(|one| one["key"].as_str().expect("a key").to_owned())
            .collect()
    };

    // By MQTT; the same key is the same command.
    let mut backend = Client::connect(port, Version::V5, "backend");
    let order = br#"{"key":"by-mqtt","name":"start","qos":2}"#;
    for id in [1, 2] {
        backend
            .publish("orders/pump", order, 1, id)
            .expect("the broker reads");
        let ack = backend.ack(LONG).expect("an answer").expect("a PUBACK");
        assert_eq!((ack.id, ack.reason), (id, 0));
    }
    for (topic, order, reason) in [
        ("orders/nobody", &br#"{"name":"start"}"#[..], 0x83),
        ("orders/pump", br#"{"key":"by-mqtt","name":"stop"}"#, 0x83),
    ] {
        backend
            .publish(topic, order, 1, 3)
            .expect("the broker reads");
        let ack = backend.ack(LONG).expect("an answer").expect("a PUBACK");
        assert_eq!(ack.reason, reason);
    }
    assert_eq!(keys(&list()), ["by-mqtt".to_owned()].into());

    // By NATS, with the gateway killed in between: what it took is not taken again.
    let send = |headers: &str, order: &Value| {
        nats_ask(&nats.url(), "orders.pump", headers, &order.to_string())
    };
    send("", &json!({ "name": "one" }));
    send(
        "NATS/1.0\r\nIdempotency-Key: two\r\n\r\n",
        &json!({ "name": "two" }),
    );
    wait::until(LONG, "the commands to come", || {
        (list().len() == 3).then_some(())
    });
    gateway.kill();
    send(
        "NATS/1.0\r\nIdempotency-Key: two\r\n\r\n",
        &json!({ "name": "two" }),
    );
    send("", &json!({ "not": "a command" }));
    send("", &json!({ "name": "three" }));
    gateway.start_again();
    wait::until(LONG, "the commands to come", || {
        (list().len() == 4).then_some(())
    });
    // Those without a key have their places in the stream for one.
    let mut found = keys(&list());
    assert!(found.remove("by-mqtt") && found.remove("two"), "{found:?}");
    let places: Vec<_> = found
        .iter()
        .filter_map(|key| key.rsplit(':').next())
        .collect();
    assert_eq!(places, ["1", "5"], "{found:?}");
    // What is no command is not lost.
    let quarantine = get(api, "/api/v1/quarantine");
    assert_eq!(
        quarantine["items"][0]["topic"], "orders/pump",
        "{quarantine}"
    );
    gateway.finish();
}
