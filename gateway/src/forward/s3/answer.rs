//! What an answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 503 SlowDown, 429 | slow down |
//! | 501, 505: what it does not know | needs a person |
//! | 5xx; 400 of a request that broke on its way; 409 of another one at work | away |
//! | any other 4xx; 3xx: the bucket is elsewhere | needs a person |

use crate::forward::{aws::in_short, destination::Error};

/// How long to wait when the service asks to slow down and does not say for how long.
const SLOW_DOWN: std::time::Duration = std::time::Duration::from_secs(1);

/// What an answer that is no success means, with its body in XML.
pub(super) fn refused(status: u16, body: &str) -> Error {
    const BROKE: [&str; 5] = [
        "BadDigest",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentSHA256Mismatch",
    ];
    const SLOWER: [&str; 3] = ["RequestLimitExceeded", "SlowDown", "TooManyRequests"];
    let code = code(body).unwrap_or("no code");
    let message = in_short(element(body, "Message").unwrap_or("no message"));
    let reason = format!("{status} {code}: {message}");
    match status {
        429 => slower(reason),
        _ if SLOWER.contains(&code) => slower(reason),
        501 | 505 => Error::Misconfigured(reason),
        500.. | 408 => Error::unavailable(reason),
        _ if BROKE.contains(&code) => Error::unavailable(reason),
        300..=399 => Error::Misconfigured(format!(
            "{reason}; the bucket may be in another region{}",
            element(body, "Endpoint").map_or_else(String::new, |host| format!(" ({host})"))
        )),
        _ => Error::Misconfigured(reason),
    }
}

/// What it says is wrong, in a word.
pub(super) fn code(body: &str) -> Option<&str> {
    element(body, "Code")
}

const fn slower(reason: String) -> Error {
    Error::Unavailable {
        reason,
        retry_after: Some(SLOW_DOWN),
    }
}

/// The text of the first element of this name.
fn element<'b>(body: &'b str, name: &str) -> Option<&'b str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_states_say_who_has_to_do_something() {
        let of = |status, code: &str| {
            refused(
                status,
                &format!("<Error><Code>{code}</Code><Message>m</Message></Error>"),
            )
        };
        for (status, code) in [
            (403, "AccessDenied"),
            (404, "NoSuchBucket"),
            (403, "RequestTimeTooSkewed"),
            (301, "PermanentRedirect"),
            (400, "InvalidArgument"),
            (501, "NotImplemented"),
        ] {
            let error = of(status, code);
            assert!(matches!(error, Error::Misconfigured(_)), "{error:?}");
        }
        for (status, code) in [
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (409, "OperationAborted"),
        ] {
            let error = of(status, code);
            let known = matches!(
                error,
                Error::Unavailable {
                    retry_after: None,
                    ..
                }
            );
            assert!(known, "{error:?}");
        }
        let error = of(503, "SlowDown");
        let Error::Unavailable {
            reason,
            retry_after: Some(_),
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(reason, "503 SlowDown: m");
        assert_eq!(refused(403, "").to_string(), "403 no code: no message");
    }
}
