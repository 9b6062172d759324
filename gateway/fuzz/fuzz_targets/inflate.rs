//! Compressed payloads.

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
[[mapping]]
topic = "#"
compression = "gzip"
[[mapping]]
topic = "#"
compression = "zstd"
[[mapping]]
topic = "#"
compression = "lz4"
"##,
    )
});

fuzz_target!(|payload: &[u8]| {
    for mapping in MAPPINGS.iter() {
        run::check(mapping, "t/d", payload, None, &[]);
    }
});
