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
#[cfg(feature = "opensearch")]
mod bulk;
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
#[cfg(feature = "opensearch")]
use reqwest::{Method, header::CONTENT_TYPE};
use tokio::time::Instant;

use self::{auth::Authorizer, client::Clients, form::Encoded, signature::Signer};
use super::{
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    halving::{self, Post, Reply},
    refusals::Refusals,
};
use crate::clock::Clock;

#[cfg(feature = "opensearch")]
pub use bulk::{Bulk, Index};
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
    /// Of a cluster that documents go to.
    #[cfg(feature = "opensearch")]
    health: Mutex<bulk::Health>,
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
            #[cfg(feature = "opensearch")]
            health: Mutex::default(),
            in_doubt: Mutex::default(),
        };
        Ok(http)
    }

    /// Delivers the batch; single records of it where the endpoint may be at fault.
    async fn deliver(&self, batch: Batch) -> Outcomes {
        let probing = self.refusals().is_probing(Instant::now())?;
        // What is in doubt goes again as it was, before anything else.
        if probing && self.in_doubt().is_none() {
            halving::probe(self, &batch).await
        } else {
            self.deliver_all(&batch, false).await
        }
    }

    /// An endpoint that has just been `proven` to take records is not at fault whatever it
    /// refuses.
    async fn deliver_all(&self, batch: &Batch, proven: bool) -> Outcomes {
        match self.config.form.takes_one() {
            true => self.deliver_each(batch, proven).await,
            false => halving::deliver_all(self, batch, proven).await,
        }
    }

    /// Posts it once; twice where a token was refused that another may be better than.
    async fn request(&self, part: &Batch) -> Result<Reply, Error> {
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

    /// Takes secrets out of a text that came from outside.
    async fn hide(&self, mut text: String) -> String {
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        self.authorizer.conceal(text).await
    }

    /// Takes secrets out of what an endpoint said.
    async fn conceal(&self, reply: Result<Reply, Error>) -> Result<Reply, Error> {
        if self.secrets.is_empty() {
            return reply;
        }
        let hide = async |text: String| self.hide(text).await;
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
        #[cfg_attr(
            not(feature = "opensearch"),
            allow(unused_mut, reason = "others read as this says")
        )]
        let mut reading = reply::Reading {
            records: part.items.len(),
            now: self.clock.now(),
            bytes_max: reply::BODY_BYTES_MAX,
            outcomes: None,
            meaning: &meaning,
        };
        #[cfg(feature = "opensearch")]
        let bulk = |body: &[u8], records| {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            bulk::outcomes(body, records, &mut health)
        };
        #[cfg(feature = "opensearch")]
        if let Form::Bulk(_) = form {
            // It names each document, and quotes what was wrong in it, twice and escaped.
            let sent = part.items.iter().map(|item| item.record().body.len());
            reading.bytes_max += 16 * sent.sum::<usize>();
            reading.outcomes = Some(&bulk);
        }
        (unauthorized, reply::read(response, reading).await)
    }
}

#[cfg(feature = "opensearch")]
impl Http {
    /// Asks something beside the events, below the configured address's host. Gives the
    /// status and the beginning of the answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: Url,
        json: Option<String>,
    ) -> Result<(StatusCode, String), Error> {
        let client = self.clients.get(&self.config)?;
        let mut request = client.request(method, url);
        let token = self.authorizer.header(&client, &*self.clock).await?;
        if let Some(token) = &token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(json);
        }
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let said = reply::said(response).await?;
        let said = self.hide(said).await;
        if status == StatusCode::UNAUTHORIZED {
            // The next time with another token, where there are others.
            self.authorizer.is_refused(token.as_ref()).await;
        }
        Ok((status, said))
    }
}

impl Post for Http {
    async fn post(&self, part: &Batch) -> Result<Reply, Error> {
        self.request(part).await
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // Nothing that holds the lock panics, so a poisoned one is as good.
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

    async fn deliver_proven(&self, batch: &Batch) -> Outcomes {
        self.deliver_all(batch, true).await
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
    // A tunnel that a proxy refuses is no answer of the endpoint's; as a status it would
    // need a person too.
    match reason.contains("proxy authorization required") {
        true => Error::Misconfigured(reason),
        false => Error::unavailable(reason),
    }
}

#[cfg(test)]
mod tests;
