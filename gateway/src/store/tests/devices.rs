//! What waits, by device.

use super::*;
use crate::event::{Event, IdSource, TimeSource};

/// An event of `device`, received in that second.
fn of(device: &str, n: u64, second: i64, routes: Routes) -> Entry {
    let received = Timestamp::from_millis(second * 1_000);
    let event = Event {
        key: key(n),
        id: None,
        id_source: IdSource::None,
        kind: "telemetry".into(),
        device: device.into(),
        site: None,
        time: received,
        time_source: TimeSource::Received,
        received,
        sequence: None,
        partition_key: None,
        topic: "t".into(),
        traceparent: None,
        measurements: Vec::new(),
        tags: Vec::new(),
        marks: crate::event::Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Entry::Event(NewEvent {
        key: key(n),
        dedup: true,
        device: device.into(),
        received,
        routes,
        body: body.into(),
        original: None,
        shed: None,
    })
}

#[tokio::test]
async fn what_waits_is_counted_by_device_and_destination() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    let mut entries = vec![of("quiet", 1, 5, to(&[0, 1]))];
    entries.extend((2..=5_000).map(|n| of("busy", n, 10, to(&[0]))));
    entries.push(of("nobody", 5_001, 5, Routes::NONE));
    entries.push(of("late", 5_002, 20, to(&[1])));
    append(&handle, entries).await;
    // The first one failed by itself at one of its two destinations.
    let records = read_all(&handle, 0, 0);
    let mut progress = delivered(0, 2, 1);
    progress.retry.push(Retry {
        first: None,
        record: records[0].clone(),
        attempts: 1,
        not_before: Timestamp::from_millis(0),
        reason: "not now".into(),
    });
    settle(&handle, progress).await;

    let devices = handle
        .listing()
        .expect("a listing")
        .devices(2)
        .expect("read");
    let waiting = |device: &str, events, second: i64, of: &[(u8, u64)]| Waiting {
        device: device.into(),
        events,
        oldest: Timestamp::from_millis(second * 1_000),
        destinations: of.iter().map(|(id, n)| (DestinationId(*id), *n)).collect(),
    };
    // It waits for both, in two places.
    let quiet = waiting("quiet", 2, 5, &[(0, 1), (1, 1)]);
    let busy = waiting("busy", 4_998, 10, &[(0, 4_998)]);
    assert_eq!(devices.devices, [busy, quiet]);
    assert_eq!((devices.others, devices.complete), (1, true));
    running.shutdown().await.expect("an orderly end");
}
