//! The read side with the real gateway: it survives what the gateway survives, and
//! answers as if it had been built from scratch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use penstock_tests::{
    Gateway, Sandbox, Setup, by_device, http,
    mqtt::{Client, Version},
    ports, seed, wait,
};
use rand::RngExt as _;
use serde_json::{Value, json};

const READ: &str = "[read]\nenabled = true";
const LONG: Duration = Duration::from_secs(60);
const KILLS: usize = 5;

/// Publishes numbers until it is told to stop, through whatever happens to the gateway.
/// What was not acknowledged is sent again.
fn device(setup: &Setup, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (port, stop) = (setup.mqtt, stop.clone());
    thread::spawn(move || {
        let mut acknowledged = 0_u64;
        'connect: while !stop.load(Relaxed) {
            let Ok(mut client) = Client::try_connect(port, Version::V5, "b7") else {
                wait::pass(Duration::from_millis(20));
                continue;
            };
            while !stop.load(Relaxed) {
                let payload = format!(
                    "{{\"v\":{acknowledged},\"state\":\"word{}\"}}",
                    acknowledged % 7
                );
                let id = u16::try_from(acknowledged % 60_000).expect("below") + 1;
                let sent = client.publish("devices/b7/telemetry", payload.as_bytes(), 1, id);
                match sent.and_then(|()| client.ack(LONG)) {
                    Ok(Some(_)) => acknowledged += 1,
                    _ => continue 'connect,
                }
            }
        }
        acknowledged
    })
}

/// What a command prints with `--json`; it may have found nothing.
fn ask(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.command(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{arguments:?}: {complaint}");
    said
}

/// Much of what can be asked, as it is answered.
fn answers(gateway: &Gateway, position: u64) -> String {
    let position = position.to_string();
    let mut said = String::new();
    for question in [
        &["last"][..],
        &["history", "b7", "v", "--limit", "1000"],
        &["history", "b7", "v", "--step", "1s"],
        &["history", "b7", "v", "--step", "1h"],
        &["search", "word3", "--limit", "1000"],
        &["search", "device:b7 word*", "--limit", "1000"],
        &["where", "1"],
    ] {
        let common = ["--json", "--min-position", &position];
        said.push_str(&ask(gateway, &[question, &common].concat()));
    }
    said
}

#[test]
fn killed_again_and_again_it_answers_as_one_that_is_built_from_scratch() {
    let sandbox = Sandbox::new();
    let (_, mut rng) = seed::seeded();
    // Nobody listens there: the journal keeps everything.
    let nowhere = format!("http://127.0.0.1:{}/", ports::free());
    let setup = Setup::new(&sandbox).with(READ).to_http("nowhere", &nowhere);
    let mut gateway = Gateway::start(&setup).expecting(&["nowhere"]);
    let stop = Arc::new(AtomicBool::new(false));
    let device = device(&setup, &stop);
    for _ in 0..KILLS {
        let before = gateway.status().ledger.accepted;
        gateway.wait_for(LONG, "load", |now| now.ledger.accepted > before + 20);
        wait::pass(Duration::from_millis(rng.random_range(0..700)));
        gateway.kill();
        gateway.start_again();
    }
    stop.store(true, Relaxed);
    let acknowledged = device.join().expect("it publishes to the end");
    let stored = gateway.status().ledger.stored;
    assert!(
        stored >= acknowledged && acknowledged > 100,
        "{stored} {acknowledged}"
    );

    let followed = answers(&gateway, stored);
    assert!(followed.contains("\"missing\":[]"), "{followed}");
    // HTTP says the same as the commands.
    let over_http = http::get(setup.http, "/api/v1/last").expect("it answers");
    assert_eq!(Some(over_http.body.as_str()), followed.lines().next());
    gateway.ask(&["read", "rebuild"]);
    wait::until(LONG, "a new read side", || {
        let reply = http::get(setup.http, "/api/v1/read")?;
        let status: Value = serde_json::from_str(&reply.body).ok()?;
        let done = status["rebuilt"] == 1 && status["position"] == stored;
        done.then_some(())
    });
    assert_eq!(answers(&gateway, stored), followed);
    // And once more without a gateway.
    gateway.stop();
    gateway.ask(&["read", "rebuild"]);
    assert_eq!(answers(&gateway, stored), followed);
    gateway.start_again();
    gateway.finish();
}

#[test]
fn what_is_delivered_and_trimmed_is_known_after_kills_too() {
    let sandbox = Sandbox::new();
    let files = Setup::new(&sandbox).to_file("events");
    let setup = files.clone().with(READ);
    let mut gateway = Gateway::start(&setup);
    let stop = Arc::new(AtomicBool::new(false));
    let device = device(&setup, &stop);
    for _ in 0..3 {
        let before = gateway.status().ledger.accepted;
        gateway.wait_for(LONG, "load", |now| now.ledger.accepted > before + 50);
        gateway.kill();
        gateway.start_again();
    }
    stop.store(true, Relaxed);
    device.join().expect("it publishes to the end");
    let drained = gateway.wait_until_drained(LONG);
    let stored = drained.ledger.stored;
    let all = stored.to_string();
    let by_device = by_device::assert_balanced(&gateway, &drained).expect("a read side");
    let of_b7 = by_device[&("b7".to_owned(), "events".to_owned())];
    let count = stored.cast_signed();
    assert_eq!(of_b7, [count, count, 0, 0, 0, 0, 0]);
    let where_is = |position: u64| -> Value {
        let at = position.to_string();
        let said = gateway.ask(&["where", &at, "--json", "--min-position", &all]);
        serde_json::from_str(&said).expect("JSON")
    };
    wait::until(LONG, "an empty journal", || {
        (where_is(stored)["items"][0]["in_journal"] == false).then_some(())
    });
    for position in [1, stored / 2, stored] {
        let said = where_is(position);
        assert_eq!(said["missing"], json!([]), "{said}");
        let item = &said["items"][0];
        assert_eq!(item["in_journal"], false, "{said}");
        let delivered = json!([{ "name": "events", "state": "delivered", "lost": 0 }]);
        assert_eq!(item["destinations"], delivered, "{said}");
    }
    gateway.stop();

    // Switched off, it neither answers nor goes on.
    gateway.start_with(&files.with("[read]\nenabled = false"));
    let reply = http::get(setup.http, "/api/v1/last").expect("it answers");
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(
        reply.body.contains("[read] enabled = false"),
        "{}",
        reply.body
    );
    gateway.finish();
}
