//! An HTTP endpoint that takes `CloudEvents` batches.
//!
//! A batch is one POST of `application/cloudevents-batch+json`, gzipped if
//! configured, under an `Idempotency-Key` that is made of the keys of its
//! events: the identical batch goes again under the same key, until an answer
//! says what became of it, and so does the part of a batch that was refused whole. One request at a time, because order would be lost
//! between two. Redirects are not followed.
//!
//! What an answer means is in [`reply`]; a batch that is refused is halved until
//! the record that is to blame stands alone.

mod reply;

use std::{
    io::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use reqwest::{
    Client, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::time::Instant;

use self::reply::Reply;
use super::{
    Secret,
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    refusals::{Refusals, probes},
};
use crate::{clock::Clock, event::json::BATCH_MEDIA_TYPE};

/// How batches are posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to.
    pub url: String,
    /// Compress bodies.
    pub gzip: bool,
    /// From connecting to the last byte of the reply.
    pub timeout: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
    /// Records in a batch, at most.
    pub batch_records: usize,
    /// Bytes of stored records in a batch, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// Headers added to every request.
    pub headers: Vec<(String, Secret)>,
}

impl Config {
    /// The configured defaults, posting to `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            gzip: true,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            batch_records: 500,
            batch_bytes: 1024 * 1024,
            linger: Duration::from_millis(100),
            headers: Vec::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        self.target()?;
        self.header_map().map(drop)
    }

    fn target(&self) -> Result<Url, super::Error> {
        let url = Url::parse(&self.url)
            .map_err(|error| super::Error::Config(format!("url `{}`: {error}", self.url)))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            let wrong = format!("url `{}` must begin with http:// or https://", self.url);
            return Err(super::Error::Config(wrong));
        }
        Ok(url)
    }

    fn header_map(&self) -> Result<HeaderMap, super::Error> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = |what: &str| super::Error::Config(format!("header `{name}`: {what}"));
            let header: HeaderName = name.parse().map_err(|_| wrong("not a header's name"))?;
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| wrong("its value has characters that a header cannot have"))?;
            value.set_sensitive(true);
            map.insert(header, value);
        }
        Ok(map)
    }
}

/// The HTTP destination.
#[derive(Debug)]
pub(super) struct Http {
    config: Config,
    url: Url,
    client: Client,
    clock: Arc<dyn Clock>,
    refusals: Mutex<Refusals>,
    /// What was posted last and not answered: it goes again as it was.
    in_doubt: Mutex<Option<Batch>>,
}

impl Http {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, super::Error> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An error means that there is one already, which is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let client = Client::builder()
            .default_headers(config.header_map()?)
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout)
            .redirect(Policy::none())
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| super::Error::Config(format!("http client: {error}")))?;
        Ok(Self {
            url: config.target()?,
            config,
            client,
            clock,
            refusals: Mutex::default(),
            in_doubt: Mutex::default(),
        })
    }

    /// Delivers the batch; single records of it where the endpoint may be at fault.
    async fn deliver(&self, batch: Batch) -> Outcomes {
        let probing = self.refusals().is_probing(Instant::now())?;
        // What is in doubt goes again as it was, before anything else.
        if probing && self.in_doubt().is_none() {
            self.probe(batch).await
        } else {
            self.deliver_all(&batch, false).await
        }
    }

    /// Posts the batch, or its parts if it is refused whole. Parts go in order,
    /// so that what is known is always the beginning. An endpoint that has just been
    /// `proven` to take records is not at fault whatever it refuses.
    async fn deliver_all(&self, batch: &Batch, proven: bool) -> Outcomes {
        let mut outcomes = Vec::with_capacity(batch.items.len());
        let before = self.refusals().clone();
        let mut parts = self.parts(batch);
        while let Some(part) = parts.pop() {
            match self.post(&part).await {
                Ok(Reply::Outcomes(known)) => outcomes.extend(known),
                Ok(Reply::Refused(reason)) if part.items.len() == 1 => {
                    outcomes.push(Outcome::Permanent(reason));
                }
                Ok(Reply::Refused(_)) => {
                    let (first, second) = part.halves();
                    parts.extend([second, first]);
                    continue;
                }
                Ok(Reply::Throttled(retry_after)) => {
                    outcomes.resize(batch.items.len(), Outcome::Throttled { retry_after });
                    break;
                }
                Err(error) if outcomes.is_empty() => return Err(error),
                Err(error) => {
                    outcomes.resize(batch.items.len(), Outcome::Unknown(error.to_string()));
                    break;
                }
            }
            let answered = outcomes.len() - part.items.len();
            let mut refusals = self.refusals();
            for (item, outcome) in part.items.iter().zip(&outcomes[answered..]) {
                refusals.add(item.partition_key(), outcome);
            }
            if !proven
                && refusals.are_too_many()
                && outcomes.iter().all(is_refused)
                && let Some(Outcome::Permanent(reason)) = outcomes.last()
            {
                // None of this batch is given up: it may not be to blame.
                return Err(refusals.begin(before, reason, Instant::now()));
            }
        }
        Ok(outcomes)
    }

    /// Posts the first record of one partition key after the other by itself. One
    /// that is taken shows that the endpoint works, and those before it were to
    /// blame. If none is, the first one is given up, at most: good ones may be
    /// waiting behind it.
    async fn probe(&self, batch: Batch) -> Outcomes {
        let mut refused = Vec::new();
        for at in probes(&batch.items) {
            let alone = Batch {
                items: [batch.items[at].clone()].into(),
            };
            let outcome = match self.post(&alone).await? {
                Reply::Outcomes(known) => known.into_iter().next(),
                Reply::Refused(reason) => Some(Outcome::Permanent(reason)),
                Reply::Throttled(retry_after) => Some(Outcome::Throttled { retry_after }),
            };
            match outcome {
                Some(Outcome::Permanent(reason)) => refused.push((at, reason)),
                Some(Outcome::Acknowledged) => {
                    *self.refusals() = Refusals::default();
                    return Ok(self.deliver_rest(&batch, refused, at).await);
                }
                Some(Outcome::Transient(reason) | Outcome::Unknown(reason)) => {
                    return Err(Error::unavailable(reason));
                }
                Some(throttled @ Outcome::Throttled { .. }) => {
                    return Ok(vec![throttled; batch.items.len()]);
                }
                Some(Outcome::Behind | Outcome::Paced { .. }) | None => break,
            }
        }
        self.refusals()
            .none_taken(refused, batch.items.len(), Instant::now())
    }

    /// The endpoint took the record at `taken`, and refused some before it: the
    /// others go as ever.
    async fn deliver_rest(
        &self,
        batch: &Batch,
        refused: Vec<(usize, String)>,
        taken: usize,
    ) -> Vec<Outcome> {
        let mut outcomes = vec![None; batch.items.len()];
        outcomes[taken] = Some(Outcome::Acknowledged);
        for (at, reason) in refused {
            outcomes[at] = Some(Outcome::Permanent(reason));
        }
        let open = batch.items.iter().zip(&outcomes);
        let open: Vec<Item> = open
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        let rest = if open.is_empty() {
            Vec::new()
        } else {
            let rest = Batch { items: open.into() };
            self.deliver_all(&rest, true)
                .await
                .unwrap_or_else(|error| vec![Outcome::Unknown(error.to_string()); rest.items.len()])
        };
        let mut rest = rest.into_iter();
        outcomes
            .into_iter()
            .map(|known| {
                known
                    .or_else(|| rest.next())
                    .expect("one for each that was open")
            })
            .collect()
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to post, the last first: the batch, cut so that what is in doubt is
    /// what it was.
    fn parts(&self, batch: &Batch) -> Vec<Batch> {
        let in_doubt = self.in_doubt();
        let whole = || vec![batch.clone()];
        let Some(doubt) = &*in_doubt else {
            return whole();
        };
        let key = |item: &Item| item.record().key;
        let doubtful = doubt.items.iter().map(key);
        let Some(start) = batch
            .items
            .iter()
            .position(|i| key(i) == key(&doubt.items[0]))
        else {
            return whole();
        };
        let (before, rest) = batch.items.split_at(start);
        if rest.len() < doubt.items.len()
            || !rest.iter().map(key).zip(doubtful).all(|(a, b)| a == b)
        {
            return whole();
        }
        let (doubtful, after) = rest.split_at(doubt.items.len());
        let parts = [after, doubtful, before].into_iter();
        parts
            .filter(|items| !items.is_empty())
            .map(|items| Batch {
                items: items.into(),
            })
            .collect()
    }

    async fn post(&self, part: &Batch) -> Result<Reply, Error> {
        let reply = self.post_once(part).await;
        match &reply {
            // What it was the last time remains open.
            Ok(Reply::Throttled(_)) | Err(Error::Misconfigured(_) | Error::Refusing { .. }) => {}
            Ok(_) => {
                let key = part.items[0].record().key;
                let answered = |doubt: &mut Batch| doubt.items[0].record().key == key;
                self.in_doubt().take_if(answered);
            }
            Err(Error::Unavailable { .. }) => *self.in_doubt() = Some(part.clone()),
        }
        reply
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn in_doubt(&self) -> MutexGuard<'_, Option<Batch>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post_once(&self, part: &Batch) -> Result<Reply, Error> {
        let items = part.items.clone();
        let gzip = self.config.gzip;
        let body = tokio::task::spawn_blocking(move || encode(&items, gzip)).await;
        let body = body.map_err(|error| Error::unavailable(format!("encode a batch: {error}")))?;
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, BATCH_MEDIA_TYPE)
            .header("idempotency-key", idempotency_key(part))
            .body(body);
        if gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        let response = request.send().await.map_err(away)?;
        reply::read(response, part.items.len(), self.clock.now()).await
    }
}

impl Destination for Http {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self.config.batch_records.max(1),
            batch_bytes: self.config.batch_bytes.max(1),
            linger: self.config.linger,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }
}

/// A JSON array of events. The same items give the same bytes.
fn encode(items: &[Item], gzip: bool) -> Bytes {
    let mut json = Vec::with_capacity(items.len() * 512);
    for (n, item) in items.iter().enumerate() {
        json.push(if n == 0 { b'[' } else { b',' });
        item.view().to_json(None, &mut json);
    }
    json.push(b']');
    if !gzip {
        return json.into();
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 4), Compression::fast());
    encoder
        .write_all(&json)
        .and_then(|()| encoder.finish())
        .expect("writing to memory cannot fail")
        .into()
}

fn idempotency_key(batch: &Batch) -> String {
    crate::event::Key(batch.fingerprint()).to_string()
}

const fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Permanent(_))
}

/// The request was not answered; whether it was taken is not known.
fn away(error: reqwest::Error) -> Error {
    use std::error::Error as _;
    // The address may hold a secret, and is known from the configuration.
    let error = error.without_url();
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the request failed"
    };
    // Each layer says its own; the innermost says what it is.
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    let reason = match cause {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    };
    Error::unavailable(reason)
}

#[cfg(test)]
mod tests;
