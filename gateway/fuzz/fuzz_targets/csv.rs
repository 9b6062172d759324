//! Lines of values, with names and with a first line that has them.

#![no_main]

#[macro_use]
mod run;

payloads!(
    r##"
[[mapping]]
topic = "#"
format = "csv"
csv = { columns = ["ts", "v"] }
[[mapping]]
topic = "#"
format = "csv"
csv = { header = true, separator = ";" }
"##
);
