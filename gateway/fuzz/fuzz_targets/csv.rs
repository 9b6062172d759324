//! Lines of values, with names and with a first line that has them.

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
format = "csv"
csv = { columns = ["ts", "v"] }
[[mapping]]
topic = "#"
format = "csv"
csv = { header = true, separator = ";" }
"##,
    )
});

fuzz_target!(|payload: &[u8]| {
    for mapping in MAPPINGS.iter() {
        run::check(mapping, "t/d", payload, None, &[]);
    }
});
