//! A TCP proxy that breaks the wire in the ways that wires break.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::ports;

/// How long a pump waits for bytes before it looks at the mode again.
const TICK: Duration = Duration::from_millis(20);
/// Bytes that a pump takes at once.
const CHUNK: usize = 16 * 1024;

/// What the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Takes connections and closes them at once; open ones are closed too.
    Reset,
    /// Takes connections and bytes get stuck, both ways.
    BlackHole,
    /// Passes requests on and loses the replies: the other side acts, and nobody hears of
    /// it. Such a connection does not recover.
    LoseReplies,
    /// Passes everything on, each chunk this much later.
    Delay(Duration),
    /// Passes on at most this many bytes a second, each way.
    Throttle(u32),
}

/// The proxy: listens until dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    /// Where to connect.
    pub port: u16,
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct Wire {
    to: u16,
    state: Mutex<State>,
    changed: Condvar,
    connections: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Counts the times that every open connection was cut.
    cut: u64,
    closed: bool,
}

impl ChaosProxy {
    /// Listens, and passes on to a port on loopback.
    ///
    /// # Panics
    /// When no port is free.
    pub fn to(to: u16) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let wire = Arc::new(Wire {
            to,
            state: Mutex::new(State {
                mode: Mode::Pass,
                cut: 0,
                closed: false,
            }),
            changed: Condvar::new(),
            connections: AtomicU64::new(0),
        });
        let serving = Arc::clone(&wire);
        thread::spawn(move || serve(&listener, &serving));
        Self { port, wire }
    }

    /// Changes what the wire does, from now on and for open connections too.
    pub fn set(&self, mode: Mode) {
        let mut state = self.wire.state();
        if mode == Mode::Reset || state.mode == Mode::LoseReplies {
            state.cut += 1;
        }
        state.mode = mode;
        self.wire.changed.notify_all();
    }

    /// Closes every open connection, once.
    pub fn cut(&self) {
        self.wire.state().cut += 1;
        self.wire.changed.notify_all();
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.wire.connections.load(Ordering::Relaxed)
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.wire.state().closed = true;
        self.wire.changed.notify_all();
        // Wakes the listener, which then ends.
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok();
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an open connection does; `None` when it is to be closed.
    fn mode(&self, cut: u64) -> Option<Mode> {
        let state = self.state();
        (!state.closed && state.cut == cut).then_some(state.mode)
    }

    /// Lets a time pass, or less when the mode changes.
    fn pause(&self, time: Duration) {
        drop(self.changed.wait_timeout(self.state(), time));
    }
}

fn serve(listener: &TcpListener, wire: &Arc<Wire>) {
    for client in listener.incoming() {
        let state = *wire.state();
        if state.closed {
            return;
        }
        let Ok(client) = client else { continue };
        wire.connections.fetch_add(1, Ordering::Relaxed);
        if state.mode == Mode::Reset {
            continue;
        }
        let wire = Arc::clone(wire);
        thread::spawn(move || {
            // A server that is away is the client's to notice.
            join(&client, &wire, state.cut).ok();
            client.shutdown(Shutdown::Both).ok();
        });
    }
}

/// Pumps both ways until either end closes or the connection is cut.
fn join(client: &TcpStream, wire: &Arc<Wire>, cut: u64) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, wire.to))?;
    for socket in [client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    }
    thread::scope(|scope| {
        scope.spawn(|| pump(client, &server, wire, cut, false));
        pump(&server, client, wire, cut, true);
    });
    Ok(())
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, wire: &Wire, cut: u64, replies: bool) {
    let mut chunk = vec![0; CHUNK];
    while let Some(mode) = wire.mode(cut) {
        if mode == Mode::BlackHole {
            wire.pause(TICK);
            continue;
        }
        let length = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if waiting(&error) => continue,
            Err(_) => break,
        };
        // The mode may have changed while this waited for bytes.
        while wire.mode(cut) == Some(Mode::BlackHole) {
            wire.pause(TICK);
        }
        let Some(mode) = wire.mode(cut) else { break };
        match mode {
            Mode::LoseReplies if replies => continue,
            Mode::Delay(time) => thread::sleep(time),
            Mode::Throttle(bytes_per_sec) => {
                let millis = length as u64 * 1_000 / u64::from(bytes_per_sec.max(1));
                thread::sleep(Duration::from_millis(millis.min(1_000)));
            }
            _ => {}
        }
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

fn waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives back what it gets.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                thread::spawn(move || io::copy(&mut socket.try_clone().unwrap(), &mut socket));
            }
        });
        port
    }

    fn ask(socket: &mut TcpStream) -> io::Result<u8> {
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        socket.write_all(b"x")?;
        let mut reply = [0];
        socket.read_exact(&mut reply)?;
        Ok(reply[0])
    }

    fn connect(proxy: &ChaosProxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap()
    }

    #[test]
    fn a_black_hole_holds_bytes_and_gives_them_back_when_it_ends() {
        let proxy = ChaosProxy::to(echo());
        let mut socket = connect(&proxy);
        assert_eq!(ask(&mut socket).unwrap(), b'x');
        proxy.set(Mode::BlackHole);
        ask(&mut socket).unwrap_err();
        proxy.set(Mode::Pass);
        let mut reply = [0];
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"x");
    }

    #[test]
    fn a_reset_ends_open_connections_and_new_ones_until_it_passes() {
        let proxy = ChaosProxy::to(echo());
        let mut socket = connect(&proxy);
        assert_eq!(ask(&mut socket).unwrap(), b'x');
        proxy.set(Mode::Reset);
        ask(&mut socket).unwrap_err();
        ask(&mut connect(&proxy)).unwrap_err();
        proxy.set(Mode::Pass);
        assert_eq!(ask(&mut connect(&proxy)).unwrap(), b'x');
        assert_eq!(proxy.connections(), 3);
    }

    #[test]
    fn a_lost_reply_ends_the_connection_when_the_wire_is_whole_again() {
        let proxy = ChaosProxy::to(echo());
        let mut socket = connect(&proxy);
        proxy.set(Mode::LoseReplies);
        ask(&mut socket).unwrap_err();
        proxy.set(Mode::Pass);
        ask(&mut socket).unwrap_err();
        assert_eq!(ask(&mut connect(&proxy)).unwrap(), b'x');
    }
}
