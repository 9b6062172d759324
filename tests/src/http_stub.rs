//! An HTTP endpoint that answers what it is told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::ports;

/// The endpoint: reads requests, throws them away, and answers with one status code.
#[derive(Debug)]
pub struct HttpStub {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    status: AtomicU16,
    requests: AtomicU64,
    closed: AtomicBool,
}

impl HttpStub {
    /// Listens, and answers with this status code.
    ///
    /// # Panics
    /// When no port is free.
    pub fn answering(status: u16) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let shared = Arc::new(Shared {
            status: AtomicU16::new(status),
            requests: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.closed.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let serving = Arc::clone(&serving);
                thread::spawn(move || {
                    // The client may leave whenever it likes.
                    answer(&client, &serving).ok();
                });
            }
        });
        Self { port, shared }
    }

    /// The address for the gateway.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Answers with another status code from now on.
    pub fn set(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for HttpStub {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok();
    }
}

fn answer(client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut from = BufReader::new(client);
    loop {
        let mut length = 0_u64;
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap_or(0);
            }
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut from.by_ref().take(length), &mut std::io::sink())?;
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let status = shared.status.load(Ordering::Relaxed);
        let head = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n");
        let mut to = client;
        to.write_all(head.as_bytes())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_told_and_counts() {
        let stub = HttpStub::answering(503);
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, stub.port)).unwrap();
        for status in [503, 204] {
            stub.set(status);
            socket
                .write_all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
                .unwrap();
            let expected = format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n");
            let mut answer = vec![0; expected.len()];
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), expected);
        }
        assert_eq!(stub.requests(), 2);
    }
}
