//! What rules may cost, counted: a message must not keep a thread to itself.

use std::fmt::Write as _;

use crate::rules::{Matcher, NotMatched, Pattern, Scratch};

/// The text of an event with measurements of these names and values.
fn event(measured: impl Iterator<Item = (String, u32)>) -> String {
    let mut text = String::from(r#"{"device":"b7","data":{"m":["#);
    for (n, (name, value)) in measured.enumerate() {
        let comma = if n > 0 { "," } else { "" };
        write!(text, r#"{comma}{{"n":"{name}","v":{value}}}"#).unwrap();
    }
    text + "]}}"
}

/// Rules of which each asks whether one measurement is above 80.
fn above_80(names: std::ops::Range<u32>) -> Matcher {
    let mut matcher = Matcher::default();
    for n in names {
        let text = format!(r#"{{"data":{{"m":{{"n":["x{n}"],"v":[{{"numeric":[">",80]}}]}}}}}}"#);
        matcher.add(n, &Pattern::parse(&text).unwrap());
    }
    matcher
}

fn found(matcher: &Matcher, event: &str, scratch: &mut Scratch) -> Result<Vec<u32>, NotMatched> {
    let mut found = Vec::new();
    matcher.each_of_json(event, scratch, |rule| found.push(rule))?;
    found.sort_unstable();
    Ok(found)
}

#[test]
fn rules_that_each_ask_for_one_measurement_do_not_go_through_all_ten_thousand() {
    let matcher = above_80(0..1_000);
    let value = |n| if n < 1_000 && n != 7 { 20 } else { 90 };
    let event = event((0..10_000).map(|n| (format!("x{n}"), value(n))));
    let mut scratch = Scratch::default();
    assert_eq!(found(&matcher, &event, &mut scratch).unwrap(), [7]);
    let spent = scratch.spent();
    assert!(
        spent < 1_000_000,
        "{spent} for 10,000 measurements and 1,000 rules"
    );
}

#[test]
fn many_rules_that_each_compare_little_are_not_too_much_together() {
    let matcher = above_80(0..1_024);
    let value = |n| if n < 1_024 { 20 } else { 90 };
    let event = event((0..2_048).map(|n| (format!("x{n}"), value(n))));
    let found = found(&matcher, &event, &mut Scratch::default());
    assert_eq!(found.unwrap(), [0_u32; 0]);
}

#[test]
fn measurements_of_one_name_are_found_whatever_stands_between_them() {
    let matcher = above_80(0..3);
    let event =
        event((0..3_000).map(|n| (format!("x{}", n % 3), if n == 2_000 { 90 } else { n % 80 })));
    let found = found(&matcher, &event, &mut Scratch::default());
    assert_eq!(found.unwrap(), [2]);
}

#[test]
fn a_rule_of_a_hundred_thousand_devices_costs_an_event_no_more_than_one_of_a_few() {
    let costs = |devices: u32| {
        let names: Vec<_> = (0..devices).map(|n| format!("\"b{n}\"")).collect();
        // Some are written twice.
        let names = [&names[..], &names[..3]].concat().join(",");
        let text = format!(r#"{{"device":[{names}],"site":[{{"exists":false}}]}}"#);
        let mut matcher = Matcher::default();
        matcher.add(0, &Pattern::parse(&text).unwrap());
        let mut scratch = Scratch::default();
        let event = event([("x".to_owned(), 1)].into_iter());
        assert_eq!(found(&matcher, &event, &mut scratch).unwrap(), [0]);
        scratch.spent()
    };
    let (few, many) = (costs(10), costs(100_000));
    assert!(many <= few, "{many} against {few}");
}

#[test]
fn texts_that_many_rules_would_read_through_are_too_much_at_some_point() {
    let mut matcher = Matcher::default();
    for n in 0..100 {
        let text = format!(r#"{{"note":[{{"wildcard":"*y{n}*"}}]}}"#);
        matcher.add(n, &Pattern::parse(&text).unwrap());
    }
    let mut scratch = Scratch::default();
    let note = |length| format!(r#"{{"note":"{}"}}"#, "x".repeat(length));
    scratch.set_message_max(100_000);
    assert!(found(&matcher, &note(1_000), &mut scratch).is_ok());
    let much = found(&matcher, &note(100_000), &mut scratch).unwrap_err();
    assert!(matches!(much, NotMatched::TooMuch(_)), "{much}");
    assert!(
        found(&matcher, &note(1_000), &mut scratch).is_ok(),
        "each message for itself"
    );
}
