//! SenML in JSON and in CBOR.

#![no_main]

#[macro_use]
mod run;

payloads!(
    r##"
[[mapping]]
topic = "#"
format = "senml-json"
[[mapping]]
topic = "#"
format = "senml-cbor"
"##
);
