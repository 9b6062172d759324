//! The HTTP receiver, over plain sockets.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

struct Receiver {
    process: Child,
    address: String,
}

impl Receiver {
    fn start(out: &Path, extra: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_device-sim"))
            .args([
                "receive",
                "--listen",
                "127.0.0.1:0",
                "--out",
                out.to_str().unwrap(),
            ])
            .args(extra.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .unwrap()
            .to_owned();
        Self { process, address }
    }

    /// The whole response to a POST.
    fn post(&self, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "POST /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A receiver that refuses early may close before it has read it all.
        drop(stream.write_all(body));
        let mut response = String::new();
        drop(stream.read_to_string(&mut response));
        response
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[track_caller]
fn status(response: &str, expect: u16) {
    assert!(
        response.starts_with(&format!("HTTP/1.1 {expect} ")),
        "{response}"
    );
}

#[test]
fn batches_are_appended_one_event_to_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("received.ndjson");
    let receiver = Receiver::start(&out, "--fsync");
    status(
        &receiver.post(
            "Content-Type: application/cloudevents-batch+json\r\n",
            br#"[{"id":"a"},{"id":"b"}]"#,
        ),
        200,
    );
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(br#"{"id":"c"}"#).unwrap();
    status(
        &receiver.post("Content-Encoding: gzip\r\n", &zip.finish().unwrap()),
        200,
    );
    status(&receiver.post("", b"[{\"id\":\"d\"},"), 400);
    status(&receiver.post("Content-Encoding: br\r\n", b"[]"), 415);
    let lines = std::fs::read_to_string(&out).unwrap();
    assert_eq!(lines, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n");
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("received.ndjson");
    let receiver = Receiver::start(&out, "--body-bytes-max 100");
    status(&receiver.post("", &[b' '; 101]), 413);
    status(&receiver.post("", br#"{"id":"a"}"#), 200);
}

#[test]
fn it_misbehaves_as_told() {
    let dir = tempfile::tempdir().unwrap();
    for (n, (extra, code, kept)) in [
        ("--fail-rate 1", 503, 0),
        ("--throttle-rate 1", 429, 0),
        ("--lie-rate 1", 500, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("{n}.ndjson"));
        let response = Receiver::start(&out, extra).post("", br#"{"id":"a"}"#);
        status(&response, code);
        assert_eq!(
            response.to_ascii_lowercase().contains("retry-after: 1"),
            code == 429
        );
        assert_eq!(
            std::fs::read_to_string(&out).unwrap().lines().count(),
            kept,
            "{extra}"
        );
    }
}

#[test]
fn it_does_not_listen_beyond_loopback_unless_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("received.ndjson");
    let output = crate::device_sim(&[
        "receive",
        "--listen",
        "0.0.0.0:0",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("--allow-anonymous")
    );
}
