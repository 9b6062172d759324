//! InfluxDB line protocol.

#![no_main]

#[macro_use]
mod run;

payloads!(
    r##"
[[mapping]]
topic = "#"
format = "influx"
device_tag = "h"
"##
);
