//! A NATS cluster of three loses a server under load, and no event with it.

use std::time::Duration;

use penstock_tests::{Audit, Gateway, NatsCluster, Sandbox, Setup, Sim, seed, turns, wait};

const STREAM: &str = "TELEMETRY";

/// Every server of the cluster, and three copies of each message.
fn to_cluster(cluster: &NatsCluster) -> String {
    let servers: Vec<String> = cluster
        .servers
        .iter()
        .map(|one| format!("{:?}", one.url()))
        .collect();
    format!(
        "[[destination]]\nname = \"stream\"\ntype = \"nats\"\nservers = [{}]\n\
         stream = \"{STREAM}\"\nsubject = \"t.{{device}}.{{type}}\"\nreplicas = 3\n\
         timeout = \"5s\"\nretry_max = \"1s\"",
        servers.join(", ")
    )
}

#[test]
fn nothing_is_lost_or_doubled_when_the_leader_of_three_is_killed_under_load() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(mut cluster) = NatsCluster::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox).with(&to_cluster(&cluster));
    // While a leader is elected nobody answers: the gateway says so.
    let gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 500)
        .with(&["--qos", "1"])
        .start();
    for _ in 0..2 {
        let before = gateway.status().destination("stream").delivered;
        gateway.wait_for(Duration::from_secs(60), "events in the stream", |now| {
            now.destination("stream").delivered > before + 500
        });
        let leader = cluster.leader(STREAM);
        cluster.servers[leader].kill();
        let away = gateway.status().destination("stream").delivered;
        gateway.wait_for(Duration::from_secs(60), "another leader", |now| {
            now.destination("stream").delivered > away + 500
        });
        // One may be away at a time.
        cluster.servers[leader].start_again();
    }
    let report = fleet.stop(Duration::from_secs(120));
    println!("the fleet: {report}");
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let leader = &cluster.servers[cluster.leader(STREAM)];
    let audit = Audit::nats(&sandbox, &fleet, leader, STREAM, &[]);
    assert!(audit.count("acked") > 1_000);
    for nothing in ["lost", "duplicated", "phantom"] {
        assert_eq!(audit.count(nothing), 0, "{nothing}");
    }
    // docs/delivery.md, Order: what a dead leader had not passed on goes again, behind
    // what came after it.
    println!("out of order: {}", audit.count("out_of_order"));
}

#[test]
fn the_gateway_killed_while_a_server_of_the_cluster_is_away_loses_and_doubles_nothing() {
    let _turn = turns::alone();
    let sandbox = Sandbox::new();
    let (seed, _) = seed::seeded();
    let Some(mut cluster) = NatsCluster::start(&sandbox) else {
        return;
    };
    let setup = Setup::new(&sandbox).with(&to_cluster(&cluster));
    let mut gateway = Gateway::start(&setup).expecting(&["stream"]);
    let mut fleet = Sim::new(&sandbox, "fleet", setup.mqtt, seed)
        .load(20, 500)
        .with(&["--qos", "1"])
        .start();
    gateway.wait_for(Duration::from_secs(60), "events in the stream", |now| {
        now.destination("stream").delivered > 500
    });
    let leader = cluster.leader(STREAM);
    cluster.servers[leader].kill();
    for _ in 0..3 {
        let before = gateway.status().ledger.accepted;
        gateway.wait_for(Duration::from_secs(30), "load", |now| {
            now.ledger.accepted > before
        });
        wait::pass(Duration::from_millis(300));
        gateway.kill();
        gateway.start_again();
    }
    fleet.stop(Duration::from_secs(120));
    gateway.wait_until_drained(Duration::from_secs(60));
    gateway.finish();
    let leader = &cluster.servers[cluster.leader(STREAM)];
    let audit = Audit::nats(&sandbox, &fleet, leader, STREAM, &[]);
    for nothing in ["lost", "duplicated", "phantom"] {
        assert_eq!(audit.count(nothing), 0, "{nothing}");
    }
}
