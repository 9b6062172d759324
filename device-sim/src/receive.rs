//! An HTTP receiver for CloudEvents that appends them to a file, one to a line.
//!
//! It answers 200 when the events of a request are in the file (on disk, with
//! `--fsync`), whole or not at all, and dedupes nothing: whatever comes twice is
//! there twice, for the audit to find. It can be told to misbehave.
//!
//! `POST` to any path: `application/cloudevents-batch+json`,
//! `application/cloudevents+json` or `application/json`, also gzipped.
//! `GET /` answers its counters.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::read::MultiGzDecoder;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{cli, signal};

/// Retry-After of a 429, in seconds.
const RETRY_AFTER_SECS: &str = "1";
/// For the rest of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until told to stop.
///
/// # Errors
/// When the address or the file cannot be used.
pub(crate) fn run(args: &cli::Receive) -> anyhow::Result<()> {
    ensure!(
        args.listen.ip().is_loopback() || args.allow_anonymous,
        "{} can be reached by others, and anybody can send: add --allow-anonymous if that is meant",
        args.listen
    );
    let mut stop = signal::stop("finishing the requests that have begun")?;
    let receiver = Arc::new(Receiver::new(args)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        announce(&format!("listening on http://{}", listener.local_addr()?));
        let app = Router::new()
            .route("/", get(counters).post(receive))
            .fallback(axum::routing::post(receive))
            .with_state(receiver);
        axum::serve(listener, app)
            .with_graceful_shutdown(async move {
                // An error means that nobody can tell us any more.
                drop(stop.wait_for(|stop| *stop).await);
            })
            .await
            .context("the receiver failed")
    })
}

#[expect(clippy::print_stdout, reason = "scripts read the address from here")]
fn announce(text: &str) {
    println!("{text}");
}

#[derive(Debug)]
struct Receiver {
    out: Arc<Mutex<Out>>,
    body_bytes_max: usize,
    delay: Duration,
    misbehaviour: Mutex<Misbehaviour>,
    /// Bounds the bodies in memory.
    room: Semaphore,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    events: AtomicU64,
    failed: AtomicU64,
    lied: AtomicU64,
    throttled: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Misbehaviour {
    rng: StdRng,
    fail_rate: f64,
    lie_rate: f64,
    throttle_rate: f64,
}

/// What a request will be answered, whatever is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Honest,
    Fail,
    Lie,
    Throttle,
}

#[derive(Debug)]
struct Out {
    file: File,
    fsync: bool,
}

impl Receiver {
    fn new(args: &cli::Receive) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&args.out)
            .with_context(|| format!("cannot open {}", args.out.display()))?;
        Ok(Self {
            out: Arc::new(Mutex::new(Out {
                file,
                fsync: args.fsync,
            })),
            body_bytes_max: args.body_bytes_max,
            delay: args.delay,
            misbehaviour: Mutex::new(Misbehaviour {
                rng: StdRng::seed_from_u64(args.seed),
                fail_rate: args.fail_rate,
                lie_rate: args.lie_rate,
                throttle_rate: args.throttle_rate,
            }),
            room: Semaphore::new(args.concurrency.into()),
            counts: Counts::default(),
        })
    }

    fn fate(&self) -> Fate {
        let mut misbehaviour = self
            .misbehaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Misbehaviour {
            fail_rate,
            lie_rate,
            throttle_rate,
            ..
        } = *misbehaviour;
        let mut happens = |p: f64| misbehaviour.rng.random::<f64>() < p;
        if happens(throttle_rate) {
            Fate::Throttle
        } else if happens(fail_rate) {
            Fate::Fail
        } else if happens(lie_rate) {
            Fate::Lie
        } else {
            Fate::Honest
        }
    }
}

impl Out {
    /// Appends all of `lines` or nothing.
    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        let before = self.file.seek(SeekFrom::End(0))?;
        let written = self.file.write_all(lines).and_then(|()| {
            if self.fsync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        if written.is_err() {
            self.file.set_len(before)?;
        }
        written
    }
}

async fn counters(State(receiver): State<Arc<Receiver>>) -> Json<serde_json::Value> {
    let counts = &receiver.counts;
    Json(serde_json::json!({
        "requests": counts.requests.load(Relaxed),
        "events": counts.events.load(Relaxed),
        "failed": counts.failed.load(Relaxed),
        "lied": counts.lied.load(Relaxed),
        "throttled": counts.throttled.load(Relaxed),
        "refused": counts.refused.load(Relaxed),
    }))
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let counts = &receiver.counts;
    counts.requests.fetch_add(1, Relaxed);
    if !receiver.delay.is_zero() {
        tokio::time::sleep(receiver.delay).await;
    }
    let fate = receiver.fate();
    match fate {
        Fate::Throttle => {
            counts.throttled.fetch_add(1, Relaxed);
            return (
                StatusCode::TOO_MANY_REQUESTS,
                [(header::RETRY_AFTER, RETRY_AFTER_SECS)],
            )
                .into_response();
        }
        Fate::Fail => {
            counts.failed.fetch_add(1, Relaxed);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Fate::Honest | Fate::Lie => {}
    }
    let Ok(_room) = receiver.room.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match keep(&receiver, request).await {
        Ok(events) => {
            counts.events.fetch_add(events, Relaxed);
            if fate == Fate::Lie {
                counts.lied.fetch_add(1, Relaxed);
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            StatusCode::OK.into_response()
        }
        Err(refusal) => {
            counts.refused.fetch_add(1, Relaxed);
            refusal.into_response()
        }
    }
}

type Refusal = (StatusCode, String);

async fn keep(receiver: &Receiver, request: Request) -> Result<u64, Refusal> {
    let (parts, body) = request.into_parts();
    let limit = receiver.body_bytes_max;
    let body = tokio::time::timeout(BODY_TIMEOUT, read(body, limit))
        .await
        .map_err(|_| {
            (
                StatusCode::REQUEST_TIMEOUT,
                "the body did not come".to_owned(),
            )
        })??;
    let gzipped = is_gzipped(&parts.headers)?;
    let out = Arc::clone(&receiver.out);
    tokio::task::spawn_blocking(move || {
        let body = if gzipped {
            unzip(&body, limit)?
        } else {
            body.into()
        };
        let (lines, events) =
            lines(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        out.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&lines)
            .map_err(|error| (StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
        Ok(events)
    })
    .await
    .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    axum::body::to_bytes(body, limit)
        .await
        .map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
}

fn is_gzipped(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().to_ascii_lowercase())
    {
        None => Ok(false),
        Some(coding) if coding == b"identity" => Ok(false),
        Some(coding) if coding == b"gzip" => Ok(true),
        Some(_) => Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "only gzip is understood".to_owned(),
        )),
    }
}

fn unzip(body: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut plain = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body)
        .take(most)
        .read_to_end(&mut plain)
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if plain.len() > limit {
        return Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(plain)
}

/// Events, arrays of them, or several of either one after the other, as lines.
fn lines(body: &[u8]) -> serde_json::Result<(Vec<u8>, u64)> {
    let mut lines = Vec::with_capacity(body.len() + 1);
    let mut events = 0;
    let mut line = |event: &serde_json::Value| {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
        events += 1;
        serde_json::Result::Ok(())
    };
    for value in serde_json::Deserializer::from_slice(body).into_iter() {
        match value? {
            serde_json::Value::Array(batch) => batch.iter().try_for_each(&mut line)?,
            event => line(&event)?,
        }
    }
    Ok((lines, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_becomes_one_line_for_each_event() {
        let (text, events) = lines(b"[{\"id\":\"a\\nb\"},\n {\"id\":2}]").unwrap();
        assert_eq!(
            (text.as_slice(), events),
            (&b"{\"id\":\"a\\nb\"}\n{\"id\":2}\n"[..], 2)
        );
        assert_eq!(lines(b"{\"id\":1}").unwrap().1, 1);
        let two = b"{\"id\":1}\n{\"id\":2}\n";
        assert_eq!(lines(two).unwrap(), (two.to_vec(), 2));
        assert!(lines(b"{\"id\":1}\n{").is_err());
        assert_eq!(lines(b"[]").unwrap(), (Vec::new(), 0));
        assert!(lines(b"[{]").is_err());
    }

    #[test]
    fn a_body_that_unpacks_beyond_the_limit_is_refused() {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zip.write_all(&vec![b' '; 1_000_000]).unwrap();
        let bomb = zip.finish().unwrap();
        assert_eq!(unzip(&bomb, 1_000_000).unwrap().len(), 1_000_000);
        assert_eq!(
            unzip(&bomb, 999_999).unwrap_err().0,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            unzip(b"no gzip", 10).unwrap_err().0,
            StatusCode::BAD_REQUEST
        );
    }
}
