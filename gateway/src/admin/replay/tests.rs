//! Replays on a real journal.

use std::sync::Arc;

use bytes::Bytes;
use penstock_broker::{Admission as _, Protocol, Publish, Publisher, QoS, Verdict};

use super::*;
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    event::{BOOT_TAG, UPTIME_TAG},
    record::Record,
    store::{self, Store},
};

const BEFORE: &str = "topic = \"d/{device}\"";
const TODAY: &str = "topic = \"d/{device}\"\nvalues = [{ name = \"t\", unit = \"K\", offset = 273.0, type = \"number\" }]";
const RULE: &str = "[[rule]]\nname = \"hot\"\npattern = \'{\"correctedtime\": [{\"exists\": true}]}\'\ndestinations = [\"corrections\"]";

/// A data directory; the journal in it is opened with one mapping or another.
struct Place(tempfile::TempDir);

struct Open {
    running: store::Running,
    ingest: Ingest,
}

impl Place {
    fn open(&self, mapping: &str, more: &str) -> Open {
        let text = format!(
            "data_dir = {:?}\n[ingest]\nraw = \"always\"\n[[mapping]]\n{mapping}\n\
             [[destination]]\nname = \"lake\"\ntype = \"file\"\npath = \"lake\"\n\
             [[destination]]\nname = \"corrections\"\ntype = \"file\"\npath = \"corrections\"\n{more}",
            self.0.path()
        );
        let config = Config::from_text(&text, self.0.path(), &|_| None).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, _) = Store::open(config.store.clone(), clock.clone()).unwrap();
        let running = store.run().unwrap();
        let gateway = crate::app::gateway_id(&config.data_dir).unwrap();
        let ingest = crate::app::ingest(&config, &gateway, &running.handle(), &clock).unwrap();
        Open { running, ingest }
    }
}

impl Open {
    async fn publish(&self, topic: &str, payload: &[u8]) {
        self.publish_together(topic, &[payload], None).await;
    }

    /// Messages that are received at one instant.
    async fn publish_together(&self, topic: &str, payloads: &[&[u8]], delivery: Option<[u8; 16]>) {
        let publisher = Arc::new(Publisher {
            client_id: "c".into(),
            username: None,
            identity: None,
            origin: None,
            address: None,
            protocol: Protocol::V5,
            turn: Default::default(),
            turns_over: Default::default(),
        });
        let publish = |payload: &&[u8]| Publish {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: None,
            delivery,
        };
        let publishes = payloads.iter().map(publish).collect();
        let receipt = self.ingest.admit(&publisher, publishes).await;
        assert_eq!(receipt.await, vec![Verdict::Accepted; payloads.len()]);
    }

    async fn replay(&self, replay: &Replay) -> Done {
        let mut done = Done::default();
        let mut after = 0;
        loop {
            let mut page = self.page(replay, after, MESSAGES_MAX).await;
            let next = page.next.take();
            (done.full, done.next) = (page.full, next.filter(|_| page.full));
            done.add(page);
            match next {
                Some(next) if !done.full => after = next,
                _ => return done,
            }
        }
    }

    async fn page(&self, replay: &Replay, after: u64, count: usize) -> Done {
        let store = self.running.handle();
        let listing = store.listing().unwrap();
        let until = store.status().committed;
        let after = Position(after);
        let kept = listing.kept(after, until, count, &replay.received(), |view| {
            replay.wants(view)
        });
        replay
            .page(&store, &self.ingest, after, kept.unwrap())
            .await
            .unwrap()
    }

    /// Everything in the journal after a position.
    fn records(&self, after: u64) -> Vec<Record> {
        let store = self.running.handle();
        let listing = store.listing().unwrap();
        let positions = after + 1..=store.status().committed.0;
        positions
            .filter_map(|n| listing.record(Position(n)).unwrap())
            .collect()
    }
}

fn replay() -> Replay {
    Replay {
        at: Timestamp::from_millis(1_772_366_400_000),
        from: None,
        to: None,
        device: None,
        topic: None,
        destination: None,
        with_new: false,
        only_changed: false,
        dry_run: false,
    }
}

/// Three messages, four events.
async fn published() -> Place {
    let place = Place(tempfile::tempdir().unwrap());
    let open = place.open(BEFORE, "");
    open.publish("d/a", br#"{"t":20}"#).await;
    open.publish("d/b", br#"[{"t":21},{"t":22}]"#).await;
    open.publish("d/c", br#"{"t":"warm"}"#).await;
    open.running.shutdown().await.unwrap();
    place
}

#[tokio::test]
async fn corrections_have_the_keys_of_what_they_correct_and_are_stored_once_in_each_replay() {
    let place = published().await;
    let open = place.open(TODAY, RULE);
    let before = open.records(0);
    assert_eq!(before.len(), 4);
    // Cut off after the first message, then asked for from the beginning again.
    let first = open.page(&replay(), 0, 1).await;
    assert_eq!((first.stored, first.next), (1, Some(1)));
    open.running.shutdown().await.unwrap();
    let open = place.open(TODAY, RULE);
    let done = open.replay(&replay()).await;
    assert_eq!((done.messages, done.refused, done.next), (3, 1, None));
    assert_eq!((done.changed, done.stored, done.duplicate), (3, 2, 1));
    assert!(
        done.items[0]["reason"].as_str().unwrap().contains("type"),
        "{:?}",
        done.items
    );
    let made = open.records(4);
    for (old, new) in before.iter().zip(&made) {
        let (old, new_event) = (old.event().unwrap(), new.event().unwrap());
        assert_eq!(new_event.key, old.key);
        assert_eq!(new_event.received, old.received);
        assert_eq!(new_event.corrected, Some(replay().at));
        assert_eq!(new_event.measurements[0].unit.as_deref(), Some("K"));
        assert_ne!(
            new.key, old.key,
            "another message id at a destination that dedupes"
        );
        assert_eq!(new.key, new_event.attributes().delivery_key());
        // Today's rules see that they are corrections.
        assert_eq!(
            new.routes,
            Routes::NONE.with(DestinationId(0)).with(DestinationId(1))
        );
        assert!(
            View::parse(&new.body).unwrap().original.is_none(),
            "kept once"
        );
    }
    let again = open.replay(&replay()).await;
    assert_eq!((again.stored, again.duplicate), (0, 3));
    // Another replay is another correction, of what came, not of the corrections.
    let later = Replay {
        at: Timestamp::from_millis(replay().at.as_millis() + 1),
        ..replay()
    };
    let done = open.replay(&later).await;
    assert_eq!((done.messages, done.stored, done.duplicate), (3, 3, 0));
    let status = open.running.handle().status();
    assert_eq!(
        status.accepted,
        status.stored + status.duplicate + status.quarantined
    );
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_dry_run_says_what_differs_and_stores_nothing() {
    let place = published().await;
    let open = place.open(TODAY, "");
    let dry = Replay {
        dry_run: true,
        ..replay()
    };
    let done = open.replay(&dry).await;
    assert_eq!((done.changed, done.refused, done.stored), (3, 1, 0));
    let one = &done.items[1];
    assert_eq!(
        (&one["position"], &one["change"]),
        (&json!(2), &json!("changed"))
    );
    let unit = json!({ "field": "t.u", "old": null, "new": "K" });
    let value = json!({ "field": "t", "old": 21, "new": 294.0 });
    assert_eq!(one["differs"], json!([value, unit]));
    assert_eq!(one["old"]["data"]["m"][0]["v"], 21);
    assert_eq!(open.running.handle().status().committed, Position(4));
    open.running.shutdown().await.unwrap();

    // A device with another name is another event; the old one is no longer made.
    let open = place.open("topic = \"d/+\"\ndevice = \"all\"\nsequence = \"none\"", "");
    let by_content = open.replay(&dry).await;
    assert_eq!(
        by_content.changed, 4,
        "what nothing identifies keeps its random key"
    );
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn messages_are_chosen_and_sent_where_it_is_said() {
    let place = published().await;
    let open = place.open(TODAY, RULE);
    let store = open.running.handle();
    let corrections = destination(&store, &open.ingest, "corrections").unwrap();
    assert!(destination(&store, &open.ingest, "nowhere").is_err());
    let only = |device: Option<&str>, topic: Option<&str>| Replay {
        device: device.map(str::to_owned),
        topic: topic.map(|text| Template::parse(text).unwrap()),
        destination: Some(corrections),
        ..replay()
    };
    let done = open.replay(&only(Some("b"), None)).await;
    assert_eq!((done.changed, done.stored), (2, 2));
    let made = open.records(4);
    assert!(
        made.iter()
            .all(|r| r.routes == Routes::NONE.with(corrections))
    );
    let done = open.replay(&only(None, Some("d/a"))).await;
    assert_eq!((done.messages, done.stored), (1, 1));
    let received = open.records(0)[0].received;
    let after = Timestamp::from_nanos(received.as_nanos() + 1);
    let early = Replay {
        to: Some(received),
        ..replay()
    };
    assert_eq!(open.replay(&early).await.messages, 0);
    let late = Replay {
        from: Some(after),
        to: None,
        ..replay()
    };
    assert_eq!(open.replay(&late).await.messages, 2);
    // By the mapping of before nothing changes.
    open.running.shutdown().await.unwrap();
    let open = place.open(BEFORE, "");
    let later = Timestamp::from_millis(replay().at.as_millis() + 1);
    let changed = Replay {
        at: later,
        only_changed: true,
        ..replay()
    };
    let done = open.replay(&changed).await;
    assert_eq!((done.same, done.changed, done.stored), (4, 0, 0));
    let done = open
        .replay(&Replay {
            only_changed: false,
            ..changed
        })
        .await;
    assert_eq!((done.same, done.stored), (4, 4));
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_long_journal_is_gone_through_page_by_page() {
    let place = Place(tempfile::tempdir().unwrap());
    let open = place.open(TODAY, "");
    for n in 0..25 {
        open.publish(
            "d/a",
            format!("[{{\"t\":{n}}},{{\"t\":{n}}},{{\"t\":0}}]").as_bytes(),
        )
        .await;
    }
    let (mut after, mut pages, mut stored, mut same) = (0, 0, 0, 0);
    let end = open.running.handle().status().committed;
    loop {
        let store = open.running.handle();
        let kept =
            store
                .listing()
                .unwrap()
                .kept(Position(after), end, 4, &replay().received(), |_| true);
        let kept = kept.unwrap();
        assert!(
            kept.messages
                .iter()
                .all(|message| message.events.len() == 3)
        );
        let done = replay()
            .page(&store, &open.ingest, Position(after), kept)
            .await
            .unwrap();
        pages += 1;
        stored += done.stored;
        same += done.same;
        match done.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert!(pages >= 7, "a page may end early, by time: {pages}");
    assert_eq!((stored, same), (75, 75));
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn only_what_was_stored_with_its_message_is_corrected_unless_more_is_asked_for() {
    let place = Place(tempfile::tempdir().unwrap());
    let open = place.open(BEFORE, "");
    let element = |n| format!("{{\"seq\":{n},\"boot\":\"x\",\"t\":{n}}}");
    let [a, b, c] = [1, 2, 3].map(element);
    open.publish("d/a", format!("[{a},{b}]").as_bytes()).await;
    open.publish("d/a", format!("[{a},{b},{c}]").as_bytes())
        .await;
    assert_eq!(open.records(0).len(), 3);
    let changed = Replay {
        only_changed: true,
        ..replay()
    };
    let done = open.replay(&changed).await;
    assert_eq!((done.messages, done.same, done.new), (2, 3, 2));
    assert_eq!(done.stored, 0, "the first message has them as they are");
    let done = open.replay(&replay()).await;
    assert_eq!((done.stored, done.duplicate), (3, 0));
    let with_new = Replay {
        at: Timestamp::from_millis(replay().at.as_millis() + 1),
        with_new: true,
        only_changed: true,
        ..replay()
    };
    let done = open.replay(&with_new).await;
    assert_eq!((done.new, done.stored), (2, 2));
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_element_that_can_be_used_today_takes_no_key_of_another() {
    let place = Place(tempfile::tempdir().unwrap());
    let numbers = "topic = \"d/{device}\"\nvalues = [{ name = \"t\", type = \"number\" }]";
    let open = place.open(numbers, "");
    let batch = br#"[{"t":"warm"},{"t":1},{"t":2}]"#;
    open.publish_together("d/a", &[batch], Some([5; 16])).await;
    let before = open.records(0);
    assert_eq!(before.len(), 2, "the first is in quarantine");
    open.running.shutdown().await.unwrap();
    let open = place.open(BEFORE, "");
    let done = open.replay(&replay()).await;
    assert_eq!((done.new, done.gone, done.stored), (1, 0, 2));
    let after = before.last().unwrap().position.0;
    for (old, new) in before.iter().zip(&open.records(after)) {
        let (old, new) = (old.event().unwrap(), new.event().unwrap());
        assert_eq!((new.key, &new.measurements), (old.key, &old.measurements));
    }
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn corrections_do_not_go_back_to_where_a_message_came_from() {
    let place = published().await;
    let open = place.open(TODAY, RULE);
    let id = destination(&open.running.handle(), &open.ingest, "lake").unwrap();
    let same = [("c".into(), Routes::NONE.with(id))];
    let ingest = open.ingest.not_back(same.into());
    let mut raw = Raw {
        topic: "d/a".into(),
        client_id: "c".into(),
        identity: None,
        origin: None,
        payload: Bytes::from_static(b"1"),
        content_type: None,
        user: Vec::new(),
        received: replay().at,
        delivery: None,
        nonce: [0; 16],
        booted: None,
    };
    assert!(ingest.may_go_to(&raw, id));
    raw.origin = Some("c".into());
    assert!(!ingest.may_go_to(&raw, id));
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_correction_of_what_came_before_the_clock_was_set_can_be_put_right_as_that_was() {
    let tags = vec![
        (BOOT_TAG.into(), "this".into()),
        (UPTIME_TAG.into(), "60000".into()),
    ];
    let place = published().await;
    let open = place.open(TODAY, "");
    let mut record = open.records(0).swap_remove(0);
    let mut event = record.event().unwrap();
    event.received = Timestamp::from_millis(30_000);
    event.tags = tags.clone();
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    let view = View::parse(&record.body).unwrap();
    let original = view.original.unwrap().to_owned();
    record.body = body.into();
    let kept = Kept {
        topic: "d/a".into(),
        received: event.received,
        original,
        events: vec![record],
    };
    let mut group = Group::default();
    // Its time of receipt is another, and with that the key of what nothing identifies.
    let all = Replay {
        with_new: true,
        ..replay()
    };
    all.message(&open.ingest, kept, &mut group);
    let [Entry::Event(made)] = &group.entries[..] else {
        panic!("{group:?}")
    };
    let made = crate::event::Event::from_cbor(&made.body).unwrap();
    assert!(tags.iter().all(|tag| made.tags.contains(tag)), "{made:?}");
    open.running.shutdown().await.unwrap();
}

#[tokio::test]
async fn events_of_a_message_that_is_damaged_are_not_taken_for_those_of_the_one_before() {
    let place = Place(tempfile::tempdir().unwrap());
    let open = place.open(BEFORE, "");
    let batches: [&[u8]; 2] = [
        br#"[{"t":20},{"t":21}]"#,
        br#"[{"t":22},{"t":23},{"t":24}]"#,
    ];
    open.publish_together("d/a", &batches, None).await;
    open.running.shutdown().await.unwrap();
    let disk = rusqlite::Connection::open(place.0.path().join("journal.db")).unwrap();
    disk.execute_batch("UPDATE events SET frame = x'00' WHERE position = 3")
        .unwrap();
    drop(disk);
    let open = place.open(TODAY, "");
    let done = open.replay(&replay()).await;
    assert_eq!((done.messages, done.changed, done.gone), (1, 2, 0));
    assert_eq!((done.damaged, done.orphaned), (1, 2));
    open.running.shutdown().await.unwrap();
}
