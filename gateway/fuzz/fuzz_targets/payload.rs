//! Any payload under any mapping: events or a reason, the same again, and nothing
//! that `serde_json` would not have taken.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::normalise::{Class, Mapping, decode, pointer::Pointer};

mod run;

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
    run::check(&mapping, "devices/b7/t", payload, None, &[]);
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
