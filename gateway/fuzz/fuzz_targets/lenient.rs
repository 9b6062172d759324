//! Every format with everything that a mapping can take.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use penstock::normalise::{Mapping, decode::Format};

mod run;

/// One for each format, and one for Sparkplug.
static MAPPINGS: LazyLock<Vec<Mapping>> = LazyLock::new(|| {
    let lenient = r#"lenient = ["duplicate-keys", "trailing-bytes", "big-integers", "nan", "invalid-utf8"]"#;
    let formats = Format::WORDS.map(|(word, format)| {
        let columns = match format {
            Format::Csv => "csv = { header = true }",
            _ => "",
        };
        format!("[[mapping]]\ntopic = \"#\"\nformat = \"{word}\"\n{columns}\n{lenient}\n")
    });
    let sparkplug = format!("[[mapping]]\ntopic = \"#\"\npreset = \"sparkplug\"\n{lenient}\n");
    run::mappings(&[formats.concat(), sparkplug].concat())
});

fuzz_target!(|payload: &[u8]| {
    for mapping in MAPPINGS.iter() {
        run::check(mapping, "spBv1.0/G/NDATA/N", payload, None, &[]);
    }
});
