//! Requests for a WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_broker::fuzz::websocket_handshake(data));
