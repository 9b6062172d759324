//! A TCP proxy that breaks the wire at an exact moment: when a request carries an event.
//!
//! It knows no protocol. An event has a [mark](Wire::plan), and a request that has the mark
//! is one that carries it. What comes back on a connection after that is taken for the
//! answer, which it is where one request is under way, and about so where several are.

mod fault;
mod link;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use self::fault::Mark;
pub use self::fault::{End, Fault, Part};
use crate::ports;

/// Whether a chunk begins the request that is looked for.
pub type Then = fn(&[u8]) -> bool;

/// The proxy: listens until dropped.
#[derive(Debug)]
pub struct Wire {
    /// Where to connect.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    port: u16,
    to: u16,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mark: Option<Mark>,
    plan: VecDeque<Fault>,
    phase: Phase,
    struck: usize,
    hold: Option<Hold>,
    /// Connections so far, and those before this one are cut, in this way.
    links: u64,
    cut_before: u64,
    cut_by: End,
    closed: bool,
}

/// Where it is in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All of it is done, or there is none.
    Idle,
    /// All is well, and the next fault begins with the next event. What came back before has
    /// been taken notice of by then, so that none is cut off again and again.
    Rests,
    /// For an event on its way.
    Waits(Fault),
    /// Nobody listens until then.
    Refuses(Instant),
    /// So many connections still end at once.
    TurnsAway(usize, End),
    /// The first connection ends after so many bytes.
    Greets(usize, End, Option<u64>),
    /// It has begun, on this connection.
    Strikes(Fault, u64, Instant),
    /// Until an event went over a connection, this one, and something came back.
    Recovers(Option<u64>),
}

/// Answers are held back, from a request on.
#[derive(Debug)]
struct Hold {
    /// The event was seen, and this request has to come behind it.
    then: Option<Then>,
    seen: bool,
    /// The request is through.
    begun: bool,
    /// Something of an answer is here.
    held: bool,
}

/// What is to be done with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Pass,
    Drop,
    /// So many bytes pass, and the connection ends.
    Cut(usize, End),
    /// It passes bit by bit.
    Slowly(Duration),
}

impl Wire {
    /// Listens, and passes on to a port on loopback.
    ///
    /// # Panics
    /// When no port is free.
    pub fn to(to: u16) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let shared = Arc::new(Shared {
            port,
            to,
            state: Mutex::new(State {
                mark: None,
                plan: VecDeque::new(),
                phase: Phase::Idle,
                struck: 0,
                hold: None,
                links: 0,
                cut_before: 0,
                cut_by: End::Close,
                closed: false,
            }),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || link::serve(listener, &serving));
        Self { port, shared }
    }

    /// One fault after the other, each when an event with `mark` is on its way, and the
    /// next when something got through after it, and another event comes.
    pub fn plan(&self, mark: &str, faults: Vec<Fault>) {
        let mut state = self.shared.state();
        state.mark = Some(Mark::new(mark));
        state.plan = faults.into();
        state.struck = 0;
        state.rests();
    }

    /// Faults that struck and were got over.
    pub fn struck(&self) -> usize {
        self.shared.state().struck
    }

    /// What it does at the moment; nothing once the plan is carried out.
    pub fn doing(&self) -> Option<String> {
        let state = self.shared.state();
        (state.phase != Phase::Idle).then(|| format!("{:?}", state.phase))
    }

    /// From when a request with `mark` went through, or after it one that `then` knows, no
    /// byte comes back.
    pub fn hold(&self, mark: &str, then: Option<Then>) {
        let mut state = self.shared.state();
        state.mark = Some(Mark::new(mark));
        state.hold = Some(Hold {
            then,
            seen: false,
            begun: false,
            held: false,
        });
    }

    /// Whether the server has answered what is held back.
    pub fn is_held(&self) -> bool {
        let state = self.shared.state();
        state.hold.as_ref().is_some_and(|hold| hold.held)
    }

    /// Ends the holding back: what was held is lost, and connections are closed.
    pub fn release(&self) {
        let mut state = self.shared.state();
        state.hold = None;
        state.cut(End::Close);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        wake(self.port);
    }
}

/// The one who listens looks at the state at each connection.
fn wake(port: u16) {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cut(&mut self, by: End) {
        self.cut_before = self.links;
        self.cut_by = by;
    }

    fn rests(&mut self) {
        let is_done = self.plan.is_empty();
        self.phase = if is_done { Phase::Idle } else { Phase::Rests };
    }

    /// Begins with the next fault.
    fn proceed(&mut self, port: u16) {
        let Some(fault) = self.plan.pop_front() else {
            return;
        };
        self.phase = match fault {
            Fault::Refused(time) => {
                self.cut(End::Close);
                wake(port);
                Phase::Refuses(Instant::now() + time)
            }
            Fault::TurnedAway(end) => {
                self.cut(end);
                Phase::TurnsAway(2, end)
            }
            Fault::Greeting(bytes, end) => {
                self.cut(End::Close);
                Phase::Greets(bytes, end, None)
            }
            on_the_way => Phase::Waits(on_the_way),
        };
    }

    fn recovers(&mut self) {
        self.phase = Phase::Recovers(None);
    }

    /// A chunk of a request; `window` is the chunk with what came before it.
    fn upstream(&mut self, link: u64, window: &[u8], chunk: &[u8], port: u16) -> Deed {
        let is_event = self.mark.as_ref().is_some_and(|mark| mark.is_in(window));
        if let Some(hold) = &mut self.hold {
            let is_then = hold.seen && hold.then.is_some_and(|then| then(chunk));
            hold.seen |= is_event;
            hold.begun |= is_then || (is_event && hold.then.is_none());
        }
        if self.phase == Phase::Rests && is_event {
            self.proceed(port);
        }
        match self.phase {
            Phase::Waits(fault) if is_event => {
                self.phase = Phase::Strikes(fault, link, Instant::now());
                match fault {
                    Fault::Request(part, end) => {
                        self.recovers();
                        Deed::Cut(part.of(chunk.len()), end)
                    }
                    Fault::Sent(end) => {
                        self.recovers();
                        Deed::Cut(chunk.len(), end)
                    }
                    Fault::SlowRequest(time) => {
                        self.recovers();
                        Deed::Slowly(time)
                    }
                    _ => Deed::Pass,
                }
            }
            Phase::Recovers(_) if is_event => {
                self.phase = Phase::Recovers(Some(link));
                Deed::Pass
            }
            _ => Deed::Pass,
        }
    }

    /// A chunk of an answer.
    fn downstream(&mut self, link: u64, chunk: &[u8]) -> Deed {
        if let Some(hold) = &mut self.hold
            && hold.begun
        {
            hold.held = true;
            return Deed::Drop;
        }
        match self.phase {
            Phase::Greets(bytes, end, Some(of)) if of == link => {
                // Where so little comes back it ends after that.
                self.recovers();
                Deed::Cut(bytes.min(chunk.len()), end)
            }
            Phase::Strikes(fault, of, _) if of == link => match fault {
                Fault::Lost(end) => {
                    self.recovers();
                    Deed::Cut(0, end)
                }
                Fault::Answer(part, end) => {
                    self.recovers();
                    Deed::Cut(part.of(chunk.len()), end)
                }
                Fault::Silent(_) => Deed::Drop,
                Fault::SlowAnswer(time) => {
                    self.recovers();
                    Deed::Slowly(time)
                }
                _ => Deed::Pass,
            },
            Phase::Recovers(Some(of)) if of == link => {
                self.struck += 1;
                self.rests();
                Deed::Pass
            }
            _ => Deed::Pass,
        }
    }

    /// Whether nothing passes at the moment.
    fn is_stuck(&mut self) -> bool {
        match self.phase {
            Phase::Strikes(fault @ (Fault::Hole(time) | Fault::Stuck(time)), _, since) => {
                if since.elapsed() < time {
                    return true;
                }
                if fault == Fault::Hole(time) {
                    self.cut(End::Close);
                }
                self.recovers();
                false
            }
            _ => false,
        }
    }

    /// How a connection is to end, if it is.
    fn ending(&mut self, link: u64) -> Option<End> {
        if let Phase::Strikes(Fault::Silent(time), of, since) = self.phase
            && of == link
            && since.elapsed() >= time
        {
            self.recovers();
            return Some(End::Close);
        }
        if self.closed {
            return Some(End::Close);
        }
        (link < self.cut_before).then_some(self.cut_by)
    }

    /// A connection is made: its number, or how it is to end at once.
    fn made(&mut self) -> Result<u64, End> {
        if let Phase::TurnsAway(left, end) = self.phase {
            if left > 1 {
                self.phase = Phase::TurnsAway(left - 1, end);
            } else {
                self.recovers();
            }
            return Err(end);
        }
        let link = self.links;
        self.links += 1;
        if let Phase::Greets(bytes, end, None) = self.phase {
            self.phase = Phase::Greets(bytes, end, Some(link));
        }
        Ok(link)
    }

    /// A connection has ended, by whomever.
    fn over(&mut self, link: u64) {
        self.phase = match self.phase {
            // Whoever asked gave up, which is what was wanted.
            Phase::Strikes(Fault::Silent(_), of, _) if of == link => Phase::Recovers(None),
            // Nothing came back that could have been cut: at the next event, then.
            Phase::Strikes(fault, of, _) if of == link && !fault.is_of_all() => Phase::Waits(fault),
            Phase::Greets(bytes, end, Some(of)) if of == link => Phase::Greets(bytes, end, None),
            Phase::Recovers(Some(of)) if of == link => Phase::Recovers(None),
            other => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _, Write as _};

    use super::*;
    use crate::wait;

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

    fn connect(wire: &Wire) -> TcpStream {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, wire.port)).unwrap();
        let patience = Some(Duration::from_secs(2));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// What comes back before the connection ends, or all of it.
    fn ask(mut socket: &TcpStream, text: &str) -> (String, Option<io::ErrorKind>) {
        let mut reply = Vec::new();
        let mut error = socket.write_all(text.as_bytes()).err();
        while error.is_none() && reply.len() < text.len() {
            let mut byte = [0];
            match socket.read_exact(&mut byte) {
                Ok(()) => reply.extend(byte),
                Err(other) => error = Some(other),
            }
        }
        let reply = String::from_utf8(reply).unwrap();
        (reply, error.map(|error| error.kind()))
    }

    #[test]
    fn a_request_with_the_mark_meets_what_is_planned_and_the_next_goes_through() {
        use io::ErrorKind::{ConnectionReset, UnexpectedEof};
        let wire = Wire::to(echo());
        let plan = vec![
            Fault::Request(Part::Nothing, End::Reset),
            Fault::Answer(Part::Byte, End::Close),
            Fault::Lost(End::Close),
        ];
        wire.plan("mark", plan);
        let through = |text: &str| assert_eq!(ask(&connect(&wire), text), (text.to_owned(), None));
        through("plain");
        for (nth, (part, end)) in [
            ("", ConnectionReset),
            ("m", UnexpectedEof),
            ("", UnexpectedEof),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(wire.struck(), nth);
            let broken = ask(&connect(&wire), "marked");
            assert_eq!(broken, (part.to_owned(), Some(end)));
            through("plain");
            assert_eq!(wire.struck(), nth, "only a request with the mark counts");
            through("marked");
        }
        assert_eq!((wire.struck(), wire.doing()), (3, None));
    }

    #[test]
    fn answers_are_held_from_the_mark_on_until_they_are_lost() {
        let wire = Wire::to(echo());
        wire.hold("mark", None);
        let socket = connect(&wire);
        assert_eq!(ask(&socket, "plain"), ("plain".to_owned(), None));
        assert!(!wire.is_held());
        (&socket).write_all(b"marked").unwrap();
        wait::until(Duration::from_secs(5), "an answer to hold", || {
            wire.is_held().then_some(())
        });
        wire.release();
        assert_eq!((&socket).read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(ask(&connect(&wire), "marked"), ("marked".to_owned(), None));
    }

    #[test]
    fn nobody_listens_for_a_while_and_then_again() {
        let wire = Wire::to(echo());
        let socket = connect(&wire);
        wire.plan("mark", vec![Fault::Refused(Duration::from_secs(2))]);
        (&socket).write_all(b"marked").unwrap();
        assert_eq!((&socket).read(&mut [0; 8]).unwrap(), 0);
        wait::until(Duration::from_secs(5), "a refusal", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, wire.port)).err()
        });
        wait::until(Duration::from_secs(5), "the wire to be whole", || {
            let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, wire.port)).ok()?;
            (ask(&socket, "marked").1.is_none()).then_some(())
        });
        assert_eq!((wire.struck(), wire.doing()), (1, None));
    }
}
