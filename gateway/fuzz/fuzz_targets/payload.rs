//! Any payload under any mapping: events or a reason, the same again, and nothing
//! that `serde_json` would not have taken.

#![no_main]

use std::{cell::RefCell, sync::Arc};

use libfuzzer_sys::fuzz_target;
use penstock::{
    event::{Event, Timestamp},
    normalise::{Class, Mapping, Message, Scratch, decode, normalise, pointer::Pointer},
};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, payload)) = data.split_first() else {
        return;
    };
    let mut mapping = Mapping::defaults().swap_remove(0);
    mapping.format = decode::Format::WORDS[usize::from(choice & 3)].1;
    if choice & 4 != 0 {
        mapping.split = Pointer::parse("/a").ok();
    }
    if choice & 8 != 0 {
        mapping.id = Pointer::parse("/b").into_iter().collect();
    }
    let topic: Arc<str> = "devices/b7/t".into();
    let resolved = mapping.resolve(&topic, None).expect("the mapping takes it");
    let message = Message {
        topic: &topic,
        client_id: &"c".into(),
        identity: None,
        payload,
        content_type: None,
        user: &[],
        received: Timestamp::from_millis(1_772_366_400_000),
        nonce: [1; 16],
    };
    let run =
        || SCRATCH.with_borrow_mut(|scratch| normalise(&mapping, &resolved, &message, scratch));
    match (run(), run()) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.events.len(), second.events.len());
            for (event, again) in first.events.iter().zip(&second.events) {
                assert_eq!(event.key, again.key);
                let mut stored = Vec::new();
                event.to_cbor(&mut stored);
                assert_eq!(
                    Event::from_cbor(&stored).expect("we wrote it").key,
                    event.key
                );
                let mut json = Vec::new();
                event.to_json(None, &mut json);
                serde_json::from_slice::<serde_json::Value>(&json).expect("it is JSON");
            }
        }
        (Err(first), Err(second)) => assert_eq!(first, second),
        _ => panic!("once events, once a reason"),
    }
    let ours = decode::decode(decode::Format::Json, payload);
    let theirs = serde_json::from_slice::<serde_json::Value>(payload);
    match (ours, theirs) {
        (Ok(_), Err(error)) => panic!("taken, but {error}"),
        (Err(reject), Ok(_)) => assert!(
            matches!(
                reject.class,
                Class::DuplicateKey | Class::Range | Class::Limit
            ),
            "refused: {reject}"
        ),
        _ => {}
    }
});
