//! Connections: who takes them, and what pumps their bytes.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{Deed, End, Phase, Shared};
use crate::wait;

/// How long a pump waits for bytes before it looks at the state again.
const TICK: Duration = Duration::from_millis(20);
/// Bytes that a pump takes at once.
const CHUNK: usize = 64 * 1024;
/// Pieces of what passes slowly.
const PIECES: usize = 8;

/// A connection, both ends of it.
struct Link {
    number: u64,
    client: TcpStream,
    server: TcpStream,
    ended: AtomicBool,
}

/// Takes connections until the wire is dropped.
pub(super) fn serve(mut listener: TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept() else {
            continue;
        };
        let mut state = shared.state();
        if state.closed {
            return;
        }
        if let Phase::Refuses(until) = state.phase {
            drop(state);
            drop((client, listener));
            thread::sleep(until.saturating_duration_since(Instant::now()));
            listener = wait::until(Duration::from_secs(10), "the port to be free", || {
                TcpListener::bind((Ipv4Addr::LOCALHOST, shared.port)).ok()
            });
            shared.state().recovers();
            continue;
        }
        match state.made() {
            Ok(number) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || {
                    // A server that is away is the client's to notice.
                    join(number, client, &shared).ok();
                    shared.state().over(number);
                });
            }
            Err(end) => end_by(&client, end),
        }
    }
}

/// Pumps both ways until either end closes or the connection is cut.
fn join(number: u64, client: TcpStream, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.to))?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    }
    let link = Link {
        number,
        client,
        server,
        ended: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| pump(&link, shared, false));
        pump(&link, shared, true);
    });
    Ok(())
}

/// One way: from the client, or to it.
fn pump(link: &Link, shared: &Shared, answers: bool) {
    let (mut from, mut to) = (&link.client, &link.server);
    if answers {
        (from, to) = (to, from);
    }
    let mut chunk = vec![0; CHUNK];
    let mut window = Vec::new();
    while link.goes_on(shared) {
        let length = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if waiting(&error) => continue,
            Err(_) => break,
        };
        let bytes = &chunk[..length];
        let deed = {
            let mut state = shared.state();
            if answers {
                state.downstream(link.number, bytes)
            } else {
                let overlap = state.mark.as_ref().map_or(0, super::Mark::overlap);
                window.drain(..window.len().saturating_sub(overlap));
                window.extend(bytes);
                state.upstream(link.number, &window, bytes, shared.port)
            }
        };
        // The chunk itself may be what got stuck.
        if !link.goes_on(shared) {
            break;
        }
        let passed = match deed {
            Deed::Pass => to.write_all(bytes),
            Deed::Drop => Ok(()),
            Deed::Cut(part, end) => {
                // It ends, whether that arrived or not.
                to.write_all(&bytes[..part]).ok();
                link.end(end);
                return;
            }
            Deed::Slowly(time) => slowly(link, shared, to, bytes, time),
        };
        if passed.is_err() {
            break;
        }
    }
    link.end(End::Close);
}

fn slowly(
    link: &Link,
    shared: &Shared,
    mut to: &TcpStream,
    bytes: &[u8],
    time: Duration,
) -> io::Result<()> {
    for piece in bytes.chunks(bytes.len().div_ceil(PIECES)) {
        to.write_all(piece)?;
        let until = Instant::now() + time / 8;
        while Instant::now() < until {
            thread::sleep(TICK);
            if !link.goes_on(shared) || is_gone(&link.client) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
    Ok(())
}

/// Whether the other side has closed a connection of which nobody reads at the moment.
fn is_gone(socket: &TcpStream) -> bool {
    matches!(socket.peek(&mut [0]), Ok(0))
}

impl Link {
    /// Waits as long as nothing passes; `false` when the connection has ended.
    fn goes_on(&self, shared: &Shared) -> bool {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return false;
            }
            let mut state = shared.state();
            if let Some(end) = state.ending(self.number) {
                drop(state);
                self.end(end);
                return false;
            }
            if !state.is_stuck() {
                // What got stuck may have been cut when that was over.
                return state.ending(self.number).is_none();
            }
            drop(state);
            thread::sleep(TICK);
        }
    }

    fn end(&self, end: End) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            end_by(&self.client, end);
            self.server.shutdown(Shutdown::Both).ok();
        }
    }
}

/// A reset goes out when the socket is dropped, which is when both pumps have ended.
fn end_by(client: &TcpStream, end: End) {
    match end {
        End::Close => client.shutdown(Shutdown::Both),
        End::Reset => SockRef::from(client).set_linger(Some(Duration::ZERO)),
    }
    // It may be gone already.
    .ok();
}

fn waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
