//! Corrections, and where events are that are for nobody, or for who is not there any more.

use super::*;
use crate::query::{apply, names, schema};

/// The same event made again, at an instant.
fn corrected(mut event: Event, at: i64) -> Event {
    event.corrected = Some(seconds(at));
    event
}

#[tokio::test]
async fn a_correction_stands_in_history_for_what_it_corrects_however_it_was_fed() {
    let t = |value| ("t", Value::Float(value));
    let events = [
        event(1, "b7", NOON, &[t(10.1), ("u", Value::Int(5))]),
        event(2, "b7", NOON + 1, &[t(90.7)]),
        event(3, "b7", NOON + 2, &[t(30.3)]),
        // The first was right, but for its unit; the second was another hour, and twice
        // as much.
        corrected(event(1, "b7", NOON, &[t(20.2)]), NOON + 5),
        corrected(event(2, "b7", NOON + 3_600, &[t(45.0)]), NOON + 5),
        event(4, "b7", NOON + 3, &[t(0.4)]),
        // And once more.
        corrected(event(1, "b7", NOON, &[t(15.5)]), NOON + 9),
        corrected(event(2, "b7", NOON + 3_600, &[t(46.0)]), NOON + 9),
    ];
    let place = Place::new();
    place.append(events.iter().map(entry).collect()).await;
    let mut said = Vec::new();
    for size in 1..=events.len() {
        let fed = tempfile::tempdir().unwrap();
        let mut journal = place.handle().reader().unwrap();
        let mut connection = schema::open(fed.path()).unwrap();
        loop {
            let at = schema::position(&connection).unwrap();
            let page = journal.accounts(at, 0, size, 1 << 20).unwrap();
            if page.page.records.is_empty() {
                break;
            }
            apply::apply(&mut connection, at, &page, &place.config.limits()).unwrap();
        }
        let mut reader = place.reader(fed.path());
        let mut text = String::new();
        for step in [0, 1, 60, 3_600] {
            for name in ["t", "u"] {
                let answer = reader.history(&history("b7", name, step)).unwrap();
                text.push_str(&format!("{answer}\n"));
            }
        }
        let all = Last {
            limit: 10,
            ..Last::default()
        };
        text.push_str(&reader.last(&all).unwrap().to_string());
        said.push(text);
        if size > 1 {
            continue;
        }
        let hours = reader.history(&history("b7", "t", 3_600)).unwrap();
        let hours: Vec<_> = items(&hours)
            .iter()
            .map(|hour| {
                let number = |name: &str| hour[name].as_f64().unwrap();
                (
                    number("count"),
                    number("min"),
                    number("max"),
                    number("mean"),
                )
            })
            .collect();
        let mean = (30.3 + 0.4 + 15.5) / 3.0;
        assert_eq!(hours, [(3.0, 0.4, 30.3, mean), (1.0, 46.0, 46.0, 46.0)]);
        // What it does not measure any more has no last value.
        let last = reader.last(&all).unwrap();
        assert_eq!(items(&last).len(), 1);
        assert_eq!(items(&last)[0]["value"], 46.0);
        // All of them are found, and those of one key by it.
        let key = "01".repeat(16);
        let found = reader.whereabouts(Which::parse(&key).unwrap()).unwrap();
        let found: Vec<_> = items(&found)
            .iter()
            .map(|one| (one["position"].as_u64().unwrap(), &one["eventkey"]))
            .collect();
        let key = &Json::from(key);
        assert_eq!(found, [(7, key), (4, key), (1, key)]);
        let found = reader.search(&search("device:b7", In::Events, 100, None));
        assert_eq!(items(&found.unwrap()).len(), events.len());
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:#?}");
}

#[tokio::test]
async fn what_had_no_room_when_it_came_is_not_taken_back_from_those_that_had() {
    let t = |value| ("t", Value::Float(value));
    let events = [
        event(1, "b7", NOON, &[t(90.0)]),
        event(2, "b7", NOON + 1, &[t(10.0)]),
        event(3, "b7", NOON + 2, &[t(20.0)]),
        corrected(event(1, "b7", NOON, &[t(45.0)]), NOON + 5),
    ];
    let place = Place::new();
    place.append(events.iter().map(entry).collect()).await;
    let fed = tempfile::tempdir().unwrap();
    let mut journal = place.handle().reader().unwrap();
    let mut connection = schema::open(fed.path()).unwrap();
    let mut limits = place.config.limits();
    // As if another device had all series, and lost them.
    limits.series = 0;
    let page = journal.accounts(Position(0), 0, 1, 1 << 20).unwrap();
    apply::apply(&mut connection, Position(0), &page, &limits).unwrap();
    let limits = place.config.limits();
    let page = journal.accounts(Position(1), 0, 3, 1 << 20).unwrap();
    apply::apply(&mut connection, Position(1), &page, &limits).unwrap();
    let mut reader = place.reader(fed.path());
    let hours = reader.history(&history("b7", "t", 3_600)).unwrap();
    let hour = &items(&hours)[0];
    assert_eq!((&hour["count"], &hour["mean"]), (&3.into(), &25.0.into()));
}

#[tokio::test]
async fn what_was_taken_back_leaves_the_latest_number_before_it_and_a_series_without_any_is_forgotten()
 {
    let t = |value| ("t", Value::Float(value));
    let old = |value| ("old", Value::Float(value));
    let events = [
        event(1, "b7", NOON, &[t(10.5)]),
        event(2, "b7", NOON + 10, &[t(90.5), old(1.5)]),
        // It was long before, and its second value has another name.
        corrected(
            event(2, "b7", NOON - 50, &[t(45.5), ("new", Value::Float(1.5))]),
            NOON + 60,
        ),
    ];
    let place = Place::new();
    place.append(events.iter().map(entry).collect()).await;
    let (dir, mut reader) = place.built();
    let all = Last {
        limit: 10,
        ..Last::default()
    };
    let answer = reader.last(&all).unwrap();
    let of: Vec<_> = items(&answer)
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), &one["value"], &one["unit"]))
        .collect();
    let expect = [
        ("new", &Json::from(1.5), &Json::Null),
        ("t", &10.5.into(), &"Cel".into()),
    ];
    assert_eq!(of, expect);
    let connection = schema::open(dir.path()).unwrap();
    let counts = "SELECT s.series, (SELECT count(*) FROM series), d.series
                  FROM state s, devices d WHERE d.device = 'b7'";
    let counts: (i64, i64, i64) = connection
        .query_row(counts, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(counts, (2, 2, 2));
}

#[tokio::test]
async fn a_correction_has_the_key_of_its_event_also_before_the_read_side_has_come_to_it() {
    let place = Place::new();
    let (_before, mut behind) = place.built();
    let event = event(1, "b7", NOON, &[("t", Value::Int(1))]);
    let entries = [entry(&event), entry(&corrected(event.clone(), NOON + 5))];
    place.append(entries.into()).await;
    for position in 1..=2 {
        let which = Which::Position(Position(position));
        let answer = behind.whereabouts(which).unwrap();
        assert_eq!(items(&answer)[0]["eventkey"], "01".repeat(16), "{position}");
    }
}

fn states(reader: &mut Reader, position: u64) -> Vec<String> {
    let which = Which::Position(Position(position));
    let answer = reader.whereabouts(which).unwrap();
    let of = items(&answer)[0]["destinations"].as_array().unwrap();
    of.iter()
        .map(|one| format!("{} {}", one["name"], one["state"]))
        .collect()
}

/// Is routed to the second destination.
fn second(n: u8) -> Entry {
    match entry(&event(n, "b7", NOON, &[("t", Value::Int(1))])) {
        Entry::Event(event) => Entry::Event(NewEvent {
            routes: Routes(0b10),
            ..event
        }),
        other => other,
    }
}

#[tokio::test]
async fn an_event_is_not_said_to_be_for_who_has_the_number_of_a_forgotten_destination() {
    let place = Place::new();
    place.append(vec![second(1)]).await;
    place.settle(1, 1, 1, vec![]).await;
    place.feed(place.dir.path()).catch_up().unwrap();
    let place = place.reopened_with(&["lake"]).await;
    let forgotten = place.handle().forget_destination("alarms".into()).await;
    assert!(forgotten.unwrap());
    let place = place.reopened_with(&["lake", "archive"]).await;
    let feed = place.feed(place.dir.path());
    place.append(vec![second(2)]).await;
    feed.catch_up().unwrap();
    let mut reader = place.reader(place.dir.path());
    assert_eq!(states(&mut reader, 1), [r#""alarms" "forgotten""#]);
    assert_eq!(states(&mut reader, 2), [r#""archive" "backlog""#]);
    drop(reader);
    // Also when it was built anew.
    let known = names::rescue(place.dir.path());
    place.feed(place.dir.path()).build().unwrap();
    assert_eq!(names::rescue(place.dir.path()), known);
    let mut reader = place.reader(place.dir.path());
    assert_eq!(states(&mut reader, 2), [r#""archive" "backlog""#]);
}

#[tokio::test]
async fn a_number_that_was_given_twice_without_an_event_in_between_is_the_later_ones() {
    let mut place = Place::new();
    place.append(vec![second(1)]).await;
    place.settle(1, 1, 1, vec![]).await;
    place.feed(place.dir.path()).catch_up().unwrap();
    for (before, now) in [("alarms", "archive"), ("archive", "cellar")] {
        place = place.reopened_with(&["lake"]).await;
        let forgotten = place.handle().forget_destination(before.into()).await;
        assert!(forgotten.unwrap());
        place = place.reopened_with(&["lake", now]).await;
        place.feed(place.dir.path()).catch_up().unwrap();
    }
    place.append(vec![second(2)]).await;
    place.feed(place.dir.path()).catch_up().unwrap();
    let mut reader = place.reader(place.dir.path());
    assert_eq!(states(&mut reader, 1), [r#""alarms" "forgotten""#]);
    assert_eq!(states(&mut reader, 2), [r#""cellar" "backlog""#]);
}

#[tokio::test]
async fn what_was_routed_while_nobody_looked_is_for_somebody_who_is_not_known() {
    let place = Place::new();
    place.append(vec![second(1)]).await;
    place.feed(place.dir.path()).catch_up().unwrap();
    let Entry::Event(both) = second(2) else {
        panic!("an event")
    };
    let both = NewEvent {
        routes: Routes(0b11),
        ..both
    };
    place.append(vec![Entry::Event(both)]).await;
    let place = place.reopened_with(&["lake"]).await;
    let forgotten = place.handle().forget_destination("alarms".into()).await;
    assert!(forgotten.unwrap());
    let place = place.reopened_with(&["lake", "archive"]).await;
    place.feed(place.dir.path()).catch_up().unwrap();
    let mut reader = place.reader(place.dir.path());
    assert_eq!(states(&mut reader, 1), [r#""alarms" "forgotten""#]);
    let expect = [r#""lake" "backlog""#, r#"null "forgotten""#];
    assert_eq!(states(&mut reader, 2), expect);
}

#[tokio::test]
async fn what_the_rules_send_nowhere_is_said_to_be_held() {
    let place = Place::new();
    let routed = |n, routes| match entry(&event(n, "b7", NOON, &[("t", Value::Int(1))])) {
        Entry::Event(event) => Entry::Event(NewEvent { routes, ..event }),
        other => other,
    };
    let entries = vec![
        routed(1, Routes::NOWHERE),
        routed(2, Routes::NONE),
        routed(3, Routes(1)),
    ];
    place.append(entries).await;
    let (_dir, mut reader) = place.built();
    let mut nowhere = |position| {
        let which = Which::Position(Position(position));
        let answer = reader.whereabouts(which).unwrap();
        items(&answer)[0]["nowhere"].clone()
    };
    assert_eq!(nowhere(1), "held");
    assert_eq!(nowhere(2), "for-nobody");
    assert_eq!(nowhere(3), Json::Null);
}
