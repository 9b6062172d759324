//! Against a server in this process that answers from a script.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::forward::{
    batch::Item,
    destination::Outcome,
    testing::{batch, record},
};

/// What the server does with rows.
#[derive(Debug, Clone)]
enum Answer {
    Take,
    /// Undoes the statement, with this SQLSTATE.
    Refuse(&'static str),
    /// Says that the statement is done, and goes away before the commit.
    CutBeforeCommit,
    /// Takes them, and says nothing.
    Silence,
    /// Says after a while that the statement took too long.
    Slow(Duration),
    /// Refuses every statement that has one of these sequences, for good.
    Poison(Vec<u64>),
}

#[derive(Debug, Default)]
struct Server {
    script: Mutex<VecDeque<Answer>>,
    connections: AtomicUsize,
    /// How long each connection takes.
    connects_in: Duration,
    inserts: AtomicUsize,
}

impl Server {
    async fn start(script: impl IntoIterator<Item = Answer>) -> (Arc<Self>, Config) {
        Self::slow(script, Duration::ZERO).await
    }

    async fn slow(
        script: impl IntoIterator<Item = Answer>,
        connects_in: Duration,
    ) -> (Arc<Self>, Config) {
        let server = Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            connects_in,
            ..Self::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = server.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = shared.clone();
                // A client that goes away is no concern of the server's.
                tokio::spawn(async move { shared.serve(socket).await.ok() });
            }
        });
        let host = "127.0.0.1".to_owned();
        let config = Config {
            timeout: Duration::from_millis(500),
            ..Config::new(vec![super::Server { host, port }], "d", "u")
        };
        (server, config)
    }

    async fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        let length = socket.read_u32().await?;
        socket.read_exact(&mut vec![0; length as usize - 4]).await?;
        tokio::time::sleep(self.connects_in).await;
        send(&mut socket, b'R', &[0, 0, 0, 0]).await?;
        ready(&mut socket).await?;
        let mut statement = Vec::new();
        loop {
            let kind = socket.read_u8().await?;
            let length = socket.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            socket.read_exact(&mut body).await?;
            match kind {
                b'Q' => {
                    if body.starts_with(b"SHOW") {
                        let column = b"\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00";
                        send(&mut socket, b'T', column).await?;
                        send(&mut socket, b'D', b"\x00\x01\x00\x00\x00\x03off").await?;
                    }
                    send(&mut socket, b'C', b"SHOW\0").await?;
                    ready(&mut socket).await?;
                }
                b'S' => {
                    let rows = std::mem::take(&mut statement);
                    self.answer(&mut socket, &rows).await?;
                }
                b'X' => return Ok(()),
                _ => statement.extend(body),
            }
        }
    }

    async fn answer(&self, socket: &mut TcpStream, statement: &[u8]) -> io::Result<()> {
        self.inserts.fetch_add(1, Ordering::Relaxed);
        let answer = {
            let mut script = self.script.lock().unwrap();
            match script.front() {
                Some(Answer::Poison(which)) => {
                    let is_in = |sequence: &u64| {
                        let text = format!("\"sequence\":\"{sequence:020}\"");
                        memchr::memmem::find(statement, text.as_bytes()).is_some()
                    };
                    match which.iter().any(is_in) {
                        true => Answer::Refuse("23514"),
                        false => Answer::Take,
                    }
                }
                _ => script.pop_front().unwrap_or(Answer::Take),
            }
        };
        for (kind, body) in [(b'1', &b""[..]), (b't', b"\0\0"), (b'n', b"")] {
            send(socket, kind, body).await?;
        }
        match answer {
            Answer::Refuse(code) => {
                let body = format!("SERROR\0VERROR\0C{code}\0Mbecause\0\0");
                send(socket, b'E', body.as_bytes()).await?;
                return ready(socket).await;
            }
            Answer::Slow(after) => {
                tokio::time::sleep(after).await;
                send(socket, b'E', b"SERROR\0VERROR\0C57014\0Mtoo slow\0\0").await?;
                return ready(socket).await;
            }
            Answer::Silence => return std::future::pending().await,
            _ => {}
        }
        send(socket, b'2', b"").await?;
        send(socket, b'C', b"INSERT 0 1\0").await?;
        match answer {
            Answer::CutBeforeCommit => Err(io::ErrorKind::ConnectionReset.into()),
            _ => ready(socket).await,
        }
    }
}

async fn send(socket: &mut TcpStream, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).unwrap();
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.extend(body);
    socket.write_all(&message).await
}

async fn ready(socket: &mut TcpStream) -> io::Result<()> {
    send(socket, b'Z', b"I").await
}

fn postgres(config: Config) -> Postgres {
    let config = Config {
        create_table: false,
        connect_timeout: Duration::from_millis(500),
        linger: Duration::ZERO,
        ..config
    };
    Postgres::new(config).unwrap()
}

#[tokio::test]
async fn an_answer_means_what_its_class_says() {
    for (code, expect) in [
        ("22003", "refused"),
        ("22P05", "refused"),
        ("23502", "refused"),
        ("54000", "refused"),
        ("P0001", "refused"),
        ("28P01", "person"),
        ("3D000", "person"),
        ("42P01", "person"),
        ("42501", "person"),
        ("25006", "away"),
        ("40001", "away"),
        ("53100", "away"),
        ("53300", "away"),
        ("55P03", "away"),
        ("57014", "away"),
        ("57P01", "away"),
        ("58030", "away"),
        ("XX000", "away"),
    ] {
        let (_server, config) = Server::start([Answer::Refuse(code)]).await;
        let said = match postgres(config).send(batch([1])).await {
            Ok(outcomes) => match &outcomes[..] {
                [Outcome::Permanent(reason)] => ("refused", reason.clone()),
                other => panic!("{other:?}"),
            },
            Err(Error::Misconfigured(reason)) => ("person", reason),
            Err(error) => ("away", error.to_string()),
        };
        assert_eq!(said, (expect, format!("because ({code})")));
    }
}

#[tokio::test]
async fn a_record_that_is_refused_is_found_by_halving_over_one_connection() {
    let (server, config) = Server::start([Answer::Poison(vec![3])]).await;
    let outcomes = postgres(config).send(batch(1..=8)).await.unwrap();
    for (at, outcome) in (1..).zip(&outcomes) {
        match at {
            3 => assert!(matches!(outcome, Outcome::Permanent(_)), "{outcome:?}"),
            _ => assert_eq!(*outcome, Outcome::Acknowledged, "{at}"),
        }
    }
    assert_eq!(outcomes.len(), 8);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_halved_and_blames_no_record() {
    let slow = || Answer::Refuse("57014");
    let (server, config) = Server::start([slow(), slow()]).await;
    let outcomes = postgres(config).send(batch(1..=8)).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged; 8]));
    // All, four, two, two, and four.
    assert_eq!(server.inserts.load(Ordering::Relaxed), 5);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    // Where one alone takes too long, the batch goes again as far as it was not taken.
    let (_server, config) = Server::start([slow(), slow(), slow()]).await;
    let outcomes = postgres(config).send(batch(1..=3)).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_halved_however_long_connecting_took() {
    let part = Duration::from_millis(1_200);
    let (server, config) = Server::slow([Answer::Slow(part)], part).await;
    let config = Config {
        create_table: false,
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(2),
        linger: Duration::ZERO,
        ..config
    };
    let outcomes = Postgres::new(config).unwrap().send(batch(1..=2)).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged; 2]));
    // Both, and one by one, over the same connection.
    assert_eq!(server.inserts.load(Ordering::Relaxed), 3);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_statement_that_is_done_and_not_committed_is_not_taken() {
    let (server, config) = Server::start([Answer::CutBeforeCommit, Answer::Silence]).await;
    let postgres = postgres(config);
    for _ in 0..2 {
        let outcomes = postgres.send(batch(1..=2)).await;
        assert!(
            matches!(outcomes, Err(Error::Unavailable { .. })),
            "{outcomes:?}"
        );
    }
    // Each time over a new connection.
    assert_eq!(
        postgres.send(batch(1..=2)).await,
        Ok(vec![Outcome::Acknowledged; 2])
    );
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_table_that_refuses_the_rows_of_every_device_is_at_fault() {
    let (server, config) = Server::start([Answer::Poison((1..=40).collect())]).await;
    let item = |n: u8| Item::check(record(n.into(), n)).unwrap();
    let all = Batch {
        items: (1..=40).map(item).collect(),
    };
    let outcomes = postgres(config).send(all).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    // Halved as far as the first sixteen, and no further.
    assert!(server.inserts.load(Ordering::Relaxed) < 40);
}

#[tokio::test]
async fn a_connection_that_ends_is_not_waited_for() {
    let (_server, config) = Server::start([Answer::CutBeforeCommit]).await;
    let postgres = postgres(Config {
        timeout: Duration::from_secs(5),
        ..config
    });
    let Err(Error::Unavailable { reason, .. }) = postgres.send(batch([1])).await else {
        panic!("it was not committed");
    };
    assert!(reason.contains("connection"), "{reason}");
}

#[tokio::test]
async fn a_server_that_says_nothing_does_not_hide_the_next_one() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (_server, config) = Server::start([]).await;
    let host = "127.0.0.1".to_owned();
    let servers = vec![super::Server { host, port }, config.servers[0].clone()];
    let postgres = postgres(Config {
        servers,
        timeout: Duration::from_secs(5),
        ..config
    });
    let outcomes = postgres.send(batch([1])).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged]));
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let server = super::Server {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    let outcomes = postgres(Config::new(vec![server], "d", "u"))
        .send(batch([1]))
        .await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}
