//! MQTT in the binary frames of a WebSocket (MQTT 5, section 6), as a stream of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    },
};

/// A connection whose bytes are in frames.
#[derive(Debug)]
pub(crate) struct Web<S> {
    frames: WebSocketStream<S>,
    /// Of the message that was read last.
    left: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Web<S> {
    /// Asks for MQTT at `url`, over a stream that leads there.
    pub(crate) async fn connect(url: &str, stream: S) -> io::Result<Self> {
        let mut request = url.into_client_request().map_err(broken)?;
        let mqtt = HeaderValue::from_static("mqtt");
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, mqtt);
        let (frames, _) = client_async(request, stream).await.map_err(broken)?;
        Ok(Self {
            frames,
            left: Bytes::new(),
        })
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Web<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => self.left = payload,
                Some(Ok(Message::Text(_))) => {
                    let what = "a text frame; MQTT is binary";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Some(Ok(_)) => {}
                None | Some(Err(Error::ConnectionClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = self.left.len().min(into.remaining());
        into.put_slice(&self.left[..count]);
        self.left.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Web<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(broken)?;
        let message = Message::Binary(Bytes::copy_from_slice(from));
        Pin::new(&mut self.frames)
            .start_send(message)
            .map_err(broken)?;
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::handshake::server::{Request, Response},
    };

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_however_they_are_framed() {
        let (near, far) = tokio::io::duplex(64);
        let server = tokio::spawn(async move {
            #[expect(clippy::result_large_err, reason = "the library's signature")]
            let take = |request: &Request, mut response: Response| {
                assert_eq!(request.uri().path(), "/mqtt");
                let asked = request.headers()[SEC_WEBSOCKET_PROTOCOL].clone();
                assert_eq!(asked, "mqtt");
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, asked);
                Ok(response)
            };
            let mut frames = accept_hdr_async(far, take).await.unwrap();
            let mut heard = Vec::new();
            while heard.len() < 1_000 {
                match frames.next().await.unwrap().unwrap() {
                    Message::Binary(payload) => heard.extend_from_slice(&payload),
                    other => panic!("{other:?}"),
                }
            }
            frames.send(Message::Ping(Bytes::new())).await.unwrap();
            for part in heard.chunks(7) {
                let part = Message::Binary(Bytes::copy_from_slice(part));
                frames.send(part).await.unwrap();
            }
            frames.close(None).await.unwrap();
            while frames.next().await.is_some_and(|next| next.is_ok()) {}
        });
        let mut web = Web::connect("ws://localhost/mqtt", near).await.unwrap();
        let sent: Vec<u8> = (0..1_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        web.write_all(&sent).await.unwrap();
        web.flush().await.unwrap();
        let mut back = Vec::new();
        web.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, sent);
        drop(web);
        server.await.unwrap();
    }
}
