//! An HTTP endpoint.
//!
//! A batch is one POST of events in the configured [`Form`](form::Form), an array of
//! `CloudEvents` unless said otherwise, gzipped if
//! configured, under an `Idempotency-Key` that is made of the keys of its
//! events: the identical batch goes again under the same key, until an answer
//! says what became of it, and so does the part of a batch that was refused whole. One request at a time, because order would be lost
//! between two; forms of one event each have several under way, of different partition
//! keys ([`each`]). Redirects are not followed.
//!
//! What an answer means is in [`reply`] and [`answers`]; a batch that is refused is halved
//! until the record that is to blame stands alone. Who we are says [`auth`].

mod answers;
mod auth;
mod client;
mod config;
mod each;
mod form;
mod reply;
mod signature;
mod template;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reqwest::{
    Client, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use tokio::time::Instant;

use self::{auth::Authorizer, client::Clients, form::Encoded, reply::Reply, signature::Signer};
use super::{
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    refusals::{Refusals, probes},
};
use crate::clock::Clock;

pub use config::{
    Answers, Auth, Between, Config, Form, Meaning, Oauth2, Proxy, Signature, Template,
};

/// The HTTP destination.
pub(super) struct Http {
    config: Config,
    url: Url,
    clients: Clients,
    authorizer: Authorizer,
    signer: Option<Signer>,
    /// What no reason may show.
    secrets: Vec<String>,
    clock: Arc<dyn Clock>,
    refusals: Mutex<Refusals>,
    /// What was posted last and not answered: it goes again as it was.
    in_doubt: Mutex<Option<Batch>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What there is beside it has secrets.
        f.debug_tuple("Http").field(&self.config).finish()
    }
}

impl Http {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, super::Error> {
        config.check()?;
        let signer = config.signature.as_ref().map(Signer::new).transpose();
        let http = Self {
            url: config.target()?,
            clients: Clients::default(),
            authorizer: Authorizer::new(config.auth.clone()),
            signer: signer.map_err(super::Error::Config)?,
            secrets: config.secrets(),
            config,
            clock,
            refusals: Mutex::default(),
            in_doubt: Mutex::default(),
        };
        Ok(http)
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
        if self.config.form.takes_one() {
            return self.deliver_each(batch, proven).await;
        }
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

    /// Posts it once; twice where a token was refused that another may be better than.
    async fn post(&self, part: &Batch) -> Result<Reply, Error> {
        let client = self.clients.get(&self.config)?;
        let encoded = self.encode(part).await?;
        let mut asked_again = false;
        let reply = loop {
            let token = self.authorizer.header(&client, &*self.clock).await?;
            let mut headers = encoded.headers.clone();
            if let Some(token) = &token {
                headers.insert(AUTHORIZATION, token.clone());
            }
            let (unauthorized, reply) = self.post_once(&client, part, headers, &encoded).await;
            let may_help = unauthorized && !asked_again;
            if !may_help || !self.authorizer.is_refused(token.as_ref()).await {
                break reply;
            }
            asked_again = true;
        };
        self.note(part, &reply);
        self.conceal(reply).await
    }

    /// What has an answer is not in doubt any more, and what has none is.
    fn note(&self, part: &Batch, reply: &Result<Reply, Error>) {
        if self.config.form.takes_one() {
            // It is what it was in any case.
            return;
        }
        match reply {
            // What it was the last time remains open.
            Ok(Reply::Throttled(_)) | Err(Error::Misconfigured(_) | Error::Refusing { .. }) => {}
            Ok(_) => {
                let key = part.items[0].record().key;
                let answered = |doubt: &mut Batch| doubt.items[0].record().key == key;
                self.in_doubt().take_if(answered);
            }
            Err(Error::Unavailable { .. }) => *self.in_doubt() = Some(part.clone()),
        }
    }

    /// Takes secrets out of what an endpoint said.
    async fn conceal(&self, reply: Result<Reply, Error>) -> Result<Reply, Error> {
        if self.secrets.is_empty() {
            return reply;
        }
        let hide = async |mut text: String| {
            for secret in &self.secrets {
                text = text.replace(secret.as_str(), "***");
            }
            self.authorizer.conceal(text).await
        };
        Ok(match reply {
            Ok(Reply::Outcomes(mut outcomes)) => {
                for outcome in &mut outcomes {
                    if let Outcome::Permanent(reason) | Outcome::Transient(reason) = outcome {
                        *reason = hide(std::mem::take(reason)).await;
                    }
                }
                Reply::Outcomes(outcomes)
            }
            Ok(Reply::Refused(reason)) => Reply::Refused(hide(reason).await),
            Err(Error::Misconfigured(reason)) => {
                return Err(Error::Misconfigured(hide(reason).await));
            }
            Err(Error::Unavailable {
                reason,
                retry_after,
            }) => {
                return Err(Error::Unavailable {
                    reason: hide(reason).await,
                    retry_after,
                });
            }
            other => return other,
        })
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn in_doubt(&self) -> MutexGuard<'_, Option<Batch>> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn encode(&self, part: &Batch) -> Result<Encoded, Error> {
        let (form, gzip) = (self.config.form.clone(), self.config.gzip);
        let mut encoded = if part.items.len() == 1 {
            form.encode(&part.items, gzip)
        } else {
            let items = part.items.clone();
            let encoding = tokio::task::spawn_blocking(move || form.encode(&items, gzip));
            let failed = |error| Error::unavailable(format!("encode a batch: {error}"));
            encoding.await.map_err(failed)?
        };
        let key = idempotency_key(part);
        let key = key.try_into().expect("hex digits can be in a header");
        encoded.headers.insert("idempotency-key", key);
        Ok(encoded)
    }

    /// Also says whether the answer was that we are not who may do this (401).
    async fn post_once(
        &self,
        client: &Client,
        part: &Batch,
        mut headers: HeaderMap,
        encoded: &Encoded,
    ) -> (bool, Result<Reply, Error>) {
        if let Some(signer) = &self.signer {
            signer.sign(self.clock.now(), &encoded.body, &mut headers);
        }
        let request = client
            .post(self.url.clone())
            .headers(headers)
            .body(encoded.body.clone());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return (false, Err(away(error))),
        };
        let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        let form = &self.config.form;
        let meaning = |status, says_when| {
            let answers = &self.config.answers;
            answers.meaning(status, says_when, form.is_in_headers())
        };
        let now = self.clock.now();
        let reply = reply::read(response, part.items.len(), now, meaning).await;
        (unauthorized, reply)
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
