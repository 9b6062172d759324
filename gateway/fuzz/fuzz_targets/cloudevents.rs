//! `CloudEvents` in each of their forms.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use penstock::normalise::Mapping;

mod run;

static MAPPINGS: LazyLock<Vec<Mapping>> =
    LazyLock::new(|| run::mappings("[[mapping]]\ntopic = \"#\"\nformat = \"cloudevents\""));

const TYPES: [Option<&str>; 8] = [
    None,
    Some("application/cloudevents+json"),
    Some("application/cloudevents-batch+json"),
    Some("application/cloudevents+cbor"),
    Some("application/json"),
    Some("application/cbor"),
    Some("application/msgpack"),
    Some("text/plain"),
];

fuzz_target!(|input: (u8, bool, &str, &[u8])| {
    let (choice, binary, id, payload) = input;
    let content_type = TYPES[usize::from(choice) % TYPES.len()];
    let property = |name: &str, value: &str| (Arc::from(name), Arc::from(value));
    let user = [
        property("specversion", "1.0"),
        property("id", id),
        property("source", "s"),
        property("type", "t"),
    ];
    let user = if binary { &user[..] } else { &[] };
    run::check(&MAPPINGS[0], "t/d", payload, content_type, user);
});
