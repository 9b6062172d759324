//! One connection with its buffers.
//!
//! Reading: payloads are slices of the buffer they were read into, so a payload
//! that is kept keeps its whole read. Reads are therefore sized by what the
//! connection sends: [`CHUNK_MIN`] for a device that says little, up to
//! [`CHUNK_MAX`] for one that fills its reads, more only for a single packet
//! that is larger, within what all connections may hold ([`crate::budget`]). A
//! payload so pins at most its own read, beside its packet,
//! and all payloads of one read are committed together.
//!
//! A packet that has begun has to come to its end: it may pause for as long as a
//! CONNECT may take, and needs [`PACE_MIN`] on the whole. Or a few clients that
//! send most of a packet could keep all others from sending large ones.
//!
//! Writing: everything of one turn of the session goes out in one system call;
//! the session stops reading and delivering while [`Wire::is_congested`]. What the
//! client does not take counts in the output budget.

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Duration, Instant, timeout};

use crate::{
    budget::{Budget, FAIR_BYTES, Share},
    link::Link,
    packet::{self, Header, reason},
};

/// Bytes a second below which a packet takes too long.
const PACE_MIN: usize = 1024;
/// What is thrown away of a client that goes on after it was told to leave.
const PARTING_BYTES_MAX: usize = 4 * 1024 * 1024;
const CHUNK_MIN: usize = 2 * 1024;
const CHUNK_MAX: usize = 64 * 1024;
/// Output beyond which nothing more is produced.
const OUTPUT_MAX: usize = 64 * 1024;
/// An output buffer up to this size is kept while there is nothing to write.
const OUTPUT_KEPT: usize = 1024;

#[derive(Debug)]
pub(super) struct Wire {
    link: Link,
    input: BytesMut,
    output: BytesMut,
    chunk: usize,
    frame_max: usize,
    /// The peer is gone; output goes nowhere.
    closed: bool,
    /// What a packet larger than a read takes of the common budget.
    share: Share,
    /// What is written and not taken.
    output_share: Share,
    unfinished: Option<Unfinished>,
    pause_max: Duration,
    bytes_in: usize,
    bytes_out: usize,
}

/// A packet whose end is not here yet.
#[derive(Debug)]
struct Unfinished {
    since: Instant,
    /// When its last bytes came.
    grown: Instant,
    /// How long it is, if that is known.
    frame: usize,
}

impl Wire {
    pub(super) fn new(
        link: Link,
        frame_max: usize,
        pause_max: Duration,
        budget: &Arc<Budget>,
        output_budget: &Arc<Budget>,
    ) -> Self {
        Self {
            link,
            input: BytesMut::new(),
            output: BytesMut::new(),
            chunk: CHUNK_MIN,
            frame_max,
            closed: false,
            share: Share::new(budget),
            output_share: Share::new(output_budget),
            unfinished: None,
            pause_max,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Waits until there is something to read, if `read`, or room to write, if there is
    /// output; for ever if neither.
    pub(super) async fn ready(&self, read: bool) -> io::Result<()> {
        if self.closed {
            return std::future::pending().await;
        }
        self.link.ready(read, !self.output.is_empty()).await
    }

    /// Reads what is there, once. `Ok(true)` if something was read, `Err` of
    /// kind `UnexpectedEof` when the peer has closed.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        if self.input.capacity() - self.input.len() < self.chunk / 2 {
            self.input.reserve(self.chunk);
        }
        let room = self.input.capacity() - self.input.len();
        match self.link.try_read(&mut self.input) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.bytes_in += read;
                if let Some(unfinished) = &mut self.unfinished {
                    unfinished.grown = Instant::now();
                }
                if read == room {
                    self.chunk = (self.chunk * 4).min(CHUNK_MAX);
                } else if read < self.chunk / 16 {
                    self.chunk = (self.chunk / 2).max(CHUNK_MIN);
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The header of the next frame, if its bytes are here already.
    pub(super) fn peek(&mut self) -> Result<Option<Header>, packet::Error> {
        match Header::peek(&self.input, self.frame_max)? {
            Some(header) if header.frame() <= self.input.len() => Ok(Some(header)),
            Some(header) => {
                // Doubling, not at once: the memory has to be earned by sending.
                let here = self.input.len();
                let grow = (header.frame() - here).min(here.max(self.chunk));
                let more = (here + grow).saturating_sub(self.share.held());
                if here + grow > CHUNK_MAX && !self.share.try_add(more) {
                    return Err(packet::Error {
                        reason: reason::QUOTA_EXCEEDED,
                        what: "too many large packets at the same time",
                    });
                }
                self.input.reserve(grow);
                self.begun(header.frame());
                Ok(None)
            }
            None => {
                if !self.input.is_empty() {
                    self.begun(0);
                }
                Ok(None)
            }
        }
    }

    fn begun(&mut self, frame: usize) {
        let now = Instant::now();
        let unfinished = self.unfinished.get_or_insert(Unfinished {
            since: now,
            grown: now,
            frame,
        });
        unfinished.frame = frame;
    }

    /// When the packet that has begun has taken too long, unless more of it comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let unfinished = self.unfinished.as_ref()?;
        let secs = u64::try_from(unfinished.frame / PACE_MIN).unwrap_or(u64::MAX);
        let whole = unfinished.since + self.pause_max + Duration::from_secs(secs);
        Some(whole.min(unfinished.grown + self.pause_max))
    }

    /// When the packet that has begun last grew.
    pub(super) fn grown(&self) -> Option<Instant> {
        self.unfinished.as_ref().map(|packet| packet.grown)
    }

    /// Whether the packet that has begun takes of the common budget.
    pub(super) fn holds_much(&self) -> bool {
        self.share.held() > 0
    }

    /// Time in which we did not read does not count.
    pub(super) fn excuse(&mut self) {
        if let Some(unfinished) = &mut self.unfinished {
            let now = Instant::now();
            unfinished.since = now;
            unfinished.grown = now;
        }
    }

    /// Takes the body of the frame that [`Wire::peek`] found.
    pub(super) fn take(&mut self, header: Header) -> Bytes {
        self.share.sub(self.share.held());
        self.unfinished = None;
        self.input.advance(header.len);
        self.input.split_to(header.body).freeze()
    }

    /// Gives back buffers that are empty: a connection that waits holds none.
    pub(super) fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > OUTPUT_KEPT {
            self.output = BytesMut::new();
        }
    }

    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    pub(super) fn is_congested(&self) -> bool {
        self.output.len() >= OUTPUT_MAX
            || self.output.len() > FAIR_BYTES && self.output_share.budget().is_spent()
    }

    /// Writes as much as the socket takes now.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.closed {
            self.output.clear();
            return Ok(());
        }
        while !self.output.is_empty() {
            match self.link.try_write(&self.output) {
                Ok(written) => {
                    self.bytes_out += written;
                    self.output.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.link.flush()?;
        self.output_share
            .set(self.output.len() + self.link.unsent());
        Ok(())
    }

    fn is_written(&self) -> bool {
        self.output.is_empty() && self.link.unsent() == 0
    }

    /// Writes what is left, and throws away what still comes until the peer has closed
    /// too: bytes that nobody reads make the system reset the connection, and the peer
    /// would lose the reason that it was just given. For at most `limit`.
    pub(super) async fn part(&mut self, limit: Duration) {
        let until_closed = async {
            while self.write().is_ok() && !self.is_written() {
                if self.closed || self.ready(false).await.is_err() {
                    return;
                }
            }
            if self.link.end_output().is_err() {
                return;
            }
            let mut seen = 0;
            while !self.closed && seen < PARTING_BYTES_MAX && self.ready(true).await.is_ok() {
                self.input.clear();
                if self.read().is_err() {
                    return;
                }
                seen += self.input.len();
            }
        };
        timeout(limit, until_closed).await.ok();
        self.close();
    }

    /// Writes what is left for at most `limit`, and closes.
    pub(super) async fn finish(&mut self, limit: Duration) {
        let flush = async {
            while self.write().is_ok() && !self.is_written() {
                if self.ready(false).await.is_err() {
                    break;
                }
            }
        };
        // A peer that takes nothing loses what was left.
        timeout(limit, flush).await.ok();
        if !self.closed {
            // Nor does one that is gone already hear of the end.
            self.link.end_output().ok();
        }
        self.close();
    }

    /// From here on nothing is read and output is thrown away.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.output.clear();
    }

    /// Bytes read and written since the last call.
    pub(super) fn take_counts(&mut self) -> (usize, usize) {
        (
            std::mem::take(&mut self.bytes_in),
            std::mem::take(&mut self.bytes_out),
        )
    }
}
