//! DISCONNECT, PINGREQ, AUTH, and what only servers send.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::small(data));
