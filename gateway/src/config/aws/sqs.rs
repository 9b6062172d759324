//! A queue: the keys of `[[destination]]` with `type = "sqs"`.

use super::{address, batching, is_name, read_account};
use crate::{
    config::reader::Table,
    forward::{Kind, sqs},
};

/// Reads the destination.
pub(in crate::config) fn read(table: &Table<'_, '_, '_>) -> Option<Kind> {
    let example = "\"https://sqs.eu-central-1.amazonaws.com/123456789012/telemetry\"";
    let queue = table.required("queue", example);
    let queue = queue.and_then(|text| table.parse("queue", &text, name));
    let default = sqs::Config::new(queue.clone().unwrap_or_default());
    let mut batching = batching::read(table, "message_bytes_max", &default.batching);
    let is_fifo = queue.is_none() || default.is_fifo();
    batching.order = batching::read_order(table, is_fifo, batching.order);
    let config = sqs::Config {
        account: read_account(table),
        batching,
        queue: queue?,
    };
    Some(Kind::Sqs(config))
}

fn name(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 80;
    let (name, fits) = match text.contains("://") {
        true => (
            text.rsplit('/').next().unwrap_or_default(),
            address(text).is_ok(),
        ),
        false => (text, true),
    };
    let plain = name.strip_suffix(".fifo").unwrap_or(name);
    match fits && name.len() <= NAME_MAX && is_name(plain, "_-", NAME_MAX) {
        true => Ok(text.to_owned()),
        false => Err(
            "a queue is its URL, such as \"https://sqs.eu-central-1.amazonaws.com/123456789012/telemetry\", or its name, 1 to 80 letters, digits, \"-\" and \"_\", with \".fifo\" at the end of a FIFO queue's",
        ),
    }
}
