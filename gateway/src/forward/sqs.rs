//! An Amazon SQS queue.
//!
//! Each event is a message: `CloudEvents` JSON, with attributes to filter and dedupe by. A
//! standard queue may hand a message out twice and in any order, and refuses no copy. A FIFO
//! queue gets the partition key as the message's group and the idempotency key as its
//! identity: it keeps the order of a group, and refuses a copy for five minutes.
//!
//! A request has ten messages at most, each with an answer of its own; of a FIFO queue one
//! of each group, or a message that failed would be overtaken ([`super::aws`]).

use std::{pin::Pin, sync::Arc};

use aws_sdk_sqs::{
    Client,
    types::{MessageAttributeValue, SendMessageBatchRequestEntry},
};
use tokio::sync::OnceCell;

use super::{
    aws::{
        self, Account, Answer, Batching, Fault, Requests, Service, TooLarge, Unit,
        message::{self, ATTRIBUTE_TYPE, Groups},
    },
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcomes},
};

/// How messages are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The queue's URL, or its name in the account whose credentials are used.
    pub queue: String,
    /// Whose it is, and where.
    pub account: Account,
    /// How messages are put together.
    pub batching: Batching,
}

/// What a message may have, and all of a request (since 2025).
const BYTES_MAX: usize = 1024 * 1024;

impl Config {
    /// The configured defaults: what the service allows.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            account: Account::default(),
            batching: Batching::of_bytes(BYTES_MAX),
        }
    }

    /// Whether the queue keeps an order.
    pub fn is_fifo(&self) -> bool {
        message::is_fifo(&self.queue)
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        self.batching.check("message_bytes_max")
    }
}

/// The SQS destination.
#[derive(Debug)]
pub(super) struct Sqs(Requests<Queue>);

/// The queue.
#[derive(Debug)]
struct Queue {
    config: Config,
    client: OnceCell<Connected>,
    groups: Groups,
}

/// A client, and the queue's URL.
#[derive(Debug, Clone)]
struct Connected {
    client: Client,
    url: String,
}

impl Sqs {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self(Requests::new(Queue {
            config,
            client: OnceCell::new(),
            groups: Groups::default(),
        })))
    }
}

impl Queue {
    async fn connect(&self) -> Result<Connected, Error> {
        let client = Client::new(&self.config.account.load().await?);
        let queue = &self.config.queue;
        if queue.contains("://") {
            let url = queue.clone();
            return Ok(Connected { client, url });
        }
        let found = Box::pin(client.get_queue_url().queue_name(queue).send()).await;
        let found = found.map_err(|error| Error::from(aws::fault(&error)))?;
        match found.queue_url {
            Some(url) => Ok(Connected { client, url }),
            None => Err(Error::unavailable(format!("no URL of the queue {queue}"))),
        }
    }

    fn entry(
        &self,
        id: usize,
        unit: &Unit,
        items: &[Item],
    ) -> Result<SendMessageBatchRequestEntry, Fault> {
        let item = message::item(unit, items);
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(id.to_string())
            .message_body(message::body(unit));
        for (name, value) in message::attributes(&item.view().attributes) {
            let value = MessageAttributeValue::builder()
                .data_type(ATTRIBUTE_TYPE)
                .string_value(value)
                .build();
            entry = entry.message_attributes(name, value.map_err(unfit)?);
        }
        if self.config.is_fifo() {
            entry = entry
                .message_group_id(&*unit.key)
                .message_deduplication_id(message::identity(item));
        }
        entry.build().map_err(unfit)
    }
}

fn unfit(error: impl std::error::Error) -> Fault {
    Fault::Refused(error.to_string())
}

impl Service for Queue {
    type Client = Connected;

    fn limits(&self) -> aws::Limits {
        self.config.batching.requests(self.config.is_fifo())
    }

    fn units(&self, items: &[Item]) -> (Vec<Unit>, TooLarge) {
        message::units(items, &self.config.batching)
    }

    async fn client(&self) -> Result<&Connected, Error> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn put(
        &self,
        connected: &Connected,
        items: &[Item],
        units: &[Arc<Unit>],
    ) -> Result<Vec<Answer>, Fault> {
        let numbered = units.iter().enumerate();
        let entries: Result<Vec<_>, _> = numbered
            .map(|(id, unit)| self.entry(id, unit, items))
            .collect();
        let request = connected.client.send_message_batch();
        let request = request
            .queue_url(&connected.url)
            .set_entries(Some(entries?));
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| aws::fault(&error))?;
        let taken = answer.successful.iter().map(|one| one.id());
        let failed = answer.failed.iter().map(|one| {
            let message = one.message().unwrap_or("no message");
            (one.id(), one.code(), message, one.sender_fault())
        });
        self.groups
            .answers(units, self.config.is_fifo(), taken, failed)
    }
}

impl Destination for Sqs {
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
