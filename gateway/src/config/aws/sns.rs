//! A topic: the keys of `[[destination]]` with `type = "sns"`.

use super::{batching, is_name, read_account};
use crate::{
    config::reader::Table,
    forward::{Kind, sns},
};

/// Reads the destination.
pub(in crate::config) fn read(table: &Table<'_, '_, '_>) -> Option<Kind> {
    let topic = table.required(
        "topic",
        "\"arn:aws:sns:eu-central-1:123456789012:telemetry\"",
    );
    let topic = topic.and_then(|text| table.parse("topic", &text, arn));
    let default = sns::Config::new(topic.clone().unwrap_or_default());
    let mut batching = batching::read(table, "message_bytes_max", &default.batching);
    let is_fifo = topic.is_none() || default.is_fifo();
    batching.order = batching::read_order(table, is_fifo, batching.order);
    let config = sns::Config {
        account: read_account(table),
        batching,
        topic: topic?,
    };
    Some(Kind::Sns(config))
}

fn arn(text: &str) -> Result<String, &'static str> {
    const NAME_MAX: usize = 256;
    let parts: Vec<&str> = text.split(':').collect();
    let fits = match parts[..] {
        ["arn", partition, "sns", region, account, name] => {
            let plain = name.strip_suffix(".fifo").unwrap_or(name);
            let known = [partition, region, account];
            known.iter().all(|part| is_name(part, "-", NAME_MAX)) && is_name(plain, "_-", NAME_MAX)
        }
        _ => false,
    };
    match fits {
        true => Ok(text.to_owned()),
        false => {
            Err("a topic is its ARN, such as \"arn:aws:sns:eu-central-1:123456789012:telemetry\"")
        }
    }
}
