//! The PROXY protocol's header, both versions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::proxy(data));
