//! Ports that stay ours while nobody listens on them.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    sync::Mutex,
};

use rand::RngExt as _;

/// Ports given out by this process.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A free port on loopback that a killed server can come back to.
///
/// It lies below the range from which the kernel takes the ports of outgoing connections:
/// otherwise a client that reconnects while the server is away could be given that very
/// port, connect to itself, and keep the server from coming back.
///
/// # Panics
/// When no port is free.
pub fn free() -> u16 {
    let top = ephemeral_range_start().clamp(12_000, 32_768);
    let mut given = GIVEN.lock().expect("nobody panics while holding it");
    let given = given.get_or_insert_default();
    let mut rng = rand::rng();
    for _ in 0..1_000 {
        let port = rng.random_range(10_000..top);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            return port;
        }
    }
    panic!("no free port between 10000 and {top}");
}

fn ephemeral_range_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
