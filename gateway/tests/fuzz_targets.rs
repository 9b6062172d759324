//! The fuzz targets, as they stand in `gateway/fuzz`, run on their corpora: whoever changes
//! what they call hears of it here, and not when somebody fuzzes next.

#![allow(clippy::unwrap_used, reason = "a test that fails is to say where")]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "each target uses a part of what they share, which each has for itself"
)]
#![cfg(all(feature = "cel", feature = "schema", feature = "http"))]

extern crate self as libfuzzer_sys;

use std::{fs, path::Path};

macro_rules! targets {
    ($($name:ident $path:literal)*) => {
        $(
            #[allow(unused_attributes, missing_docs, reason = "it is a program of its own there")]
            #[path = $path]
            mod $name;
        )*
    };
}

targets! {
    cloudevents "../fuzz/fuzz_targets/cloudevents.rs"
    config "../fuzz/fuzz_targets/config.rs"
    csv "../fuzz/fuzz_targets/csv.rs"
    inflate "../fuzz/fuzz_targets/inflate.rs"
    influx "../fuzz/fuzz_targets/influx.rs"
    lenient "../fuzz/fuzz_targets/lenient.rs"
    msgpack "../fuzz/fuzz_targets/msgpack.rs"
    payload "../fuzz/fuzz_targets/payload.rs"
    presets "../fuzz/fuzz_targets/presets.rs"
    rules "../fuzz/fuzz_targets/rules.rs"
    senml "../fuzz/fuzz_targets/senml.rs"
    sparkplug "../fuzz/fuzz_targets/sparkplug.rs"
    topic "../fuzz/fuzz_targets/topic.rs"
}

/// A target that takes payloads, and its name.
type OfPayloads = (&'static str, fn(&[u8]));

/// The files of a target's corpus; there are some.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(dir).unwrap();
    let files: Vec<_> = entries
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!files.is_empty(), "{target}");
    files
}

#[test]
fn targets_of_payloads_run_on_their_corpora_and_on_all_beginnings_of_them() {
    let targets: [OfPayloads; 9] = [
        ("csv", csv::target),
        ("inflate", inflate::target),
        ("influx", influx::target),
        ("lenient", lenient::target),
        ("msgpack", msgpack::target),
        ("payload", payload::target),
        ("presets", presets::target),
        ("senml", senml::target),
        ("sparkplug", sparkplug::target),
    ];
    for (name, target) in targets {
        for input in corpus(name) {
            for end in 0..=input.len() {
                target(&input[..end]);
            }
        }
    }
}

#[test]
fn targets_of_texts_run() {
    for text in [
        "",
        "[store]\nmax_size = \"1GiB\"",
        "[[rule]]\nname = 7",
        "x = \"${SET}\"",
    ] {
        config::target(text);
    }
    for input in [
        ("devices/{device}/#", "devices/b7/telemetry"),
        ("devices/{device", "devices/b7"),
    ] {
        topic::target(input);
    }
    for input in [
        (r#"{"a":["x"]}"#, r#"{"a":"x","b":1}"#),
        (r#"{"a":[{"anything-but":[1]}]}"#, r#"{"a":[1,2]}"#),
        ("{\"a\":\n[{\"prefix\":1}]}", "{}"),
    ] {
        rules::target(input);
    }
    let event = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"v":1}}"#;
    for choice in 0..4 {
        for binary in [false, true] {
            cloudevents::target((choice, binary, "id-1", event));
        }
    }
}

/// What the targets are made with; here each is a function to call. At the end, so
/// that they find it by its path alone, as there.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: $kind:ty| $body:block) => {
        pub(crate) fn target($input: $kind) $body
    };
}
