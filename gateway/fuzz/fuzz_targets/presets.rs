//! Every preset but Sparkplug, which has a target of its own.

#![no_main]

#[macro_use]
mod run;

payloads!(
    r##"
[[mapping]]
topic = "#"
preset = "zigbee2mqtt"
[[mapping]]
topic = "#"
preset = "tasmota"
tz = "+01:00"
[[mapping]]
topic = "#"
preset = "shelly"
[[mapping]]
topic = "t/{device}"
preset = "homie"
[[mapping]]
topic = "#"
preset = "ha-discovery"
[[mapping]]
topic = "#"
preset = "lwt"
[[mapping]]
topic = "#"
preset = "chirpstack"
[[mapping]]
topic = "#"
preset = "tts"
[[mapping]]
topic = "#"
preset = "aws-shadow"
[[mapping]]
topic = "#"
preset = "opcua"
[[mapping]]
topic = "#"
preset = "thin-edge"
[[mapping]]
topic = "#"
preset = "uplink"
"##
);
