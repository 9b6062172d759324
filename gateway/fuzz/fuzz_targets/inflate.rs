//! Compressed payloads.

#![no_main]

#[macro_use]
mod run;

payloads!(
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
"##
);
