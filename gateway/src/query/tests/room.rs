//! What each projection may take.

use super::*;

/// Where there is a megabyte.
fn small() -> Place {
    let mut place = Place::new();
    place.config.size_max = 1 << 20;
    place
}

#[tokio::test]
async fn what_is_in_quarantine_costs_history_nothing() {
    let place = small();
    place
        .append(vec![entry(&event(1, "b7", NOON, &[("t", Value::Int(1))]))])
        .await;
    let long = "{ word ".repeat(300);
    for _ in 0..10 {
        place
            .append((0..50).map(|_| broken("odd", &long)).collect())
            .await;
    }
    let dir = tempfile::tempdir().unwrap();
    let feed = place.feed(dir.path());
    feed.catch_up().unwrap();
    let connection = crate::query::schema::open(dir.path()).unwrap();
    let state = "SELECT kept_bytes, kept_evicted, evicted FROM state";
    let (bytes, gone, evicted): (i64, i64, i64) = connection
        .query_row(state, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    let share = place.config.limits().kept_bytes;
    assert!(bytes.cast_unsigned() <= share, "{bytes}");
    let counted: i64 = connection
        .query_row("SELECT sum(bytes) FROM quarantine", [], |row| row.get(0))
        .unwrap();
    assert_eq!(counted, bytes);
    let mut reader = place.reader(dir.path());
    let found = reader.search(&search("odd", In::Quarantine, 1_000, None));
    let found = i64::try_from(items(&found.unwrap()).len()).unwrap();
    assert!(found > 5 && found + gone == 500, "{found} {gone}");
    assert_eq!(evicted, 0, "events");
    let kept = reader.history(&history("b7", "t", 0)).unwrap();
    assert_eq!(items(&kept).len(), 1);
}

#[tokio::test]
async fn a_full_quarantine_is_taken_over_in_turns_between_which_room_is_looked_at() {
    let place = Place::new();
    for _ in 0..3 {
        place
            .append((0..400).map(|_| broken("odd", "{")).collect())
            .await;
    }
    let dir = tempfile::tempdir().unwrap();
    let feed = place.feed(dir.path());
    let mut work = feed.open().unwrap();
    let (mut taken, mut turns) = (0, Vec::new());
    while work.kept.is_none() {
        feed.look(&mut work).unwrap();
        let count = "SELECT count(*) FROM quarantine";
        let now: i64 = work
            .connection
            .query_row(count, [], |row| row.get(0))
            .unwrap();
        turns.push(now - taken);
        taken = now;
    }
    assert_eq!(turns, [500, 500, 200, 0]);
}

#[tokio::test]
async fn a_device_that_measures_much_costs_the_history_of_others_nothing() {
    let place = small();
    let many = |n: u8, device: &str, count: usize| {
        let values = vec![("t", Value::Int(n.into())); count];
        entry(&event(n, device, NOON + i64::from(n), &values))
    };
    place
        .append((0..10).map(|n| many(n, "quiet", 1)).collect())
        .await;
    for _ in 0..10 {
        place
            .append((0..10).map(|n| many(n, "loud", 200)).collect())
            .await;
    }
    let dir = tempfile::tempdir().unwrap();
    place.feed(dir.path()).catch_up().unwrap();
    let connection = crate::query::schema::open(dir.path()).unwrap();
    let points = |device: &str| -> i64 {
        let points = "SELECT count(*) FROM points WHERE series IN
                      (SELECT id FROM series WHERE device = ?1)";
        connection
            .query_row(points, [device], |row| row.get(0))
            .unwrap()
    };
    let share = place.config.limits().history_bytes.cast_signed();
    assert_eq!(points("quiet"), 10);
    let loud = points("loud") * crate::query::series::POINT_BYTES;
    assert!(loud < share && loud > share / 2, "{loud} of {share}");
    // The newest of it.
    let newest = format!(
        "SELECT count(*) FROM points WHERE time = {} AND series IN
         (SELECT id FROM series WHERE device = 'loud')",
        (NOON + 9) * 1_000_000_000
    );
    let newest: i64 = connection.query_row(&newest, [], |row| row.get(0)).unwrap();
    assert_eq!(newest, 2_000);
}

#[tokio::test]
async fn long_units_cost_others_nothing() {
    let place = small();
    let mut loud = event(1, "loud", NOON, &[]);
    loud.measurements = (0..16_u8)
        .map(|n| Measurement {
            name: format!("n{n}").into(),
            value: Value::Int(7),
            unit: Some("x".repeat(20_000).into()),
            quality: Quality::Good,
            time: None,
        })
        .collect();
    let quiet = event(2, "quiet", NOON, &[("t", Value::Int(7))]);
    place.append(vec![entry(&loud), entry(&quiet)]).await;
    let (dir, mut reader) = place.built();
    let all = Last {
        limit: 1_000,
        ..Last::default()
    };
    let answer = reader.last(&all).unwrap();
    let of: Vec<_> = items(&answer)
        .iter()
        .map(|one| (one["device"].as_str().unwrap(), &one["unit"]))
        .collect();
    assert_eq!(of.len(), 17);
    assert_eq!(of[0], ("loud", &Json::Null));
    assert_eq!(of[16], ("quiet", &"Cel".into()));
    let connection = crate::query::schema::open(dir.path()).unwrap();
    let bytes: i64 = connection
        .query_row("SELECT last_bytes FROM state", [], |row| row.get(0))
        .unwrap();
    assert!(bytes.cast_unsigned() < place.config.limits().last_bytes);
}

#[tokio::test]
async fn last_values_have_a_share_and_no_device_takes_all_series() {
    let mut place = small();
    place.config.series_max = 80;
    let long = Value::Text("x".repeat(10_000));
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    let values: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), long.clone()))
        .collect();
    place
        .append(vec![
            entry(&event(1, "loud", NOON, &values)),
            entry(&event(2, "quiet", NOON, &[("t", Value::Int(7))])),
        ])
        .await;
    let (dir, mut reader) = place.built();
    let all = Last {
        limit: 1_000,
        ..Last::default()
    };
    let answer = reader.last(&all).unwrap();
    let of = |device: &str| -> Vec<&Json> {
        let items = items(&answer).iter();
        items.filter(|one| one["device"] == device).collect()
    };
    // A quarter of the series.
    assert_eq!(of("loud").len(), 20);
    assert_eq!(of("quiet")[0]["value"], 7);
    let whole = of("loud")
        .iter()
        .filter(|one| one["value"].is_string())
        .count();
    assert!((5..15).contains(&whole), "{whole}");
    let connection = crate::query::schema::open(dir.path()).unwrap();
    let (bytes, refused): (i64, i64) = connection
        .query_row("SELECT last_bytes, refused FROM state", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let share = place.config.limits().last_bytes + 20 * 300;
    assert!(bytes.cast_unsigned() <= share, "{bytes}");
    assert_eq!(refused, 30);
}
