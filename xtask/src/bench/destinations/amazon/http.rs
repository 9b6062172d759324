//! As much of HTTP/1.1 as the gateway's clients speak: requests with a length, one after
//! the other on a connection.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Bytes of the head of a request, at most.
const HEAD_MAX: usize = 64 * 1024;

/// What is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// `X-Amz-Target`: the operation, of services that speak JSON.
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
}

/// What is said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: &'static str,
    pub(super) media_type: &'static str,
    pub(super) body: String,
}

/// Answers until the client goes away.
pub(super) async fn answer_all(
    mut stream: TcpStream,
    answer: impl Fn(&Request<'_>) -> Answer,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(1024 * 1024);
    let mut out = String::new();
    loop {
        let head_len = loop {
            if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
                break at + 4;
            }
            if bytes.len() > HEAD_MAX {
                bail!("a head without end");
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let length = content_length(std::str::from_utf8(&bytes[..head_len])?)?;
        let all = head_len + length;
        bytes.reserve(all.saturating_sub(bytes.len()));
        while bytes.len() < all {
            if stream.read_buf(&mut bytes).await? == 0 {
                bail!("a body that ends too early");
            }
        }
        let head = std::str::from_utf8(&bytes[..head_len])?;
        let mut words = head.split(' ');
        let (method, path) = words.next().zip(words.next()).context("a request")?;
        let request = Request {
            method,
            path,
            target: header(head, "x-amz-target").unwrap_or_default(),
            body: &bytes[head_len..all],
        };
        let said = answer(&request);
        out.clear();
        write!(
            out,
            "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            said.status,
            said.media_type,
            said.body.len()
        )?;
        if method != "HEAD" {
            out.push_str(&said.body);
        }
        stream.write_all(out.as_bytes()).await?;
        bytes.drain(..all);
    }
}

fn content_length(head: &str) -> Result<usize> {
    match header(head, "content-length") {
        Some(length) => length.parse().context("a length"),
        None if header(head, "transfer-encoding").is_some() => bail!("a body without a length"),
        None => Ok(0),
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
