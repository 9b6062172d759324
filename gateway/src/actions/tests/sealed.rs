//! A `rules.db` whose values are sealed.

use std::{path::Path, sync::Arc};

use penstock_broker::seal::Key as OperatorsKey;

use super::{
    super::{
        alarm::{self, State, Wanted},
        failed::{self, Of, Part},
        made::Now,
        outbox, schema, sealed,
        work::{self, Said},
    },
    *,
};
use crate::rules::{
    action::{Alarm, Bounds, Measure, Severity, Window},
    transform::Transform,
};

const MARKER: &str = "marker-7f3a";

fn seal(n: u8, old: &[u8]) -> Seal {
    let key = |n: u8| OperatorsKey::parse(format!("{n:02x}").repeat(32).as_bytes()).unwrap();
    let old: Vec<_> = old.iter().map(|n| key(*n)).collect();
    Seal::new(&key(n), &old).unwrap()
}

/// An alarm with text and note, a window, a failure, and events on their way.
fn fill(bench: &Bench) {
    let alarm = Alarm {
        severity: Severity::Critical,
        text: Some(Transform::new([("t", "$.values.t")], &format!("{MARKER} <t>")).unwrap()),
        clear: None,
    };
    let hot = Actions {
        alarm: Some(Arc::new(alarm)),
        ..Actions::default()
    };
    let window = Window::Over {
        over: Duration::from_secs(60),
        what: Measure::Count,
        bounds: Bounds::parse("> 100").unwrap(),
        samples_min: 1,
    };
    let counted = Actions {
        window: Some(Arc::new(window)),
        ..Actions::default()
    };
    let any = r#"{"device":[{"exists":true}]}"#;
    let rules = ActingSet::new(&[rule("hot", any, hot), rule("w", any, counted)]);
    bench.act(&rules, &[reading(1, "a", 90.0)]).unwrap();
    let mut connection = schema::open(bench.dir.path(), &bench.seal).unwrap();
    let said = Said {
        id: 1,
        state: State::Acknowledged,
        actor: "ann".into(),
        note: Some(MARKER.into()),
    };
    let now = Now {
        at: bench.now,
        booted: None,
    };
    work::said(&mut connection, &said, &now)
        .unwrap()
        .unwrap()
        .unwrap();
    let of = Of {
        position: Position(1),
        device: "a",
        body: MARKER.as_bytes(),
        part: Part::All,
    };
    failed::add(&connection, "hot", of, bench.now, MARKER).unwrap();
    connection.close().unwrap();
}

fn is_found(dir: &Path) -> bool {
    let mut files = std::fs::read_dir(dir).unwrap();
    files.any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes
            .windows(MARKER.len())
            .any(|part| part == MARKER.as_bytes())
    })
}

fn is_all_there(dir: &Path, seal: &Seal) {
    let connection = schema::open_read_only(dir, seal).unwrap().unwrap();
    let alarms = alarm::list(&connection, &Wanted::default(), 0, 10).unwrap();
    assert_eq!(alarms[0].text, format!("{MARKER} 90.0"));
    let history = alarm::history(&connection, alarms[0].id, 10).unwrap();
    assert_eq!(history[0].note.as_deref(), Some(MARKER));
    let found = failed::find(&connection, 1).unwrap().unwrap();
    assert_eq!(
        (&*found.reason, &found.body[..]),
        (MARKER, MARKER.as_bytes())
    );
    let (listed, _) = failed::list(&connection, None, 0, 10).unwrap();
    assert_eq!(listed[0].reason, MARKER);
    assert_eq!(outbox::first(&connection).unwrap().1.len(), 2);
    let window: Vec<u8> = connection
        .query_row(
            "SELECT opened('windows', '1:wa', NULL, window) FROM windows",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(!window.is_empty());
    let (bytes, counted): (i64, i64) = connection
        .query_row(
            "SELECT (SELECT sum(length(body)) FROM failed), failed_bytes FROM state",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(bytes, counted);
}

#[test]
fn nothing_that_rules_keep_is_plain_in_a_sealed_file() {
    let bench = Bench {
        seal: seal(1, &[]),
        ..Bench::new()
    };
    fill(&bench);
    let dir = bench.dir.path();
    assert!(!is_found(dir));
    is_all_there(dir, &bench.seal);
    // Outbox 2, failed 2, alarm, note, window: each column that may say something.
    let tally = sealed::tally(dir).unwrap().unwrap();
    assert_eq!(
        (tally.plain, tally.sealed.values().sum::<u64>()),
        (0, 7),
        "{tally}"
    );
    for wrong in [Seal::default(), seal(2, &[])] {
        assert!(matches!(schema::open(dir, &wrong), Err(Error::Key(_))));
        assert!(matches!(
            schema::open_read_only(dir, &wrong),
            Err(Error::Key(_))
        ));
    }
    assert!(!dir.join("rules.db.damaged-1").is_file());
}

#[test]
fn a_file_is_brought_under_a_key_under_another_and_under_none() {
    let bench = Bench::new();
    fill(&bench);
    let dir = bench.dir.path();
    assert!(is_found(dir));
    assert_eq!(sealed::reseal(dir, &seal(1, &[])).unwrap().changed, 7);
    assert!(!is_found(dir));
    is_all_there(dir, &seal(1, &[]));
    assert_eq!(sealed::reseal(dir, &seal(2, &[1])).unwrap().changed, 7);
    assert_eq!(sealed::reseal(dir, &seal(2, &[1])).unwrap().changed, 0);
    is_all_there(dir, &seal(2, &[]));
    let plain = seal(2, &[]).without_sealing();
    assert_eq!(sealed::reseal(dir, &plain).unwrap().changed, 7);
    is_all_there(dir, &Seal::default());
}

#[test]
fn a_damaged_sealed_file_is_salvaged_with_its_key_and_with_no_other() {
    let bench = Bench {
        seal: seal(1, &[]),
        ..Bench::new()
    };
    fill(&bench);
    let path = bench.dir.path().join(schema::FILE);
    // What SQLite knows of the file is gone, and with it which key it needs.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    schema::open(bench.dir.path(), &seal(2, &[])).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let connection = schema::open(bench.dir.path(), &bench.seal).unwrap();
    assert_eq!(outbox::first(&connection).unwrap().1.len(), 2);
    connection.close().unwrap();
    assert!(!is_found(bench.dir.path()));
}

#[test]
fn a_flipped_bit_in_the_number_of_a_key_holds_up_no_rule_and_no_reseal() {
    let bench = Bench {
        seal: seal(1, &[]),
        ..Bench::new()
    };
    fill(&bench);
    let dir = bench.dir.path();
    let connection = schema::open(dir, &bench.seal).unwrap();
    connection
        .execute_batch(
            "UPDATE outbox SET body = CAST(substr(body, 1, 5) || x'ffff' || substr(body, 8) AS BLOB)
                 WHERE id = 1;
             UPDATE windows SET window =
                 CAST(substr(window, 1, 5) || x'ffff' || substr(window, 8) AS BLOB);
             UPDATE alarms SET text = substr(text, 1, 11) || 'zz' || substr(text, 14);",
        )
        .unwrap();
    let alarms = alarm::list(&connection, &Wanted::default(), 0, 10).unwrap();
    assert_eq!(alarms[0].text, "");
    assert_eq!(outbox::first(&connection).unwrap().1.len(), 1);
    connection.close().unwrap();
    assert_eq!(sealed::reseal(dir, &bench.seal).unwrap().damaged, 2);
}
