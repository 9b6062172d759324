//! What every target with a mapping does: the message twice, the same each time;
//! what becomes of it is stored, read back and written as JSON.

use std::{cell::RefCell, path::Path, sync::Arc};

use penstock::{
    config::Config,
    event::{Event, Timestamp},
    normalise::{Births, Mapping, Message, Scratch, normalise},
};

/// A target: any payload under each mapping of a configuration.
#[allow(unused_macros, reason = "some targets have more than a payload")]
macro_rules! payloads {
    ($configuration:expr) => {
        static MAPPINGS: std::sync::LazyLock<Vec<penstock::normalise::Mapping>> =
            std::sync::LazyLock::new(|| run::mappings($configuration));

        libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
            for mapping in MAPPINGS.iter() {
                run::check(mapping, "t/d", payload, None, &[]);
            }
        });
    };
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// User properties, name and value.
pub type User = [(Arc<str>, Arc<str>)];

/// The mappings of a configuration.
pub fn mappings(text: &str) -> Vec<Mapping> {
    let config = Config::from_text(text, Path::new(""), &|_| None);
    config.expect("the mappings are fine").ingest.mappings
}

/// Runs one message.
pub fn check(
    mapping: &Mapping,
    topic: &str,
    payload: &[u8],
    content_type: Option<&str>,
    user: &User,
) {
    let topic: Arc<str> = topic.into();
    let Some(resolved) = mapping.resolve(&topic, None) else {
        return;
    };
    let run = || {
        let message = Message {
            topic: &topic,
            client_id: &"c".into(),
            identity: None,
            payload,
            content_type,
            user,
            received: Timestamp::from_millis(1_772_366_400_000),
            nonce: [1; 16],
            delivery: None,
            births: &Births::default(),
        };
        SCRATCH.with_borrow_mut(|scratch| normalise(mapping, &resolved, &message, scratch))
    };
    match (run(), run()) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.events.len(), second.events.len());
            for (event, again) in first.events.iter().zip(&second.events) {
                assert_eq!(event.key, again.key);
                let mut stored = Vec::new();
                event.to_cbor(&mut stored);
                let back = Event::from_cbor(&stored).expect("we wrote it");
                assert_eq!(back.key, event.key);
                let mut json = Vec::new();
                event.to_json(None, &mut json);
                serde_json::from_slice::<serde_json::Value>(&json).expect("it is JSON");
            }
        }
        (Err(first), Err(second)) => assert_eq!(first, second),
        _ => panic!("once events, once a reason"),
    }
}
