//! SenML in JSON and in CBOR.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use penstock::normalise::Mapping;

mod run;

static MAPPINGS: LazyLock<Vec<Mapping>> = LazyLock::new(|| {
    run::mappings(
        r##"
[[mapping]]
topic = "#"
format = "senml-json"
[[mapping]]
topic = "#"
format = "senml-cbor"
"##,
    )
});

fuzz_target!(|payload: &[u8]| {
    for mapping in MAPPINGS.iter() {
        run::check(mapping, "t/d", payload, None, &[]);
    }
});
