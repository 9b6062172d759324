//! What is answered.

use proptest::prelude::*;

use super::*;
use crate::query::{apply, schema};

#[tokio::test]
async fn the_last_value_is_the_one_with_the_latest_time_and_comes_in_pages() {
    let place = Place::new();
    let events = [
        event(
            1,
            "b7",
            NOON + 60,
            &[("t", Value::Float(20.5)), ("on", Value::Bool(true))],
        ),
        // Late: it was measured before.
        event(2, "b7", NOON, &[("t", Value::Float(19.0))]),
        event(
            3,
            "a1",
            NOON,
            &[("n", Value::UInt(u64::MAX)), ("x", Value::Null)],
        ),
    ];
    place.append(events.iter().map(entry).collect()).await;
    let (_dir, mut reader) = place.built();
    let mut seen = Vec::new();
    let mut asked = Last {
        limit: 1,
        ..Last::default()
    };
    loop {
        let answer = reader.last(&asked).unwrap();
        assert_eq!(
            (&answer["position"], &answer["lag"]),
            (&3.into(), &0.into())
        );
        seen.extend(items(&answer).iter().map(|one| {
            format!(
                "{} {} {} {} {}",
                one["device"], one["name"], one["value"], one["unit"], one["position"]
            )
        }));
        match answer["next"].as_str() {
            Some(next) => asked.after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(
        seen,
        [
            r#""a1" "n" 18446744073709551615 null 3"#,
            r#""a1" "x" null null 3"#,
            r#""b7" "on" true null 1"#,
            r#""b7" "t" 20.5 "Cel" 1"#,
        ]
    );
    let of = |device: Option<&str>, name: Option<&str>| Last {
        device: device.map(str::to_owned),
        name: name.map(str::to_owned),
        after: None,
        limit: 10,
    };
    for (device, name, count) in [
        (Some("b7"), None, 2),
        (Some("b"), None, 0),
        (None, Some("t"), 1),
        (Some("a1"), Some("t"), 0),
    ] {
        let answer = reader.last(&of(device, name)).unwrap();
        assert_eq!(items(&answer).len(), count, "{device:?} {name:?}");
    }
}

#[tokio::test]
async fn words_phrases_beginnings_and_fields_are_found_newest_first() {
    let place = Place::new();
    let text = |text: &str| Value::Text(text.to_owned());
    let events = [
        event(1, "press-7", NOON, &[("state", text("bearing over heat"))]),
        event(2, "press-7", NOON, &[("state", text("heat over limit"))]),
        event(
            3,
            "pump-1",
            NOON,
            &[("state", text("overheated")), ("press-7", Value::Null)],
        ),
    ];
    place.append(events.iter().map(entry).collect()).await;
    place
        .append(vec![
            broken("not JSON: heat", "{heat"),
            broken("too long", "xyz"),
        ])
        .await;
    let (_dir, mut reader) = place.built();
    let mut found = |q: &str, among| -> Vec<String> {
        let answer = reader.search(&search(q, among, 100, None)).unwrap();
        let name = |one: &Json| match one["kind"].as_str() {
            Some("event") => format!("e{}", one["position"]),
            Some("quarantine") => format!("q{}", one["id"]),
            _ => format!("d{}", one["id"]),
        };
        items(&answer).iter().map(name).collect()
    };
    for (q, expect) in [
        ("heat", vec!["q1", "e2", "e1"]),
        ("over heat", vec!["e2", "e1"]),
        (r#""over heat""#, vec!["e1"]),
        ("over*", vec!["e3", "e2", "e1"]),
        ("heat -limit", vec!["q1", "e1"]),
        ("device:press-7", vec!["e2", "e1"]),
        ("device:press*", vec!["q2", "q1", "e2", "e1"]),
        ("press-7", vec!["e3", "e2", "e1"]),
        ("type:syntax", vec!["q2", "q1"]),
        ("topic:devices/pump-1", vec!["e3"]),
        ("nothing", vec![]),
    ] {
        assert_eq!(found(q, In::All), expect, "{q}");
    }
    assert_eq!(found("heat", In::Events), ["e2", "e1"]);
    assert_eq!(found("heat", In::Quarantine), ["q1"]);
    // In pages of one it is the same.
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let answer = reader.search(&search("heat", In::All, 1, after)).unwrap();
        pages.extend(items(&answer).iter().map(|one| one["kind"].clone()));
        after = answer["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, ["quarantine", "event", "event"]);
}

#[tokio::test]
async fn where_an_event_is_is_said_for_each_destination() {
    let place = Place::new();
    let mut events: Vec<_> = (1..=4).map(|n| entry(&event(n, "b7", NOON, &[]))).collect();
    // One that both get.
    if let Entry::Event(both) = &mut events[3] {
        both.routes = Routes(3);
    }
    place.append(events).await;
    let record = place
        .handle()
        .listing()
        .unwrap()
        .record(Position(2))
        .unwrap();
    let dead = Dead {
        first: None,
        record: record.unwrap(),
        attempts: 3,
        reason: "it is too hot".to_owned(),
    };
    // The journal is asked, not what the read side has seen of it.
    let (_before, mut behind) = place.built();
    place.settle(0, 3, 2, vec![dead]).await;
    let answer = behind.whereabouts(Which::Position(Position(2))).unwrap();
    assert_eq!(items(&answer)[0]["destinations"][0]["state"], "dead-letter");
    let (_dir, mut reader) = place.built();
    let mut state = |position: u64| -> Vec<String> {
        let answer = reader
            .whereabouts(Which::Position(Position(position)))
            .unwrap();
        let of = items(&answer)[0]["destinations"].as_array().unwrap();
        of.iter()
            .map(|one| format!("{} {}", one["name"], one["state"]))
            .collect()
    };
    assert_eq!(state(1), [r#""lake" "delivered""#]);
    assert_eq!(state(2), [r#""lake" "dead-letter""#]);
    assert_eq!(state(4), [r#""lake" "backlog""#, r#""alarms" "backlog""#]);
    let by_key = Which::parse(&"02".repeat(16)).unwrap();
    let answer = reader.whereabouts(by_key).unwrap();
    assert_eq!(items(&answer)[0]["position"], 2);
    assert_eq!(
        items(&answer)[0]["destinations"][0]["reason"],
        "it is too hot"
    );
    let found = reader
        .search(&search("text:hot", In::DeadLetters, 10, None))
        .unwrap();
    assert_eq!(items(&found)[0]["position"], 2);
    assert!(items(&reader.whereabouts(Which::Key(Key([9; 16]))).unwrap()).is_empty());
}

#[tokio::test]
async fn where_an_event_is_is_said_of_a_destination_that_came_later_and_was_given_it() {
    let place = Place::new();
    let events = (1..=2).map(|n| entry(&event(n, "b7", NOON, &[]))).collect();
    place.append(events).await;
    let (_dir, mut reader) = place.built();
    let store = place.handle();
    let names = ["lake", "alarms", "later"].map(Arc::from).to_vec();
    assert!(store.configure(names, vec!["later".into()]).await.unwrap());
    // It wants one of the two.
    let wanted = store::Wanted::new(|_, record| record.position == Position(2));
    store.fill(wanted).await.unwrap();
    assert!(store.filled(DestinationId(2)).await.is_some());
    let mut state = |position: u64| -> Vec<String> {
        let which = Which::Position(Position(position));
        let answer = reader.whereabouts(which).unwrap();
        let of = items(&answer)[0]["destinations"].as_array().unwrap();
        let of = of.iter();
        of.map(|one| format!("{} {}", one["name"], one["state"]))
            .collect()
    };
    assert_eq!(state(1), [r#""lake" "backlog""#]);
    assert_eq!(state(2), [r#""lake" "backlog""#, r#""later" "backlog""#]);
    place.settle(2, 2, 1, Vec::new()).await;
    assert_eq!(state(2)[1], r#""later" "delivered""#);
}

/// Everything that can be asked, as text.
fn everything(reader: &mut Reader, devices: &[&str], events: usize) -> String {
    let mut said = String::new();
    let mut add = |answer: Json| said.push_str(&format!("{answer}\n"));
    let all = Last {
        limit: 1_000,
        ..Last::default()
    };
    add(reader.last(&all).unwrap());
    for device in devices {
        for name in ["t", "u"] {
            for step in [0, 7, 60, 120, 3_600, 86_400] {
                add(reader.history(&history(device, name, step)).unwrap());
            }
        }
        let q = format!("device:{device}");
        add(reader.search(&search(&q, In::All, 1_000, None)).unwrap());
    }
    for position in 1..=events as u64 {
        let which = Which::Position(Position(position));
        add(reader.whereabouts(which).unwrap());
    }
    said
}

/// A device, when it measured (late at times), and what.
fn reading() -> impl Strategy<Value = (usize, i64, f64, bool)> {
    (
        0..3_usize,
        -10_000..10_000_i64,
        -1e3..1e3_f64,
        any::<bool>(),
    )
}

const DEVICES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_it_was_fed_it_answers_as_if_built_from_scratch_and_as_counted_by_hand(
        readings in prop::collection::vec(reading(), 1..60),
        pages in prop::collection::vec((1..20_usize, any::<bool>()), 60),
        step in prop::sample::select(vec![1_i64, 7, 60, 180, 3_600, 7_200]),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let place = Place::new();
        let of = |(n, (device, at, value, both)): (usize, &(usize, i64, f64, bool))| {
            let mut values = vec![("t", Value::Float(*value))];
            if *both {
                values.push(("u", Value::Int(i64::try_from(n).unwrap())));
                values.push(("t", Value::Float(value / 3.0)));
            }
            event(u8::try_from(n).unwrap(), DEVICES[*device], NOON + at, &values)
        };
        let events: Vec<Event> = readings.iter().enumerate().map(of).collect();
        runtime.block_on(place.append(events.iter().map(entry).collect()));

        // In pages of any size, each by a process that ends without a word.
        let fed = tempfile::tempdir().unwrap();
        let mut reader = place.handle().reader().unwrap();
        let mut connection = schema::open(fed.path()).unwrap();
        for (count, killed) in &pages {
            if *killed {
                drop(connection);
                connection = schema::open(fed.path()).unwrap();
            }
            let at = schema::position(&connection).unwrap();
            let page = reader.accounts(at, 0, *count, 1 << 20).unwrap();
            apply::apply(&mut connection, at, &page, &place.config.limits()).unwrap();
        }
        let (_dir, mut scratch) = place.built();
        let of_scratch = everything(&mut scratch, &DEVICES, events.len());
        let of_fed = everything(&mut place.reader(fed.path()), &DEVICES, events.len());
        prop_assert_eq!(of_fed, of_scratch);

        // And history is what one counts by hand.
        for device in DEVICES {
            let mut by_hand = std::collections::BTreeMap::<i64, Vec<f64>>::new();
            for event in events.iter().filter(|event| &*event.device == device) {
                for one in event.measurements.iter().filter(|one| &*one.name == "t") {
                    let at = event.time.as_nanos().div_euclid(1_000_000_000);
                    let Value::Float(value) = one.value else { unreachable!() };
                    by_hand.entry(at.div_euclid(step) * step).or_default().push(value);
                }
            }
            let answer = scratch.history(&history(device, "t", step)).unwrap();
            prop_assert_eq!(items(&answer).len(), by_hand.len());
            for (item, (at, values)) in items(&answer).iter().zip(&by_hand) {
                let time = crate::admin::instant(seconds(*at));
                prop_assert_eq!(&item["time"], &time);
                prop_assert_eq!(&item["count"], &values.len());
                let min = values.iter().copied().fold(f64::INFINITY, f64::min);
                let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                prop_assert_eq!(item["min"].as_f64(), Some(min));
                prop_assert_eq!(item["max"].as_f64(), Some(max));
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                prop_assert!((item["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
            }
        }
    }
}
