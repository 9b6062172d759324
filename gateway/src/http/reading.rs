//! Lets go of who does not read.
//!
//! A client that takes nothing of its answer for a minute is cut off: its place is wanted
//! by others. One that watches events comes again and goes on where it was.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long nothing of an answer may be taken.
const STUCK_MAX: Duration = Duration::from_secs(60);

/// A connection that fails when its other end does not read.
#[derive(Debug)]
pub(super) struct Reading<S> {
    stream: S,
    stuck_max: Duration,
    /// Since something waits to be written.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Reading<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self {
            stream,
            stuck_max: STUCK_MAX,
            stuck: None,
        }
    }

    /// What writing came to; an error where it has been waited for too long.
    fn wrote<T>(
        &mut self,
        wrote: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stuck = None;
            return wrote;
        }
        let time = self.stuck_max;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(time)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reading<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reading<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_let_go_and_who_is_slow_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(1_000);
        let writing = tokio::spawn(async move {
            let mut ours = Reading::new(ours);
            let mut sent = 0;
            while ours.write_all(&[0; 1_000]).await.is_ok() {
                sent += 1;
            }
            sent
        });
        let mut taken = [0; 1_000];
        for _ in 0..5 {
            sleep(STUCK_MAX / 2).await;
            theirs.read_exact(&mut taken).await.unwrap();
        }
        // From here on nothing is taken, and `theirs` is still there.
        assert_eq!(writing.await.unwrap(), 6);
        drop(theirs);
    }
}
