//! An Amazon EventBridge event bus.
//!
//! Each event is an entry of `PutEvents`: its detail is the event as `CloudEvents` JSON, its
//! detail type the event's type, its time the event's. A bus keeps no order and refuses no
//! copy; the idempotency key is in the detail (`eventkey`).
//!
//! A request has ten entries at most, each with an answer of its own. The service answers
//! entries for a bus that is not there as if it had taken them. So the bus is asked for
//! before a batch and after it, and nothing of the batch counts as taken before the second
//! answer says that it is still the one that it was.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_eventbridge::{
    Client,
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use tokio::{sync::OnceCell, time::Instant};

use super::{
    aws::{
        self, Account, Answer, Batching, Fault, Requests, Service, Texts, TooLarge, Unit, of_entry,
    },
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcomes},
};

/// How events are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The bus, by its name or ARN.
    pub bus: String,
    /// What rules know these events by.
    pub source: String,
    /// Whether the bus is asked for. Where it is not, events for one that is not there are
    /// lost, and count as delivered.
    pub check_bus: bool,
    /// Whose it is, and where.
    pub account: Account,
    /// How entries are put together.
    pub batching: Batching,
}

/// What an entry may have, and all of a request (since 2026).
const BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an entry's time, as the service counts.
const TIME_BYTES: usize = 14;
/// How long what the bus said of itself counts for the next batch. One that is replaced
/// meanwhile shows in the answer after that batch.
const ASKED_EVERY: Duration = Duration::from_secs(10);
/// Questions that the service has no time for are asked again after so long, so often; after
/// a batch also those that got no answer, for no longer than that in all.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASKED_MAX: u32 = 10;
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);
/// Characters of a detail type, at most.
const DETAIL_TYPE_CHARS_MAX: usize = 128;

impl Config {
    /// The configured defaults: what the service allows.
    pub fn new(bus: impl Into<String>) -> Self {
        Self {
            bus: bus.into(),
            source: "penstock".to_owned(),
            check_bus: true,
            account: Account::default(),
            batching: Batching::of_bytes(BYTES_MAX),
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        self.batching.check("event_bytes_max")
    }
}

/// The EventBridge destination.
#[derive(Debug)]
pub(super) struct EventBridge(Requests<Bus>);

/// The bus.
#[derive(Debug)]
struct Bus {
    config: Config,
    client: OnceCell<Client>,
    asked: Mutex<Option<Asked>>,
}

/// The bus when it was last asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// When it was made: one of the same name that was made later is another bus.
    made: Option<DateTime>,
}

impl EventBridge {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self(Requests::new(Bus {
            config,
            client: OnceCell::new(),
            asked: Mutex::default(),
        })))
    }
}

impl Bus {
    /// Makes sure that the bus is there, before a batch.
    async fn look(&self, client: &Client) -> Result<(), Error> {
        let recent = |asked: Asked| asked.at.elapsed() < ASKED_EVERY;
        if self.config.check_bus && !self.asked().is_some_and(recent) {
            let asked = self.ask(client, false).await?;
            *self.asked() = Some(asked);
        }
        Ok(())
    }

    /// Asks for the bus. `after` a batch it is worth some patience: sent again, what was put
    /// would be there twice.
    async fn ask(&self, client: &Client, after: bool) -> Result<Asked, Error> {
        let began = Instant::now();
        let mut left = ASKED_MAX;
        loop {
            let at = Instant::now();
            let asked = client.describe_event_bus().name(&self.config.bus);
            let fault = match Box::pin(asked.send()).await {
                Ok(bus) => {
                    let made = bus.creation_time().copied();
                    return Ok(Asked { at, made });
                }
                Err(error) => aws::fault(&error),
            };
            left -= 1;
            let may_wait = after && began.elapsed() < CONFIRMED_WITHIN;
            match fault {
                Fault::Throttled if left > 0 => tokio::time::sleep(ASK_AGAIN).await,
                Fault::Unavailable(reason) if left > 0 && may_wait => {
                    tracing::debug!(reason, "the bus is asked for again");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Fault::Misconfigured(reason) if reason.starts_with("AccessDenied") => {
                    return Err(Error::Misconfigured(format!(
                        "events for a bus that is not there would be lost, and whether it is \
                         cannot be asked without the right to events:DescribeEventBus (or set \
                         check_bus = false): {reason}"
                    )));
                }
                fault => return Err(fault.into()),
            }
        }
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn asked(&self) -> std::sync::MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, unit: &Unit, items: &[Item]) -> PutEventsRequestEntry {
        let view = items[unit.items[0]].view();
        let millis = view.attributes.time.as_millis();
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.config.bus)
            .source(&self.config.source)
            .detail_type(view.attributes.kind)
            .detail(String::from_utf8_lossy(&unit.data))
            .time(DateTime::from_millis(millis))
            .build()
    }
}

fn answer(of: &PutEventsResultEntry) -> Answer {
    let message = of.error_message().unwrap_or("no message");
    match (of.event_id(), of.error_code()) {
        (_, Some(code)) => Answer::Not(of_entry(code, message, true)),
        (Some(_), None) => Answer::Taken,
        (None, None) => Answer::Not(Fault::Unavailable("neither id nor error".to_owned())),
    }
}

impl Service for Bus {
    type Client = Client;

    fn limits(&self) -> aws::Limits {
        self.config.batching.requests(false)
    }

    fn units(&self, items: &[Item]) -> (Vec<Unit>, TooLarge) {
        let mut unfit = TooLarge::new();
        let mut all = Vec::with_capacity(items.len());
        let mut texts = Texts::default();
        for (at, item) in items.iter().enumerate() {
            let view = item.view();
            let kind = view.attributes.kind;
            if kind.chars().count() > DETAIL_TYPE_CHARS_MAX {
                let reason = format!("its type has more than {DETAIL_TYPE_CHARS_MAX} characters");
                unfit.push((at, reason));
                continue;
            }
            all.push(Unit {
                key: view.attributes.partition_key().into(),
                data: texts.json(&view),
                overhead: TIME_BYTES + self.config.source.len() + kind.len(),
                items: vec![at],
            });
        }
        let (fit, too_large) = self.config.batching.sort(all.into_iter());
        unfit.extend(too_large);
        (fit, unfit)
    }

    async fn client(&self) -> Result<&Client, Error> {
        let made = self.client.get_or_try_init(|| async {
            let loaded = self.config.account.load().await?;
            Ok::<_, Error>(Client::new(&loaded))
        });
        let client = made.await?;
        self.look(client).await?;
        Ok(client)
    }

    async fn confirm(&self, client: &Client) -> Result<(), Error> {
        if !self.config.check_bus {
            return Ok(());
        }
        let before = self.asked().take();
        let after = self.ask(client, true).await?;
        *self.asked() = Some(after);
        match before.is_some_and(|before| before.made == after.made) {
            true => Ok(()),
            false => Err(Error::unavailable(
                "the bus was replaced while events were sent to it".to_owned(),
            )),
        }
    }

    async fn put(
        &self,
        client: &Client,
        items: &[Item],
        units: &[Arc<Unit>],
    ) -> Result<Vec<Answer>, Fault> {
        let entries = units.iter().map(|unit| self.entry(unit, items)).collect();
        let request = client.put_events().set_entries(Some(entries));
        let answers = Box::pin(request.send()).await;
        let answers = answers.map_err(|error| aws::fault(&error))?;
        Ok(answers.entries().iter().map(answer).collect())
    }
}

impl Destination for EventBridge {
    fn limits(&self) -> Limits {
        self.0.service().config.batching.batches()
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.0.deliver(batch))
    }

    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&self, batch: Batch) {
        self.0.prepare(batch);
    }
}

#[cfg(test)]
mod tests;
