//! HTTP endpoints that take single events or lines get all of them, in order, whoever is
//! killed in between.

use std::time::Duration;

use penstock_tests::{Audit, Gateway, HttpReceiver, Sandbox, Setup, Sim, seed, turns, wait};
use rand::RngExt as _;

/// Load while both sides are killed; what arrived is audited. Plain HTTP dedupes nothing.
fn nothing_is_lost(form: &str) {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, mut rng) = seed::seeded();
    let mut receiver = HttpReceiver::start(&sandbox);
    let url = format!("http://127.0.0.1:{}/", receiver.port);
    let setup = Setup::new(&sandbox).with(&format!(
        "[[destination]]\nname = \"lake\"\ntype = \"http\"\nurl = \"{url}\"\n\
         form = \"{form}\"\ntimeout = \"5s\"\nretry_max = \"1s\""
    ));
    let mut gateway = Gateway::start(&setup).expecting(&["lake"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 300)
        .with(&["--qos", "1"])
        .start();
    for round in 0..6 {
        let before = gateway.status().destination("lake").delivered;
        gateway.wait_for(Duration::from_secs(30), "events at the endpoint", |now| {
            now.destination("lake").delivered > before
        });
        wait::pass(Duration::from_millis(rng.random_range(0..700)));
        if round % 3 == 2 {
            receiver.kill();
            receiver.start_again();
        } else {
            gateway.kill();
            gateway.start_again();
        }
    }
    fleet.stop(Duration::from_secs(60));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let audit = Audit::files(&sandbox, &fleet, receiver.dir(), &["--allow-duplicates"]);
    audit.assert_clean();
}

#[test]
fn single_events_survive_kills_of_both_sides_in_the_order_of_their_devices() {
    nothing_is_lost("cloudevents-structured");
}

#[test]
fn lines_survive_kills_of_both_sides_in_the_order_of_their_devices() {
    nothing_is_lost("ndjson");
}
