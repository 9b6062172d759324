//! Sparkplug B: every kind of message.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use penstock::normalise::Mapping;

mod run;

static MAPPINGS: LazyLock<Vec<Mapping>> =
    LazyLock::new(|| run::mappings("[[mapping]]\ntopic = \"#\"\npreset = \"sparkplug\""));

const TOPICS: [&str; 8] = [
    "spBv1.0/G/NBIRTH/N",
    "spBv1.0/G/NDATA/N",
    "spBv1.0/G/NDEATH/N",
    "spBv1.0/G/DBIRTH/N/D",
    "spBv1.0/G/DDATA/N/D",
    "spBv1.0/G/DDEATH/N/D",
    "spBv1.0/G/NCMD/N",
    "spBv1.0/STATE/h",
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, payload)) = data.split_first() else {
        return;
    };
    let topic = TOPICS[usize::from(choice & 7)];
    run::check(&MAPPINGS[0], topic, payload, None, &[]);
});
