//! What reaches Amazon's services: whose account, and the keys of each destination there.

#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
mod batching;
#[cfg(feature = "eventbridge")]
mod eventbridge;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "sns")]
mod sns;
#[cfg(feature = "sqs")]
mod sqs;

use std::time::Duration;

use super::reader::{Table, Text};
#[cfg(feature = "aws-requests")]
use crate::forward::aws::Order;
use crate::forward::{
    Kind,
    aws::{Account, DEDUPLICATES_FOR, Keys},
};

#[cfg(feature = "eventbridge")]
pub(super) use eventbridge::read as read_eventbridge;
#[cfg(feature = "kinesis")]
pub(super) use kinesis::read as read_kinesis;
#[cfg(feature = "s3")]
pub(super) use s3::read as read_s3;
#[cfg(feature = "sns")]
pub(super) use sns::read as read_sns;
#[cfg(feature = "sqs")]
pub(super) use sqs::read as read_sqs;

const MILLI: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Longest time that a batch waits to fill.
const LINGER_MAX: Duration = Duration::from_secs(3_600);
/// What is kept of the order.
#[cfg(feature = "aws-requests")]
const ORDERS: [(&str, Order); 2] = [("strict", Order::Strict), ("relaxed", Order::Relaxed)];

fn read_account(table: &Table<'_, '_, '_>) -> Account {
    let default = Account::default();
    let endpoint = table.text("endpoint");
    let endpoint = endpoint.and_then(|text| table.parse("endpoint", &text, address));
    let region = table.text("region");
    let region = region.and_then(|text| table.parse("region", &text, region_name));
    Account {
        region,
        endpoint,
        profile: table.text("profile").map(|text| text.value),
        keys: read_keys(table),
        timeout: table.duration("timeout", MILLI..=DAY, default.timeout),
        connect_timeout: table.duration("connect_timeout", MILLI..=DAY, default.connect_timeout),
    }
}

fn read_keys(table: &Table<'_, '_, '_>) -> Option<Keys> {
    const ID: &str = "access_key_id";
    const SECRET: &str = "secret_access_key";
    const TOKEN: &str = "session_token";
    let (id, secret, token) = (table.text(ID), table.text(SECRET), table.text(TOKEN));
    let wrong = |key: &str, what: &str| table.mistake(table.span(key).as_ref(), key, what);
    if id.is_some() != secret.is_some() {
        let key = if id.is_some() { ID } else { SECRET };
        let what = "access_key_id and secret_access_key go together; the other one is missing";
        wrong(key, what);
    }
    if token.is_some() && id.is_none() {
        let what = "goes with access_key_id and secret_access_key, which are missing";
        wrong(TOKEN, what);
    }
    if id.is_some() && table.span("profile").is_some() {
        let what = "either profile, or access_key_id and secret_access_key";
        wrong("profile", what);
    }
    let value = |text: Text| text.value;
    Some(Keys {
        id: value(id?),
        secret: value(secret?).into(),
        token: token.map(|text| text.value.into()),
    })
}

fn region_name(text: &str) -> Result<String, &'static str> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !text.is_empty() && text.chars().all(word) {
        true => Ok(text.to_owned()),
        false => Err("a region has lower-case letters, digits and \"-\", such as \"eu-central-1\""),
    }
}

fn address(text: &str) -> Result<String, &'static str> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        true => Ok(text.to_owned()),
        false => Err("an endpoint is a URL that begins with http:// or https://"),
    }
}

/// What works, and is probably not what is wanted.
pub(super) fn warnings(kind: &Kind, retry_max: Duration) -> Vec<String> {
    let (account, is_fifo) = match kind {
        #[cfg(feature = "eventbridge")]
        Kind::EventBridge(config) => (&config.account, false),
        #[cfg(feature = "kinesis")]
        Kind::Kinesis(config) => (&config.account, false),
        #[cfg(feature = "s3")]
        Kind::S3(config) => (&config.account, false),
        #[cfg(feature = "sns")]
        Kind::Sns(config) => (&config.account, config.is_fifo()),
        #[cfg(feature = "sqs")]
        Kind::Sqs(config) => (&config.account, config.is_fifo()),
        _ => return Vec::new(),
    };
    let mut warnings = Vec::new();
    #[cfg(feature = "eventbridge")]
    if matches!(kind, Kind::EventBridge(config) if !config.check_bus) {
        let what = "with check_bus = false events for a bus that is not there are lost, and count as delivered";
        warnings.push(what.to_owned());
    }
    let has_token = account
        .keys
        .as_ref()
        .is_some_and(|keys| keys.token.is_some());
    let overheard = |endpoint: &String| super::auth::is_overheard(endpoint, "http://");
    if has_token && account.endpoint.as_ref().is_some_and(overheard) {
        let what = "session_token goes to another machine in the clear; use https://";
        warnings.push(what.to_owned());
    }
    if is_fifo {
        warnings.extend(identity_warning(account, retry_max));
    }
    warnings
}

/// Said where a message that was not answered may go again only after its identity was
/// forgotten, while the service is there.
fn identity_warning(account: &Account, retry_max: Duration) -> Option<String> {
    // Of two attempts the first may have been taken at its beginning.
    let apart = 2 * account.timeout + retry_max;
    (apart > DEDUPLICATES_FOR).then(|| {
        format!(
            "a message goes again up to {} s after it was sent, and its identity is known for {} s: lower timeout or retry_max",
            apart.as_secs(),
            DEDUPLICATES_FOR.as_secs()
        )
    })
}

/// The larger of two sizes must not be the smaller one.
#[cfg(feature = "aws-requests")]
fn check_fits(table: &Table<'_, '_, '_>, part: &str, part_bytes: u64, whole_bytes: u64) {
    const WHOLE: &str = "request_bytes";
    if part_bytes > whole_bytes {
        let key = match table.span(part) {
            Some(_) => part,
            None => WHOLE,
        };
        let what = format!("{part} should be at most {WHOLE}");
        table.mistake(table.span(key).as_ref(), key, what);
    }
}

/// What has a name in an account: letters, digits, and some signs.
fn is_name(text: &str, signs: &str, most: usize) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    (1..=most).contains(&text.len()) && text.chars().all(word)
}

#[cfg(test)]
#[cfg(all(feature = "eventbridge", feature = "sns", feature = "sqs"))]
mod tests;
