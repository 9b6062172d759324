//! An Amazon SNS topic, which hands each event on to all its subscriptions.
//!
//! Each event is a message: `CloudEvents` JSON, with attributes for filter policies. A
//! standard topic keeps no order and refuses no copy. A FIFO topic gets the partition key as
//! the message's group and the idempotency key as its identity: it keeps the order of a
//! group, and refuses a copy for five minutes.
//!
//! A request has ten messages at most, each with an answer of its own; to a FIFO topic one
//! of each group, or a message that failed would be overtaken ([`super::aws`]).

use std::{pin::Pin, sync::Arc};

use aws_sdk_sns::{
    Client,
    types::{MessageAttributeValue, PublishBatchRequestEntry},
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

/// How messages are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The topic's ARN.
    pub topic: String,
    /// Whose it is, and where.
    pub account: Account,
    /// How messages are put together.
    pub batching: Batching,
}

/// What a message may have, and all of a request, where the topic's own limit was not raised.
const BYTES_MAX: usize = 256 * 1024;

impl Config {
    /// The configured defaults: what the service allows where nothing was raised.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            account: Account::default(),
            batching: Batching::of_bytes(BYTES_MAX),
        }
    }

    /// Whether the topic keeps an order.
    pub fn is_fifo(&self) -> bool {
        message::is_fifo(&self.topic)
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        self.batching.check("message_bytes_max")
    }
}

/// The SNS destination.
#[derive(Debug)]
pub(super) struct Sns(Requests<Topic>);

/// The topic.
#[derive(Debug)]
struct Topic {
    config: Config,
    client: OnceCell<Client>,
    groups: Groups,
}

impl Sns {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self(Requests::new(Topic {
            config,
            client: OnceCell::new(),
            groups: Groups::default(),
        })))
    }
}

impl Topic {
    fn entry(
        &self,
        id: usize,
        unit: &Unit,
        items: &[Item],
    ) -> Result<PublishBatchRequestEntry, Fault> {
        let item = message::item(unit, items);
        let mut entry = PublishBatchRequestEntry::builder()
            .id(id.to_string())
            .message(message::body(unit));
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

impl Service for Topic {
    type Client = Client;

    fn limits(&self) -> aws::Limits {
        self.config.batching.requests(self.config.is_fifo())
    }

    fn units(&self, items: &[Item]) -> (Vec<Unit>, TooLarge) {
        message::units(items, &self.config.batching)
    }

    async fn client(&self) -> Result<&Client, Error> {
        let made = self.client.get_or_try_init(|| async {
            let loaded = self.config.account.load().await?;
            Ok::<_, Error>(Client::new(&loaded))
        });
        made.await
    }

    async fn put(
        &self,
        client: &Client,
        items: &[Item],
        units: &[Arc<Unit>],
    ) -> Result<Vec<Answer>, Fault> {
        let numbered = units.iter().enumerate();
        let entries: Result<Vec<_>, _> = numbered
            .map(|(id, unit)| self.entry(id, unit, items))
            .collect();
        let request = client.publish_batch().topic_arn(&self.config.topic);
        let request = request.set_publish_batch_request_entries(Some(entries?));
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| aws::fault(&error))?;
        let taken = answer.successful().iter().filter_map(|one| one.id());
        let failed = answer.failed().iter().map(|one| {
            let message = one.message().unwrap_or("no message");
            (one.id(), one.code(), message, one.sender_fault())
        });
        self.groups
            .answers(units, self.config.is_fifo(), taken, failed)
    }
}

impl Destination for Sns {
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
