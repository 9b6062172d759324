//! The bound on births, and whose they are.

use super::*;

fn named(name: &str) -> Metric {
    Metric {
        name: name.into(),
        datatype: Some(10),
    }
}

fn metrics(at: i64, alias: u64, name: &str) -> Metrics {
    Metrics::new(
        Timestamp::from_millis(at),
        0,
        vec![(Some(alias), named(name))],
    )
}

fn known(births: &Births, device: Option<&str>, alias: u64, at: i64) -> Option<String> {
    let known = births.get("c", "G/N", device, Timestamp::from_millis(at))?;
    known.by_alias(alias).map(|metric| metric.name.to_string())
}

#[test]
fn a_birth_replaces_the_one_before() {
    let births = Births::default();
    births.node("c", "G/N", None, metrics(5, 1, "a"));
    births.device("c", "G/N", "D", metrics(6, 2, "b"));
    assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
    assert_eq!(known(&births, Some("D"), 2, 9).as_deref(), Some("b"));
    assert_eq!(known(&births, Some("D"), 1, 9), None);
    // The aliases of the device's former birth are gone with it.
    births.device("c", "G/N", "D", metrics(7, 3, "c"));
    assert_eq!(known(&births, Some("D"), 2, 9), None);
    assert_eq!(known(&births, Some("D"), 3, 9).as_deref(), Some("c"));
    // The gateway's clock may have been set back.
    births.node("c", "G/N", None, metrics(4, 1, "new"));
    assert_eq!(known(&births, None, 1, 9).as_deref(), Some("new"));
    assert_eq!(known(&births, Some("D"), 3, 9), None);
}

#[test]
fn a_death_ends_its_own_session_alone() {
    let births = Births::default();
    births.node("c", "G/N", Some(2), metrics(5, 1, "a"));
    births.death("c", "G/N", Some(1));
    assert!(known(&births, None, 1, 9).is_some());
    births.death("c", "G/N", Some(2));
    assert!(known(&births, None, 1, 9).is_none());
}

#[test]
fn what_is_tried_again_teaches_nothing_and_learns_from_what_was_before_it() {
    let births = Births::default();
    births.node("c", "G/N", Some(2), metrics(5, 1, "a"));
    births.device("c", "G/N", "D", metrics(7, 2, "b"));
    let again = births.only_read();
    assert_eq!(known(&again, None, 1, 6).as_deref(), Some("a"));
    assert_eq!(known(&again, Some("D"), 2, 6), None);
    again.node("c", "G/N", Some(2), metrics(4, 1, "old"));
    again.device("c", "G/N", "D", metrics(4, 2, "old"));
    again.forget("c", "G/N", Some("D"));
    again.forget("c", "G/N", None);
    again.death("c", "G/N", Some(2));
    assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
    assert_eq!(known(&births, Some("D"), 2, 9).as_deref(), Some("b"));
}

#[test]
fn one_client_does_not_say_what_anothers_messages_mean() {
    let births = Births::default();
    births.node("c", "G/N", None, metrics(5, 1, "a"));
    births.node("d", "G/N", None, metrics(6, 1, "other"));
    assert_eq!(known(&births, None, 1, 9).as_deref(), Some("a"));
}

#[test]
fn births_stay_within_their_bound_and_the_oldest_goes_first() {
    let births = Births::default();
    let long = "n".repeat(10_000);
    for node in 0..3_000 {
        births.node("c", &format!("G/{node}"), None, metrics(1, 1, &long));
        // The same node again and again is one node, and so is its device.
        births.device("c", "G/again", "D", metrics(1, 1, &long));
    }
    let there = |node| {
        births
            .get("c", node, None, Timestamp::from_millis(9))
            .is_some()
    };
    assert!(!there("G/0"));
    assert!(there("G/2999"));
    let nodes = births.lock();
    let client = &nodes.clients["c"];
    assert!(client.nodes["G/again"].bytes < 11_000);
    assert!(nodes.bytes <= BYTES_MAX);
    let sum: usize = client.nodes.values().map(|born| born.bytes).sum();
    assert_eq!(client.bytes, METRIC_BYTES + 1 + sum);
    assert_eq!(nodes.bytes, client.bytes);
}

#[test]
fn a_client_of_many_nodes_pushes_out_only_its_own() {
    let births = Births::default();
    let long = "n".repeat(10_000);
    births.node("small", "G/N", None, metrics(1, 1, "a"));
    for node in 0..3_000 {
        births.node("large", &format!("G/{node}"), None, metrics(2, 1, &long));
    }
    let there = |client, node| {
        let known = births.get(client, node, None, Timestamp::from_millis(9));
        known.is_some()
    };
    assert!(there("small", "G/N"));
    assert!(!there("large", "G/0"));
    assert!(there("large", "G/2999"));
}

#[test]
fn nothing_is_left_of_a_client_whose_nodes_are_gone() {
    let births = Births::default();
    births.node("c", "G/N", None, metrics(1, 1, "a"));
    births.forget("c", "G/N", None);
    let nodes = births.lock();
    assert!(nodes.clients.is_empty());
    assert_eq!(nodes.bytes, 0);
}

#[test]
fn a_number_that_is_left_out_is_a_gap_and_a_resend_is_none() {
    let births = Births::default();
    let next = |births: &Births, seq, again| {
        births.learn("c", &heard(Number::Next(seq)), again);
        births.rebirths().take_gaps() > 0
    };
    assert!(!next(&births, 7, false));
    births.node("c", "G/N", None, metrics(1, 1, "a"));
    assert!(!next(&births, 7, false), "the birth is not kept yet");
    births.learn("c", &heard(Number::First(254)), false);
    let gaps: Vec<bool> = [255, 0, 0, 1, 3, 4, 1, 2]
        .map(|seq| next(&births, seq, false))
        .into();
    assert_eq!(gaps, [false, false, false, false, true, false, true, false]);
    assert!(!next(&births.only_read(), 100, false));
    // A window that was kept before is sent again, and goes on with what is new.
    let window = [(1, true), (2, true), (3, false), (4, true), (5, false)];
    let gaps = window.map(|(seq, again)| next(&births, seq, again));
    assert_eq!(gaps, [false; 5]);
    // Also one that begins with the birth.
    births.node("c", "G/N", None, metrics(1, 1, "a"));
    births.learn("c", &heard(Number::First(0)), true);
    let gaps = [(1, true), (2, true), (3, false)].map(|(seq, again)| next(&births, seq, again));
    assert_eq!(gaps, [false; 3]);
}

fn heard(number: Number) -> Heard {
    Heard {
        node: "G/N".into(),
        number: Some(number),
        missed: false,
        may_be_asked: true,
        received: Timestamp::from_millis(1),
    }
}
