//! What comes goes out while what has waited does: by a lane of its own, each event once,
//! whatever is killed, and whatever is configured meanwhile.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use penstock_tests::{
    ChaosProxy, Gateway, HttpReceiver, Mode, Sandbox, Setup,
    mqtt::{Client, Version},
    programs,
    status::Status,
    wait,
};
use rustix::process::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(90);
const DEVICES: u64 = 4;
/// Events that wait before anything is live.
const WAITED: u64 = 5_000;

/// Events of some size, known by a number, and of a class by the last level of the topic.
const EVENTS: &str = r#"
[[mapping]]
topic = "devices/{device}/#"
id = ["/n"]
values = [{ name = "n" }, { name = "fill" }]
[[rule]]
name = "trouble"
pattern = '{"mqtttopic": [{"suffix": "/critical"}]}'
class = "critical"
"#;

fn setup(sandbox: &Sandbox, port: u16, keys: &str) -> Setup {
    let url = format!("http://127.0.0.1:{port}/");
    Setup::new(sandbox)
        .with(EVENTS)
        .to_http("lake", &url)
        .with(&format!("gzip = false\nbatch_records = 50\n{keys}"))
}

/// Publishes numbers, one after the other; what was not acknowledged comes again.
struct Fleet {
    port: u16,
    client: Option<Client>,
    last: u64,
}

impl Fleet {
    fn publish(&mut self, count: u64, class: &str) {
        for _ in 0..count {
            self.last += 1;
            let n = self.last;
            let payload = format!("{{\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(600));
            let topic = format!("devices/d{}/{class}", n % DEVICES);
            let id = u16::try_from(n % 60_000 + 1).expect("it fits");
            loop {
                let client = self.client.get_or_insert_with(|| connected(self.port));
                let sent = client.publish(&topic, payload.as_bytes(), 1, id);
                match sent.and_then(|()| client.ack(Duration::from_secs(20))) {
                    Ok(Some(ack)) if ack.reason < 0x80 => break,
                    Ok(other) => panic!("turned away: {other:?}"),
                    Err(_) => self.client = None,
                }
            }
        }
    }

    /// Publishes at a pace of its own, until it is asked back.
    fn go_on(mut self, pause: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                self.publish(1, "normal");
                wait::pass(pause);
            }
            self
        });
        Load { stop, task }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Fleet>,
}

impl Load {
    fn end(self) -> Fleet {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().expect("it publishes")
    }
}

fn connected(port: u16) -> Client {
    wait::until(Duration::from_secs(30), "a connection", || {
        Client::try_connect(port, Version::V5, "fleet").ok()
    })
}

/// The numbers in the order in which they arrived first. Each has one identity, and what has
/// the same comes as often as it may.
fn arrived(dir: &Path) -> Vec<u64> {
    let text = fs::read_to_string(dir.join("events.ndjson")).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    let (mut order, mut known) = (Vec::new(), BTreeMap::new());
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line).expect("a line is an event");
        let all = event["data"]["m"].as_array().expect("values");
        let n = all.iter().find(|one| one["n"] == "n").expect("a number");
        let n = n["v"].as_u64().expect("a number");
        let identity = format!("{} {}", event["source"], event["id"]);
        match known.get(&n) {
            None => {
                known.insert(n, identity);
                order.push(n);
            }
            Some(first) => assert_eq!(*first, identity, "{n} came as two events"),
        }
    }
    order
}

/// All of them arrived, and those of each device in the order of two lanes.
fn check(order: &[u64], published: u64) {
    let all: BTreeSet<u64> = order.iter().copied().collect();
    let missing = (1..=published).filter(|n| !all.contains(n));
    assert_eq!(missing.collect::<Vec<_>>(), [0; 0], "of {published}");
    assert_eq!(all.len() as u64, published);
    for device in 0..DEVICES {
        let of = order.iter().filter(|n| *n % DEVICES == device);
        // Two lanes, each in its order: nothing comes behind a later one that came behind a
        // later one.
        let (mut latest, mut late) = (0, 0);
        for n in of {
            match *n > latest {
                true => latest = *n,
                false => {
                    assert!(
                        *n > late,
                        "{n} came behind {late}, and that behind {latest}"
                    );
                    late = *n;
                }
            }
        }
    }
}

fn rest_waits(status: &Status) -> u64 {
    status.destination("lake").backlog
}

#[test]
fn what_comes_goes_out_while_the_rest_does_and_each_event_once_whatever_is_killed() {
    let sandbox = Sandbox::new();
    let receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    let setup = setup(&sandbox, wire.port, "live = \"25%\"\nlive_after = \"1s\"\n");
    let mut gateway = Gateway::start(&setup).expecting(&["lake"]);
    wire.set(Mode::Reset);
    let mut fleet = Fleet {
        port: setup.mqtt,
        client: None,
        last: 0,
    };
    fleet.publish(WAITED, "normal");
    assert_eq!(gateway.status().destination("lake.live").routed, 0);

    wire.set(Mode::Throttle(200_000));
    let load = fleet.go_on(Duration::from_millis(20));
    let behind = Cell::new(0);
    let flows = |now: &Status| {
        let lane = now.destination("lake.live");
        behind.set(behind.get().max(lane.backlog));
        lane.delivered > 60
    };
    gateway.wait_for(LONG, "what comes to pass", flows);
    assert!(behind.get() < 100, "{} waited in the lane", behind.get());

    // Who is behind is found out again.
    wire.set(Mode::Throttle(60_000));
    assert!(rest_waits(&gateway.status()) > 1_000, "too fast to tell");
    gateway.kill();
    gateway.start_again();
    let before = gateway.status().destination("lake.live").routed;
    gateway.wait_for(LONG, "what comes to pass again", |now| {
        now.destination("lake.live").routed > before + 5
    });
    wire.set(Mode::Throttle(400_000));
    gateway.wait_for(LONG, "all that waited to be there", |now| {
        rest_waits(now) == 0
    });
    wait::until(LONG, "the lane to be shut", || {
        let log = fs::read_to_string(setup.log()).unwrap_or_default();
        let shut = log.rfind("and no longer by its lane");
        (shut > log.rfind("what comes goes by its lane")).then_some(())
    });
    let fleet = load.end();
    wire.set(Mode::Pass);
    let done = gateway.wait_until_drained(LONG);
    done.assert_balanced();
    gateway.finish();

    let order = arrived(receiver.dir());
    check(&order, fleet.last);
    // Those that came later did not wait for the last of what had waited.
    let last = order.iter().rposition(|n| *n <= WAITED);
    let before = order[..last.expect("it arrived")].iter();
    let passed = before.filter(|n| **n > WAITED).count();
    assert!(passed > 60, "{passed} passed");
}

#[test]
fn while_both_have_something_what_is_live_has_about_its_share() {
    let sandbox = Sandbox::new();
    let receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    let setup = setup(&sandbox, wire.port, "live = \"25%\"\nlive_after = \"1s\"\n");
    let gateway = Gateway::start(&setup).expecting(&["lake"]);
    wire.set(Mode::Reset);
    let mut fleet = Fleet {
        port: setup.mqtt,
        client: None,
        last: 0,
    };
    fleet.publish(WAITED, "normal");
    wire.set(Mode::Throttle(400_000));
    let load = fleet.go_on(Duration::from_millis(20));
    gateway.wait_for(LONG, "the lane to be open", |now| {
        now.destination("lake.live").delivered > 0
    });
    // More than the wire takes, and so more than its share.
    wire.set(Mode::Throttle(40_000));
    let mut fleet = load.end();
    let first = fleet.last + 1;
    fleet.publish(2_000, "normal");
    let both = gateway.status();
    let waits = |name: &str| both.destination(name).backlog;
    assert!(
        waits("lake") > 1_000 && waits("lake.live") > 1_000,
        "too fast to tell"
    );
    let before = arrived(receiver.dir()).len();
    wire.set(Mode::Throttle(400_000));
    gateway.wait_for(LONG, "one of both to have all", |now| {
        rest_waits(now) == 0 || now.destination("lake.live").backlog == 0
    });
    wire.set(Mode::Pass);
    let done = gateway.wait_until_drained(LONG);
    done.assert_balanced();
    gateway.finish();

    let order = arrived(receiver.dir());
    check(&order, fleet.last);
    let of_rest = order.iter().rposition(|n| *n < first).expect("it arrived");
    let of_live = order.iter().rposition(|n| *n >= first).expect("it arrived");
    let both = &order[before..of_rest.min(of_live)];
    let live = both.iter().filter(|n| **n >= first).count();
    let percent = live * 100 / both.len();
    assert!(
        (13..=40).contains(&percent),
        "{percent} % of {} are live",
        both.len()
    );
}

/// Puts another configuration in the place of the one that runs.
fn change(gateway: &mut Gateway, before: &Setup, text: &str) {
    let read_again = || {
        let log = fs::read_to_string(before.log()).unwrap_or_default();
        log.matches("destinations and rules were read again and are in force")
            .count()
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

#[test]
fn lanes_that_are_taken_out_keep_what_waits_in_them_until_they_are_back() {
    let sandbox = Sandbox::new();
    let receiver = HttpReceiver::start(&sandbox);
    let wire = ChaosProxy::to(receiver.port);
    let keys = "urgent = [\"critical\"]\nlive = \"25%\"\nlive_after = \"1s\"\n";
    let with_lanes = setup(&sandbox, wire.port, keys);
    let text = fs::read_to_string(with_lanes.write()).expect("the configuration");
    let without = text.replace(keys, "");
    assert_ne!(text, without);
    let mut gateway = Gateway::start(&with_lanes).expecting(&["lake"]);
    let mut fleet = Fleet {
        port: with_lanes.mqtt,
        client: None,
        last: 0,
    };
    wire.set(Mode::Reset);
    fleet.publish(1_500, "normal");
    wire.set(Mode::Throttle(100_000));
    let load = fleet.go_on(Duration::from_millis(20));
    gateway.wait_for(LONG, "the lane to be open", |now| {
        now.destination("lake.live").routed > 5
    });
    // It goes away, and what comes in the next moment still goes by the lane.
    wire.set(Mode::Reset);
    let mut fleet = load.end();
    fleet.publish(40, "normal");
    fleet.publish(10, "critical");
    let last_before = fleet.last;
    let waits = |now: &Status| {
        let of = |name: &str| now.destination(name).backlog;
        (of("lake.live"), of("lake.urgent"))
    };
    let before = waits(&gateway.status());
    assert!(before.0 >= 40 && before.1 == 10, "{before:?}");

    change(&mut gateway, &with_lanes, &without);
    fleet.publish(20, "normal");
    fleet.publish(5, "critical");
    wire.set(Mode::Pass);
    gateway.wait_for(LONG, "the destination to have all of its own", |now| {
        rest_waits(now) == 0
    });
    let status = gateway.status();
    assert_eq!(waits(&status), before, "they wait for their lanes");
    status.assert_balanced();
    let here = arrived(receiver.dir());
    // The reply to some that are there was lost with the wire, and they wait all the same.
    let least = fleet.last - before.0 - before.1;
    assert!(
        (least..=fleet.last - 50).contains(&(here.len() as u64)),
        "{before:?}"
    );
    let of_lanes = last_before - 49..=last_before;
    assert!(
        !here.iter().any(|n| of_lanes.contains(n)),
        "they wait for their lanes"
    );
    for lane in ["lake.live", "lake.urgent"] {
        let output = std::process::Command::new(programs::penstock())
            .args(["destination", "remove", lane, "--config"])
            .arg(with_lanes.log().with_file_name("penstock.toml"))
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("discard"),
            "{said}"
        );
    }

    // They are back, and it is killed while that goes out.
    wire.set(Mode::Throttle(50_000));
    change(&mut gateway, &with_lanes, &text);
    gateway.kill();
    gateway.start_again();
    wire.set(Mode::Pass);
    let done = gateway.wait_until_drained(LONG);
    done.assert_balanced();
    gateway.finish();
    let order = arrived(receiver.dir());
    assert_eq!(order.len() as u64, fleet.last);
}
