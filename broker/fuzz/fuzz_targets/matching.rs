//! Topics and filters: the trie against the rule.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::matching(data));
