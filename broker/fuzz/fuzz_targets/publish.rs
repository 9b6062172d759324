//! PUBLISH of both versions, read, written, and read again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::publish(data));
