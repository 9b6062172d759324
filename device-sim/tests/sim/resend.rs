//! What is not acknowledged is sent again: the same, and in order.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use crate::{
    Run,
    server::{Answer, Publish, Server},
};

fn on_connection(publishes: &[Publish], connection: usize) -> Vec<String> {
    publishes
        .iter()
        .filter(|publish| publish.connection == connection)
        .map(|publish| publish.id().unwrap())
        .collect()
}

/// Acknowledges `acked` publishes, leaves the next `withheld` unanswered, then
/// drops the connection; from then on acknowledges everything.
fn drops_once(acked: usize, withheld: usize) -> Server {
    let seen = AtomicUsize::new(0);
    Server::start(move |publish| {
        let n = seen.fetch_add(1, SeqCst);
        match publish.connection {
            0 if n < acked => Answer::Ack,
            0 if n < acked + withheld => Answer::Nothing,
            0 => Answer::Drop,
            _ => Answer::Ack,
        }
    })
}

#[test]
fn the_unacknowledged_are_resent_first_in_order_and_unchanged_after_a_drop() {
    for protocol in ["3.1.1", "5"] {
        for qos in ["1", "2"] {
            for identity in ["field", "property"] {
                let case = format!("--protocol {protocol} --qos {qos} --identity {identity}");
                let server = drops_once(10, 5);
                let dir = tempfile::tempdir().unwrap();
                let run = Run::against(
                    &server,
                    dir.path(),
                    &format!("{case} --devices 1 --rate 0 --count 40 --window 8 --format json"),
                );
                assert_eq!(run.code(), Some(0), "{case} {:?}", run.output);
                let publishes = server.publishes();
                let (first, second) = (on_connection(&publishes, 0), on_connection(&publishes, 1));
                // What the server saw and did not acknowledge comes again, as it was.
                let repeated = &first[10..];
                assert_eq!(second[..repeated.len()], *repeated, "{case}");
                let payload = |id: &str, connection| {
                    let is = |publish: &&Publish| {
                        publish.connection == connection && publish.id().as_deref() == Some(id)
                    };
                    publishes.iter().find(is).unwrap().payload.clone()
                };
                for id in repeated {
                    assert_eq!(payload(id, 0), payload(id, 1), "{case}");
                }
                // And nothing overtakes.
                let seqs: Vec<_> = publishes
                    .iter()
                    .filter(|p| p.connection == 1)
                    .map(|p| p.seq().unwrap())
                    .collect();
                assert_eq!(seqs, (10..40).collect::<Vec<_>>(), "{case}");
                let firsts: Vec<_> = (0..40).map(|seq| format!("{seq}")).collect();
                let logged: Vec<_> = run
                    .logged("sent")
                    .iter()
                    .map(|id| id.rsplit_once('-').unwrap().1.to_owned())
                    .collect();
                assert_eq!(logged, firsts, "{case}: `sent` once each");
                let acked: HashSet<_> = run.logged("acked").into_iter().collect();
                assert_eq!((acked.len(), run.logged("acked").len()), (40, 40), "{case}");
                assert_eq!(run.count("reconnects"), 1);
                assert!(run.count("resent") >= 6, "{case}");
            }
        }
    }
}

#[test]
fn a_message_is_acknowledged_only_by_its_own_packet_id() {
    // Acknowledges every other publish, and then drops: the others must come again, and only they.
    let server = Server::start(|publish| match publish.connection {
        0 if publish.seq() == Some(9) => Answer::Drop,
        0 if publish.seq().unwrap() % 2 == 1 => Answer::Nothing,
        _ => Answer::Ack,
    });
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--devices 1 --rate 0 --count 10 --window 10 --format json --identity field",
    );
    assert_eq!(run.code(), Some(0));
    let again: Vec<_> = server
        .publishes()
        .iter()
        .filter(|p| p.connection == 1)
        .map(|p| p.seq().unwrap())
        .collect();
    assert!(again.ends_with(&[1, 3, 5, 7, 9]), "{again:?}");
    assert!(again.is_sorted(), "{again:?}");
}

#[test]
fn quota_exceeded_is_no_acknowledgement_and_the_message_comes_again() {
    for qos in ["1", "2"] {
        let refusals = AtomicUsize::new(0);
        let server = Server::start(move |publish| match publish.seq() {
            Some(3 | 4) if refusals.fetch_add(1, SeqCst) < 4 => Answer::Reason(0x97),
            _ => Answer::Ack,
        });
        let dir = tempfile::tempdir().unwrap();
        let run = Run::against(
            &server,
            dir.path(),
            &format!(
                "--protocol 5 --qos {qos} --devices 1 --rate 0 --count 30 --window 4 --format json --identity property"
            ),
        );
        assert_eq!(run.code(), Some(0), "{:?}", run.output);
        assert_eq!(
            (
                run.count("acked"),
                run.count("deferred"),
                run.count("refused")
            ),
            (30, 4, 0)
        );
        assert_eq!(run.logged("deferred").len(), 4);
        let publishes = server.publishes();
        assert_eq!(publishes.len(), 34);
        assert!(
            publishes.iter().all(|publish| publish.connection == 0),
            "without a reconnect"
        );
        let of = |seq| {
            publishes
                .iter()
                .filter(|p| p.seq() == Some(seq))
                .map(|p| p.payload.clone())
                .collect::<Vec<_>>()
        };
        assert!(of(3).len() > 1 && of(3).windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_refused_message_is_not_sent_again_and_the_run_says_so() {
    for qos in ["1", "2"] {
        let server = Server::start(|publish| match publish.seq() {
            Some(2) => Answer::Reason(0x87),
            _ => Answer::Ack,
        });
        let dir = tempfile::tempdir().unwrap();
        let run = Run::against(
            &server,
            dir.path(),
            &format!(
                "--protocol 5 --qos {qos} --devices 1 --rate 0 --count 500 --window 4 --format json --identity property"
            ),
        );
        assert_eq!(run.code(), Some(1), "{:?}", run.output);
        assert_eq!(
            (
                run.count("acked"),
                run.count("refused"),
                run.count("unacknowledged")
            ),
            (499, 1, 0)
        );
        assert_eq!(run.logged("refused").len(), 1);
        assert_eq!(server.publishes().len(), 500);
    }
}

#[test]
fn many_refusals_do_not_use_up_the_window() {
    let server = Server::start(|publish| match publish.seq() {
        Some(seq) if seq < 200 => Answer::Reason(0x80),
        _ => Answer::Ack,
    });
    let dir = tempfile::tempdir().unwrap();
    let args = "--protocol 5 --qos 2 --devices 1 --rate 0 --count 300 --window 3 --format json";
    let run = Run::against(&server, dir.path(), args);
    assert_eq!((run.count("acked"), run.count("refused")), (100, 200));
}

#[test]
fn what_pubrec_accepted_is_not_sent_again_after_a_drop() {
    let server = Server::start(|publish| match (publish.connection, publish.seq()) {
        (0, Some(4)) => Answer::Drop,
        (0, _) => Answer::Half,
        _ => Answer::Ack,
    });
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--qos 2 --devices 1 --rate 100 --count 10 --window 100 --format json --identity field",
    );
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    let again: Vec<_> = server
        .publishes()
        .iter()
        .filter(|p| p.connection == 1)
        .map(|p| p.seq().unwrap())
        .collect();
    assert_eq!(again, (4..10).collect::<Vec<_>>());
}

#[test]
fn a_gateway_that_never_acknowledges_leaves_the_window_unacknowledged() {
    let server = Server::start(|_| Answer::Nothing);
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--devices 2 --rate 0 --count 100 --window 7 --settle 300ms",
    );
    assert_eq!(run.code(), Some(1));
    assert_eq!(
        (
            run.count("sent"),
            run.count("acked"),
            run.count("unacknowledged")
        ),
        (14, 0, 14)
    );
    assert_eq!(run.logged("sent").len(), 14);
    assert_eq!(run.logged("acked").len(), 0);
}

#[test]
fn a_device_respects_the_gateways_receive_maximum() {
    let server = Server::listen("127.0.0.1:0".parse().unwrap(), Some(3), |_| Answer::Nothing);
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--protocol 5 --devices 1 --rate 0 --count 100 --window 50 --settle 300ms",
    );
    assert_eq!(run.count("sent"), 3);
}

#[test]
fn devices_come_back_after_a_restart_of_the_gateway() {
    let first = drops_once(20, 8);
    let address = first.address;
    let dir = tempfile::tempdir().unwrap();
    let (run, second) = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            Run::at(
                &address.to_string(),
                dir.path(),
                "--devices 4 --rate 200 --for 2s --window 5 --format json --identity field",
            )
        });
        while first.publishes().len() < 25 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = first.publishes();
        drop(first);
        std::thread::sleep(Duration::from_millis(300));
        let second = Server::listen(address, None, |_| Answer::Ack);
        let run = run.join().unwrap();
        let received = [before, second.publishes()].concat();
        (run, received)
    });
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    assert!(run.count("reconnects") >= 4 && run.count("connect_failures") > 0);
    let received: HashSet<_> = second.iter().filter_map(Publish::id).collect();
    let sent: HashSet<_> = run.logged("sent").into_iter().collect();
    assert_eq!(run.count("sent"), 400);
    assert_eq!(received, sent);
}

#[test]
fn an_acknowledgement_out_of_nowhere_ends_the_connection_and_loses_nothing() {
    let server = Server::start(|publish| match (publish.connection, publish.seq()) {
        (0, Some(5)) => Answer::Nonsense,
        _ => Answer::Ack,
    });
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--devices 1 --rate 0 --count 20 --format json --identity field",
    );
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    assert_eq!((run.count("acked"), run.count("connections_lost")), (20, 1));
}

#[test]
fn the_same_seed_sends_the_same_messages() {
    let sent = |seed: &str| {
        let server = Server::start(|_| Answer::Ack);
        let dir = tempfile::tempdir().unwrap();
        let chaos = "--chaos duplicates=0.1,reorder=0.1,malformed=0.05,skew=5s";
        let args = format!(
            "--devices 6 --rate 0 --count 300 --boot 7 --format json --seed {seed} {chaos}"
        );
        let run = Run::against(&server, dir.path(), &args);
        assert_eq!(run.code(), Some(0), "{:?}", run.output);
        let mut sent: Vec<_> = server
            .publishes()
            .into_iter()
            .map(|publish| {
                assert!(!publish.dup && publish.qos == 1);
                let body =
                    serde_json::from_slice(&publish.payload).map(|mut value: serde_json::Value| {
                        value.as_object_mut().unwrap().remove("ts").unwrap();
                        value.to_string()
                    });
                (
                    publish.client,
                    publish.properties.into_iter().next(),
                    body.ok(),
                )
            })
            .collect();
        // Devices share the wire in no particular order, each keeps its own.
        sent.sort_by(|a, b| a.0.cmp(&b.0));
        sent
    };
    assert_eq!(sent("1"), sent("1"));
    assert_ne!(sent("1"), sent("2"));
}

#[test]
fn a_wrong_profile_is_a_usage_error_that_names_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, "device = 'x'\nperiod = '1s'\n[[signal]]\nname = 't'\nkind = 'walk'\nstart = [1, 2]\nstpe = 1\n").unwrap();
    let output = crate::device_sim(&["run", "--profile", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("mine.toml") && error.contains("stpe"),
        "{error}"
    );
}

#[test]
fn a_run_that_never_reached_the_gateway_is_not_a_success() {
    let server = Server::start(|_| Answer::Ack);
    let nobody = server.address.to_string();
    drop(server);
    let dir = tempfile::tempdir().unwrap();
    let run = Run::at(
        &nobody,
        dir.path(),
        "--devices 3 --rate 10 --for 1s --settle 200ms",
    );
    assert_eq!(run.code(), Some(1));
    assert_eq!((run.count("sent"), run.count("devices_gave_up")), (0, 3));
    assert!(String::from_utf8_lossy(&run.output.stderr).contains("cannot connect"));
}

#[test]
fn a_deliberate_cut_comes_between_packets_and_within_them_and_loses_nothing() {
    let server = Server::start(|_| Answer::Ack);
    let dir = tempfile::tempdir().unwrap();
    let run = Run::against(
        &server,
        dir.path(),
        "--devices 4 --rate 0 --count 800 --window 10 --format json --identity field --chaos disconnect=0.05",
    );
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    assert_eq!(run.count("acked"), 800);
    let (cut, torn) = (run.count("cut"), server.torn());
    assert!(torn > 0 && torn < cut, "{torn} torn of {cut} cut");
    for device in run.report["devices"].as_u64().map(|n| 1..=n).unwrap() {
        let mut last = None;
        let mut seen = HashSet::new();
        let publishes = server.publishes();
        let mine = publishes
            .iter()
            .filter(|p| p.client.ends_with(&format!("-{device:04}")));
        for publish in mine.filter(|publish| seen.insert(publish.seq())) {
            assert!(publish.seq() > last, "first arrivals are in order");
            last = publish.seq();
        }
        assert_eq!(seen.len(), 200);
    }
}
