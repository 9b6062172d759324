//! Objects in a bucket of Amazon S3, or of a server that speaks its protocol: NDJSON, one
//! `CloudEvents` JSON object per line, each with its `position` in the journal, compressed.
//!
//! An object holds the events of one batch that belong under one prefix, and is named by
//! them: when the first was received, its position, and a hash of all their keys.
//!
//! **Exactly once**: which events go into which object is written down and synced before the
//! object is put ([`plan`]). What a crash or a lost answer brings again is put together as it
//! was, and is put again where the bucket says that it is not there. Where parts of an object
//! do not come again, because the journal has dropped them since, or the batch is smaller
//! now, and it is not there, what is left goes into another object. No event of a batch is acknowledged before
//! all objects of it are there, so the journal's cursor never stands within one.
//!
//! No event fails by itself here, but one whose object would have a name that is too long.

mod answer;
mod body;
mod bucket;
mod plan;
mod prefix;

use std::{
    collections::HashSet,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use self::{
    bucket::{Bucket, Found},
    plan::{Object, Plans},
};
use super::{
    Secret,
    aws::Account,
    batch::Batch,
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    format::Format,
    notes,
};
use crate::{clock::Clock, tls};

pub use prefix::{Prefix, Time};

/// How objects are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The bucket's name.
    pub bucket: String,
    /// Whose it is, and where.
    pub account: Account,
    /// Whether the bucket's name stands in the path of addresses, not in front of the host.
    pub path_style: bool,
    /// Whom to trust.
    pub tls: tls::Files,
    /// What names begin with.
    pub prefix: Prefix,
    /// What objects look like.
    pub format: Format,
    /// Headers added to every put, such as that of a storage class.
    pub headers: Vec<(String, Secret)>,
    /// Events in an object, at most.
    pub batch_records: usize,
    /// Bytes of their stored records, about.
    pub batch_bytes: usize,
    /// How long an object gathers events.
    pub linger: Duration,
    /// Objects on their way, at most.
    pub in_flight: usize,
    /// The directory where what goes into which object is written down.
    pub plans: PathBuf,
}

impl Config {
    /// The engine has so many records in hand at most.
    pub const BATCH_RECORDS_MAX: usize = notes::BATCH_RECORDS_MAX;

    /// The configured defaults.
    pub fn new(bucket: impl Into<String>, plans: PathBuf) -> Self {
        Self {
            bucket: bucket.into(),
            account: Account::default(),
            path_style: false,
            tls: tls::Files::default(),
            prefix: Prefix::default(),
            format: Format::Gzip,
            headers: Vec::new(),
            batch_records: Self::BATCH_RECORDS_MAX,
            batch_bytes: 8 * 1024 * 1024,
            linger: Duration::from_secs(20),
            in_flight: 4,
            plans,
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        for (name, value) in &self.headers {
            bucket::check_header(name, value.expose())
                .map_err(|what| super::Error::Config(format!("header {name}: {what}")))?;
        }
        Ok(())
    }
}

/// The S3 destination.
#[derive(Debug)]
pub(super) struct S3 {
    config: Arc<Config>,
    bucket: Bucket,
    plans: Arc<Mutex<Plans>>,
    /// Objects of the batch in hand that are there.
    done: Mutex<HashSet<String>>,
}

impl S3 {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, super::Error> {
        config.check()?;
        let config = Arc::new(config);
        Ok(Self {
            bucket: Bucket::new(config.clone(), clock),
            plans: Arc::new(Mutex::new(Plans::new(config.plans.clone()))),
            done: Mutex::default(),
            config,
        })
    }

    /// Puts the batch, all of it or nothing.
    async fn deliver(&self, batch: Batch) -> Outcomes {
        self.bucket.ready().await?;
        let found = self.planned(&batch).await?;
        self.look_for(&found.objects).await?;
        let (mut planned, mut fresh) = (Vec::new(), found.unplanned);
        for object in found.objects {
            match self.done().contains(&object.name) {
                true => {}
                false if object.is_whole => planned.push(object),
                // What is left of it cannot stand for it.
                false => fresh.extend(object.items),
            }
        }
        fresh.sort_unstable();
        let (made, unfit) = self.plan(&batch, fresh).await?;
        // Those of before come first, in their order: they may have the same prefix.
        for object in planned {
            self.put(&batch, object).await?;
        }
        stream::iter(made)
            .map(|object| self.put(&batch, object))
            .buffer_unordered(self.config.in_flight.max(1))
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        self.done().clear();
        lock(&self.plans).settled(&batch);
        let mut outcomes = vec![Outcome::Acknowledged; batch.items.len()];
        for (at, reason) in unfit {
            outcomes[at] = Outcome::Permanent(reason);
        }
        Ok(outcomes)
    }

    /// Asks which of these objects are there; then they are not put again.
    async fn look_for(&self, objects: &[Object]) -> Result<(), Error> {
        let names: Vec<String> = {
            let done = self.done();
            let open = objects.iter().filter(|object| !done.contains(&object.name));
            open.map(|object| object.name.clone()).collect()
        };
        let mut denied = false;
        let mut answers = stream::iter(names)
            .map(|name| async move { (self.bucket.has(&name).await, name) })
            .buffer_unordered(self.config.in_flight.max(1));
        while let Some((answer, name)) = answers.next().await {
            match answer? {
                Found::There => {
                    self.done().insert(name);
                }
                Found::NotThere => {}
                Found::Denied => denied = true,
            }
        }
        if denied {
            tracing::warn!(
                bucket = self.config.bucket,
                "whether objects of before the start are there cannot be asked without the rights to s3:GetObject and s3:ListBucket; they are put again, and of those that do not come whole the events go into others"
            );
        }
        Ok(())
    }

    /// Which events of the batch were planned before, and for which objects.
    async fn planned(&self, batch: &Batch) -> Result<plan::Found, Error> {
        let (plans, batch) = (self.plans.clone(), batch.clone());
        blocking(move || lock(&plans).find(&batch)).await
    }

    /// Names objects for these events of the batch, and writes that down. Gives the events
    /// that no object can be named for, too.
    async fn plan(
        &self,
        batch: &Batch,
        items: Vec<usize>,
    ) -> Result<(Vec<Object>, prefix::Unfit), Error> {
        let (plans, batch, config) = (self.plans.clone(), batch.clone(), self.config.clone());
        blocking(move || {
            let (objects, unfit) = prefix::objects(&config, &batch, &items);
            lock(&plans).write(&batch, &objects)?;
            Ok((objects, unfit))
        })
        .await
    }

    async fn put(&self, batch: &Batch, object: Object) -> Result<(), Error> {
        if self.done().contains(&object.name) {
            return Ok(());
        }
        let (of_batch, items) = (batch.clone(), object.items);
        // By its name, which was perhaps given under another configuration.
        let format = Format::of_name(&object.name).map_or(Format::Plain, |(_, format)| format);
        let body = blocking(move || body::encode(&of_batch, &items, format)).await?;
        self.bucket.put(&object.name, format, body).await?;
        self.done().insert(object.name);
        Ok(())
    }

    fn done(&self) -> MutexGuard<'_, HashSet<String>> {
        lock(&self.done)
    }
}

/// Nothing that holds these locks panics, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that takes a processor or the disk a while.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::unavailable(error.to_string())),
        Err(error) => Err(Error::unavailable(format!("prepare objects: {error}"))),
    }
}

impl Destination for S3 {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self
                .config
                .batch_records
                .clamp(1, Config::BATCH_RECORDS_MAX),
            batch_bytes: self.config.batch_bytes,
            linger: self.config.linger,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }
}

#[cfg(test)]
mod tests;
