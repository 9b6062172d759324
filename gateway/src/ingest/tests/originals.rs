//! Messages kept as they came, and events made of them again.

use super::*;
use crate::event::View;

pub(super) fn config(mapping: &str) -> Config {
    let text = format!("[ingest]\nraw = \"always\"\n[[mapping]]\n{mapping}");
    let config = crate::config::Config::from_text(&text, std::path::Path::new(""), &|_| None);
    config.unwrap().ingest
}

/// A store of its own, with ingest before it.
pub(super) struct Place {
    _dir: tempfile::TempDir,
    _store: store::Running,
    pub(super) ingest: Ingest,
}

pub(super) fn place(config: Config) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = crate::config::Config::defaults(dir.path());
    whole.store.reserve_bytes = 1 << 16;
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock);
    let (store, _) = store::Store::open(whole.store, clock.clone()).unwrap();
    let store = store.run().unwrap();
    Place {
        ingest: Ingest::new(config, Routes(7), store.handle(), clock).sending_originals(Routes(4)),
        _dir: dir,
        _store: store,
    }
}

/// The message that is kept with an event.
fn kept(entry: &Entry) -> (NewOriginal, Raw) {
    let (new, event) = event(entry);
    let original = new.original.clone().expect("kept");
    let body = [&new.body[..], &original.bytes[..]].concat();
    let view = View::parse(&body).unwrap().original.unwrap().to_owned();
    (
        original,
        Raw::from_original(event.topic, event.received, view),
    )
}

#[test]
fn every_event_of_a_message_brings_the_message_and_one_is_the_first() {
    let mut sent = publish("d/b7", br#"[{"v":1},{"v":2}]"#);
    sent.properties = Some(Arc::new(Properties {
        content_type: Some("application/json".into()),
        user: vec![("unit".into(), "bar".into())],
        ..Properties::default()
    }));
    sent.delivery = Some([3; 16]);
    let group = prepare(
        config("topic = \"d/{device}\""),
        &[sent.clone(), sent.clone()],
    );
    assert_eq!(group.counts, [2, 2]);
    let first: Vec<bool> = group.entries.iter().map(|e| kept(e).0.is_first).collect();
    assert_eq!(first, [true, false, true, false]);
    let (_, raw) = kept(&group.entries[1]);
    assert_eq!(raw.payload, sent.payload);
    assert_eq!(
        (&*raw.topic, &*raw.client_id, raw.received),
        ("d/b7", "c1", RECEIVED)
    );
    assert_eq!(raw.content_type.as_deref(), Some("application/json"));
    assert_eq!(raw.user, [("unit".into(), "bar".into())]);
    assert_eq!(raw.delivery, Some([3; 16]));
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    for raw in ["on-error", "never"] {
        let mapping = format!("topic = \"d/{{device}}\"\nraw = \"{raw}\"");
        let group = prepare(
            config(&mapping),
            &[publish("d/b7", b"1"), publish("d/b7", b"{")],
        );
        assert!(event(&group.entries[0]).0.original.is_none());
        // What would be lost otherwise is kept whatever is asked for.
        assert_eq!(&*quarantined(&group.entries[1]).payload, b"{");
    }
}

#[tokio::test]
async fn events_made_again_have_their_keys_and_say_that_they_are_corrections() {
    let at = Timestamp::from_millis(1_772_370_000_000);
    // By nothing, by the content, and by a counter.
    for payload in [
        &br#"[{"t":1},{"t":2}]"#[..],
        br#"{"ts":"2026-03-01T11:59:59.5Z","t":3}"#,
        br#"{"seq":7,"boot":"x","t":4}"#,
    ] {
        let before = prepare(
            config("topic = \"d/{device}\""),
            &[publish("d/b7", payload)],
        );
        let (_, raw) = kept(&before.entries[0]);
        let today = config(
            "topic = \"d/{device}\"\nvalues = [{ name = \"t\", unit = \"K\", offset = 273.0 }]",
        );
        let place = place(today);
        let again = place.ingest.renormalise(&raw, at).unwrap().events;
        assert_eq!(again.len(), before.entries.len());
        for (old, new) in before.entries.iter().zip(&again) {
            let (old_entry, old) = event(old);
            let corrected = Event::from_cbor(&new.body).unwrap();
            assert_eq!(corrected.key, old.key);
            assert_eq!(corrected.corrected, Some(at));
            assert_eq!(corrected.measurements[0].unit.as_deref(), Some("K"));
            assert_ne!(new.key, old_entry.key, "it passes the window");
            assert!(new.dedup && new.original.is_none());
            assert_eq!(
                new.routes,
                Routes(3),
                "not to those who have the message itself"
            );
        }
        let keys = |all: &[NewEvent]| all.iter().map(|new| new.key).collect::<Vec<_>>();
        let once_more = place.ingest.renormalise(&raw, at).unwrap().events;
        assert_eq!(keys(&once_more), keys(&again), "the same replay");
        let later = Timestamp::from_millis(at.as_millis() + 1);
        let another = place.ingest.renormalise(&raw, later).unwrap().events;
        assert_ne!(keys(&another), keys(&again), "another replay");
        assert_eq!(
            place.ingest.metrics().events().map(|(_, n)| n).sum::<u64>(),
            0
        );
    }
}

#[test]
fn what_the_gateway_says_itself_is_not_for_those_who_get_messages_as_they_came() {
    let place = place(config("topic = \"d/{device}\""));
    let made = crate::forward::testing::record(1, 1).event().unwrap();
    // The third gets messages as they came, and nothing came.
    assert_eq!(place.ingest.made(&made, None).event.routes, Routes(3));
    // Where it is the only one the event is for nobody, and is not held for it either.
    place.ingest.exchange_routing(Routing {
        routes: Routes(4),
        originals: Routes(4),
        ..Routing::default()
    });
    assert_eq!(place.ingest.made(&made, None).event.routes, Routes::NONE);
}

#[tokio::test]
async fn a_change_knows_of_what_was_made_before_it_and_is_not_with_the_journal() {
    let place = place(config("topic = \"d/{device}\""));
    let before = prepare(
        config("topic = \"d/{device}\""),
        &[publish("d/b7", br#"{"t":1}"#)],
    );
    let (_, raw) = kept(&before.entries[0]);
    let change = || place.ingest.exchange_routing(Routing::default());
    change();
    assert!(place.ingest.is_settled(), "nothing is on its way");
    let made = place.ingest.renormalise(&raw, RECEIVED).unwrap();
    let retried = place.ingest.retry(&raw).unwrap();
    assert!(place.ingest.is_settled(), "they go by what is in force");
    change();
    place.ingest.set_draining(Routes(1));
    assert!(!place.ingest.is_settled(), "also after another change");
    drop(made.going);
    assert!(!place.ingest.is_settled());
    drop(retried.going);
    assert!(place.ingest.settled().await);
    // What the gateway makes itself is on its way as well.
    let event = crate::forward::testing::record(1, 1).event().unwrap();
    let made = place.ingest.made(&event, None);
    change();
    assert!(!place.ingest.is_settled());
    drop(made.going);
    assert!(place.ingest.is_settled());
}
