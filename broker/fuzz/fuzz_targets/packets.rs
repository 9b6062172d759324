//! No bytes make the decoder panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::packets(data));
