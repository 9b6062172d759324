//! MessagePack.

#![no_main]

#[macro_use]
mod run;

payloads!(
    r##"
[[mapping]]
topic = "#"
format = "msgpack"
"##
);
