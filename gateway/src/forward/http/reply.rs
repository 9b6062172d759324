//! What an answer means for the batch.
//!
//! The meaning of a status is by default (what is configured comes first):
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | all acknowledged, but for records that the body names |
//! | 207 | the body names each record that was not taken |
//! | 2xx or 207 whose names cannot be read, or JSON over 1 MiB | away |
//! | 400, 413, 422 | a record in it is to blame, or its size |
//! | 429, or 503 with `Retry-After` | slow down |
//! | 409 | the first request under this key may still be at work: away |
//! | 408, 425, other 5xx | away |
//! | 3xx, other 4xx | needs a person |
//!
//! A body that names records: `{"items":[{"index":3,"status":422,"error":"..."}]}`
//! with `application/json`, where `status` reads as above for that one record,
//! except that 409 says that the record is there already: acknowledged.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
};
use serde::Deserialize;

use super::{Error, Meaning, Outcome, Outcomes, Reply, away};
use crate::event::Timestamp;

/// More of an answer is not read.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How much of an answer is shown in a reason.
const SHOWN: usize = 200;
/// No destination makes us wait longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(900);

/// Finds in a body what became of each of so many records.
pub(super) type Names<'a> = dyn Fn(&[u8], usize) -> Outcomes + Sync + 'a;

/// What an answer is read by.
pub(super) struct Reading<'a> {
    /// How many records were sent.
    pub(super) records: usize,
    pub(super) now: Timestamp,
    /// More of it is not read.
    pub(super) bytes_max: usize,
    /// For bodies of another form than [`parse`] reads.
    pub(super) outcomes: Option<&'a Names<'a>>,
    /// What a status means; hears whether the answer says how long to wait.
    pub(super) meaning: &'a (dyn Fn(u16, bool) -> Meaning + Sync),
}

/// Reads the answer to a batch.
pub(super) async fn read(mut response: Response, by: Reading<'_>) -> Result<Reply, Error> {
    let Reading { records, now, .. } = by;
    let status = response.status();
    let retry_after = retry_after(response.headers(), now);
    let is_json = is_json(response.headers());
    let location = response.headers().get(LOCATION).cloned();
    let (body, whole) = body(&mut response, by.bytes_max).await?;
    let reason = || describe(status, &body);
    match (by.meaning)(status.as_u16(), retry_after.is_some()) {
        Meaning::Acknowledged => {
            if let Some(outcomes) = by.outcomes {
                if !whole {
                    // The parts have shorter answers, and what was taken is known again.
                    let reason = format!("an answer of more than {} bytes", by.bytes_max);
                    return Ok(Reply::Refused(reason));
                }
                return outcomes(&body, records).map(Reply::Outcomes);
            }
            // Only what says nothing of records speaks for all of them.
            let named = match parse(&body, records) {
                Parsed::Outcomes(outcomes) if whole && (is_json || status == 207) => Some(outcomes),
                Parsed::Other if whole && status != 207 => None,
                _ if !is_json && status != 207 => None,
                _ => {
                    let reason = format!("an answer that cannot be read: {}", reason());
                    return Err(Error::unavailable(reason));
                }
            };
            Ok(Reply::Outcomes(
                named.unwrap_or_else(|| vec![Outcome::Acknowledged; records]),
            ))
        }
        Meaning::Refused => Ok(Reply::Refused(reason())),
        Meaning::Throttled => Ok(Reply::Throttled(retry_after)),
        Meaning::Unavailable => Err(Error::Unavailable {
            reason: reason(),
            retry_after,
        }),
        Meaning::Stop if status.is_redirection() => {
            let to = location.as_ref().and_then(|to| to.to_str().ok());
            let to = to.unwrap_or("an address that it does not give");
            Err(Error::Misconfigured(format!("{status}: redirects to {to}")))
        }
        Meaning::Stop => Err(Error::Misconfigured(reason())),
    }
}

/// Status and beginning of an answer, in words.
#[cfg(feature = "opensearch")]
pub(super) async fn said(mut response: Response) -> Result<String, Error> {
    let status = response.status();
    let (body, _) = body(&mut response, BODY_BYTES_MAX).await?;
    Ok(describe(status, &body))
}

/// The beginning of the body, and whether that is all of it.
async fn body(response: &mut Response, bytes_max: usize) -> Result<(Vec<u8>, bool), Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(away)? {
        if body.len() + chunk.len() > bytes_max {
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

/// What a body says of the records.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Outcomes(Vec<Outcome>),
    /// It names records in a way that cannot be read.
    Unreadable,
    /// It is about something else.
    Other,
}

#[derive(Deserialize)]
struct NamedItem {
    index: usize,
    status: u16,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    retry_after: Option<u64>,
}

fn parse(body: &[u8], records: usize) -> Parsed {
    let items = match serde_json::from_slice(body) {
        Ok(serde_json::Value::Object(mut object)) => object.remove("items"),
        Ok(_) => None,
        // Perhaps names, but cut off or misspelt.
        Err(_) if body.windows(7).any(|part| part == b"\"items\"") => return Parsed::Unreadable,
        Err(_) => None,
    };
    let Some(items) = items else {
        return Parsed::Other;
    };
    let Ok(items) = serde_json::from_value::<Vec<NamedItem>>(items) else {
        return Parsed::Unreadable;
    };
    let mut outcomes = vec![Outcome::Acknowledged; records];
    for item in items {
        match outcomes.get_mut(item.index) {
            Some(slot) => *slot = outcome(item),
            None => return Parsed::Unreadable,
        }
    }
    Parsed::Outcomes(outcomes)
}

fn outcome(item: NamedItem) -> Outcome {
    let reason = |error: Option<String>| match error {
        Some(error) => format!("{}: {error}", item.status),
        None => item.status.to_string(),
    };
    match item.status {
        200..=299 | 409 => Outcome::Acknowledged,
        429 => Outcome::Throttled {
            retry_after: item.retry_after.map(seconds),
        },
        408 | 425 | 500.. => Outcome::Transient(reason(item.error)),
        _ => Outcome::Permanent(reason(item.error)),
    }
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let text = text.trim().replace(char::is_control, " ");
    if text.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {text}")
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(after) = text.parse() {
        return Some(seconds(after));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let after = at.as_millisecond().saturating_sub(now.as_millis());
    Some(Duration::from_millis(u64::try_from(after).unwrap_or(0)).min(RETRY_AFTER_MAX))
}

fn seconds(after: u64) -> Duration {
    Duration::from_secs(after).min(RETRY_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_the_records_that_were_not_taken() {
        let body = br#"{"items":[{"index":1,"status":422,"error":"no unit"},
            {"index":2,"status":429,"retry_after":7},{"index":3,"status":409},
            {"index":4,"status":503}]}"#;
        let expect = vec![
            Outcome::Acknowledged,
            Outcome::Permanent("422: no unit".to_owned()),
            Outcome::Throttled {
                retry_after: Some(Duration::from_secs(7)),
            },
            Outcome::Acknowledged,
            Outcome::Transient("503".to_owned()),
            Outcome::Acknowledged,
        ];
        assert_eq!(parse(body, 6), Parsed::Outcomes(expect));
        for other in [&b"ok"[..], b"{}", b"[]", b"", br#"{"itemsTaken":3}"#] {
            assert_eq!(parse(other, 6), Parsed::Other);
        }
        for unreadable in [
            &br#"{"items":[{"index":6,"status":200}]}"#[..],
            br#"{"items":[{"index":1,"error":"no unit"}]}"#,
            br#"{"items":{"1":422}}"#,
            br#"{"items":[{"index":1,"sta"#,
        ] {
            assert_eq!(parse(unreadable, 6), Parsed::Unreadable);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_long() {
        let check = |text: &str, expect: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let now = Timestamp::from_millis(784_111_777_000);
            let after = retry_after(&headers, now);
            assert_eq!(after, expect.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        check("99999999999", Some(900));
        check("soon", None);
    }
}
