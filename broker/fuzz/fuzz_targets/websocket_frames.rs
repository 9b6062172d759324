//! Frames of a WebSocket, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::websocket_frames(data));
