//! `cargo +nightly fuzz run packets` in `broker/`: no bytes make the decoder panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz_packets(data));
