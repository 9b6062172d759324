//! An HTTP endpoint that takes everything and keeps nothing, as cheap as it can be.

use std::{io, net::SocketAddr};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Connections that are answered at once, at most.
const CONNECTIONS_MAX: usize = 64;

/// See the module; it ends when it is dropped.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Sink {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.len() >= CONNECTIONS_MAX {
                    connections.join_next().await;
                }
            }
        });
        Ok(Self {
            address,
            _serving: serving,
        })
    }
}

/// Answers one request after the other until the client goes away.
async fn serve(stream: TcpStream) {
    // A client that goes away is no fault of this side.
    drop(answer_all(stream).await);
}

async fn answer_all(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(256 * 1024, stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse::<u64>().context("a length")?;
            }
        }
        let mut body = (&mut stream).take(length);
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        if body.limit() > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
    }
}
