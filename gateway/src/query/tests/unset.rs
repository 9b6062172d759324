//! What came before the gateway knew the time.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{
    boots::{Boots, tests::Board},
    event::{BOOT_TAG, UPTIME_TAG},
};

/// Received a minute after a start of the machine, while the clock said nothing.
fn early(n: u8, boot: &str, value: f64) -> Event {
    let stamp = Timestamp::from_millis(60_000 + i64::from(n));
    Event {
        time: stamp,
        time_source: TimeSource::Received,
        received: stamp,
        marks: Marks::CLOCK_UNSET,
        tags: vec![
            (BOOT_TAG.into(), boot.into()),
            (UPTIME_TAG.into(), "60000".into()),
        ],
        ..event(n, "b7", 0, &[("t", Value::Float(value))])
    }
}

fn answers(reader: &mut Reader) -> Vec<Json> {
    let mut all = Vec::new();
    for step in [0, 30, 60, 3_600] {
        all.push(reader.history(&history("b7", "t", step)).unwrap());
    }
    let last = Last {
        limit: 9,
        ..Last::default()
    };
    all.push(reader.last(&last).unwrap());
    all.push(reader.search(&search("b7", In::All, 9, None)).unwrap());
    all.push(reader.search(&search("odd", In::All, 9, None)).unwrap());
    for position in 1..=4 {
        let which = Which::Position(Position(position));
        all.push(reader.whereabouts(which).unwrap());
    }
    all
}

#[tokio::test]
async fn nobody_knows_when_it_came_until_the_clock_is_set_and_then_everybody_does() {
    let place = Place::new();
    // Up for ten minutes; noon is when it was started.
    let board = Board::new("this", 600_000);
    let dir = tempfile::tempdir().unwrap();
    let boots = Arc::new(Boots::new(board.clone(), dir.path()));
    let feed = |dir: &Path| place.feed(dir).repairing(boots.clone());
    // A device's own time is not in doubt.
    let own = Event {
        time: seconds(NOON),
        time_source: TimeSource::Device,
        ..early(3, "this", 3.0)
    };
    let mut odd = broken("odd", "x");
    if let Entry::Quarantine(message) = &mut odd {
        let nothing: [Option<&str>; 3] = [None; 3];
        let [content_type, user, origin] = nothing;
        let stored = (content_type, [(); 0], user, origin, ("this", 60_000));
        let mut properties = Vec::new();
        ciborium::into_writer(&stored, &mut properties).unwrap();
        message.received = Timestamp::from_millis(60_000);
        message.properties = Some(properties.into());
    }
    // Retention goes by the same clock.
    *place.clock.0.lock().unwrap() = 600;
    let events = [early(1, "this", 1.0), early(2, "lost", 2.0), own];
    let mut entries: Vec<Entry> = events.iter().map(entry).collect();
    entries.push(odd);
    place.append(entries).await;

    let live = tempfile::tempdir().unwrap();
    feed(live.path()).catch_up().unwrap();
    let mut reader = place.reader(live.path());
    let before = answers(&mut reader);
    let times = |answer: &Json, of: &str| -> Vec<Json> {
        items(answer).iter().map(|item| item[of].clone()).collect()
    };
    let noon = "2026-03-01T12:00:00Z";
    assert_eq!(
        times(&before[0], "time"),
        [Json::Null, Json::Null, noon.into()]
    );
    assert_eq!(times(&before[6], "received"), [Json::Null]);
    assert_eq!(times(&before[7], "received"), [Json::Null]);

    // The machine was started at ten to one.
    board.millis.store((NOON + 3_600) * 1_000, SeqCst);
    *place.clock.0.lock().unwrap() = NOON + 3_600;
    place
        .append(vec![entry(&event(
            4,
            "b7",
            NOON + 3_060,
            &[("t", Value::Float(4.0))],
        ))])
        .await;
    feed(live.path()).catch_up().unwrap();
    let after = answers(&mut reader);
    let came = "2026-03-01T12:51:00Z";
    assert_eq!(
        times(&after[0], "time"),
        [noon, came, came],
        "what nobody will know the time of is too old for history"
    );
    let minute = items(&after[2]).last().unwrap();
    assert_eq!(
        (&minute["count"], &minute["mean"]),
        (&2.into(), &2.5.into())
    );
    assert_eq!(times(&after[4], "time"), [came]);
    assert_eq!(times(&after[6], "received"), [came]);
    assert_eq!(times(&after[7], "received"), [came]);
    assert_eq!(
        times(&after[8], "received"),
        [Json::Null],
        "a boot without a time"
    );

    // As one that never saw it otherwise.
    let built = tempfile::tempdir().unwrap();
    feed(built.path()).catch_up().unwrap();
    assert_eq!(answers(&mut place.reader(built.path())), after);
    place.store.shutdown().await.unwrap();
}
