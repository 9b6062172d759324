//! What an error of a service means.
//!
//! | answer | meaning |
//! |---|---|
//! | 429; a code of throttling | slow down |
//! | validation, invalid argument, too long, 413 | something in the request is to blame |
//! | 5xx, no answer, an answer that cannot be read | away: whether it was done is not known |
//! | no credentials; any other 4xx | needs a person |

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::{causes, in_short};
use crate::forward::destination::Error;

/// Why a request was not done as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::forward) enum Fault {
    /// Too much at the moment.
    Throttled,
    /// Something in the request is to blame.
    Refused(String),
    /// Whether it was done is not known.
    Unavailable(String),
    /// A person must change something.
    Misconfigured(String),
}

/// What an error of the client means.
pub(in crate::forward) fn fault<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => of_answer(
            service.raw().status().as_u16(),
            service.err().code().unwrap_or("no code"),
            service.err().message().unwrap_or("no message"),
        ),
        SdkError::TimeoutError(_) => Fault::Unavailable("no answer in time".to_owned()),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            Fault::Unavailable(format!("an answer ({status}) that cannot be read"))
        }
        other => of_sending(&causes(other)),
    }
}

impl From<Fault> for Error {
    /// What it means for a question that no record is part of.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Throttled => Self::unavailable("asked to slow down".to_owned()),
            Fault::Unavailable(reason) => Self::unavailable(reason),
            Fault::Refused(reason) | Fault::Misconfigured(reason) => Self::Misconfigured(reason),
        }
    }
}

const THROTTLING: [&str; 19] = [
    "BandwidthLimitExceeded",
    "KMS.ThrottlingException",
    "KMSThrottling",
    "KMSThrottlingException",
    "KmsThrottled",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttled",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
    "OverLimit",
];

const TO_BLAME: [&str; 9] = [
    "AWS.SimpleQueueService.BatchRequestTooLong",
    "BatchRequestTooLong",
    "InvalidArgumentException",
    "InvalidMessageContents",
    "InvalidParameter",
    "InvalidParameterValue",
    "ParameterValueInvalid",
    "SerializationException",
    "ValidationException",
];

const AWAY: [&str; 7] = [
    "InternalError",
    "InternalException",
    "InternalFailure",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
];

/// Why an entry of a request was not taken, while the request was looked at. Some services
/// say whether the sender is at fault; without a word it is, unless the code says otherwise.
#[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
pub(in crate::forward) fn of_entry(code: &str, message: &str, to_blame: bool) -> Fault {
    // A right or a key of encryption that is missing is missing for all.
    const NEEDS_A_PERSON: [&str; 7] = [
        "AccessDenied",
        "AuthorizationError",
        "InvalidAccountId",
        "InvalidSecurity",
        "KMS",
        "Kms",
        "NotAuthorizedForSource",
    ];
    let reason = reason(code, message);
    match code {
        _ if THROTTLING.contains(&code) => Fault::Throttled,
        _ if NEEDS_A_PERSON.iter().any(|part| code.contains(part)) => Fault::Misconfigured(reason),
        _ if AWAY.contains(&code) || !to_blame => Fault::Unavailable(reason),
        _ => Fault::Refused(reason),
    }
}

/// What the service says, in short: some answer a signature that does not fit with the whole
/// request that was signed, and a session token is in it.
fn reason(code: &str, message: &str) -> String {
    format!("{code}: {}", in_short(message))
}

fn of_answer(status: u16, code: &str, message: &str) -> Fault {
    let reason = || reason(code, message);
    match status {
        429 => Fault::Throttled,
        _ if THROTTLING.contains(&code) => Fault::Throttled,
        // A topic that cannot be is no event's fault.
        _ if message.contains("TopicArn") => Fault::Misconfigured(reason()),
        _ if TO_BLAME.contains(&code) => Fault::Refused(reason()),
        413 => Fault::Refused(reason()),
        500.. => Fault::Unavailable(reason()),
        _ if AWAY.contains(&code) => Fault::Unavailable(reason()),
        _ => Fault::Misconfigured(reason()),
    }
}

/// A request that was not sent, or that broke: the wire's fault, but for credentials.
fn of_sending(causes: &str) -> Fault {
    match causes.contains("credentials") {
        true => Fault::Misconfigured(causes.to_owned()),
        false => Fault::Unavailable(causes.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_states_say_who_has_to_do_something() {
        let check = |status, code, expect: fn(String) -> Fault| {
            let told = format!("{code}: because");
            assert_eq!(of_answer(status, code, "because"), expect(told), "{code}");
        };
        check(400, "ResourceNotFoundException", Fault::Misconfigured);
        check(400, "AccessDeniedException", Fault::Misconfigured);
        check(400, "ExpiredTokenException", Fault::Misconfigured);
        check(400, "KMSDisabledException", Fault::Misconfigured);
        check(403, "InvalidSignatureException", Fault::Misconfigured);
        check(400, "ValidationException", Fault::Refused);
        check(400, "InvalidArgumentException", Fault::Refused);
        check(413, "RequestEntityTooLarge", Fault::Refused);
        check(500, "InternalFailure", Fault::Unavailable);
        check(503, "anything", Fault::Unavailable);
        check(400, "ThrottlingException", |_| Fault::Throttled);
        check(400, "KMSThrottlingException", |_| Fault::Throttled);
        check(429, "anything", |_| Fault::Throttled);
        check(400, "ProvisionedThroughputExceededException", |_| {
            Fault::Throttled
        });
    }

    #[test]
    fn what_a_service_repeats_of_a_request_is_in_no_reason() {
        let message = "The signature does not match.\n\nThe Canonical String should have been\n\
                       'POST\n/\nx-amz-security-token:sesame'";
        let told = of_answer(403, "SignatureDoesNotMatch", message);
        let Fault::Misconfigured(reason) = told else {
            panic!("{told:?}");
        };
        assert_eq!(
            reason,
            "SignatureDoesNotMatch: The signature does not match."
        );
    }

    #[test]
    fn a_topic_that_cannot_be_is_no_events_fault() {
        let told = of_answer(400, "InvalidParameter", "Invalid parameter: TopicArn");
        assert!(matches!(told, Fault::Misconfigured(_)), "{told:?}");
        let told = of_answer(
            400,
            "InvalidParameter",
            "Invalid parameter: Message too long",
        );
        assert!(matches!(told, Fault::Refused(_)), "{told:?}");
    }

    #[cfg(any(feature = "eventbridge", feature = "sns", feature = "sqs"))]
    #[test]
    fn an_entry_is_to_blame_where_neither_the_service_nor_a_right_is() {
        let check = |code, to_blame, expect: fn(String) -> Fault| {
            let told = of_entry(code, "because", to_blame);
            assert_eq!(told, expect(format!("{code}: because")), "{code}");
        };
        check("InvalidParameterValue", true, Fault::Refused);
        check("MalformedDetail", true, Fault::Refused);
        check("NotAuthorizedForDetailTypeException", true, Fault::Refused);
        check("InternalError", true, Fault::Unavailable);
        check("anything", false, Fault::Unavailable);
        check("AccessDeniedException", true, Fault::Misconfigured);
        check("KMS.DisabledException", true, Fault::Misconfigured);
        check(
            "NotAuthorizedForSourceException",
            true,
            Fault::Misconfigured,
        );
        check("ThrottlingException", true, |_| Fault::Throttled);
        check("RequestThrottled", false, |_| Fault::Throttled);
        check("KMS.ThrottlingException", true, |_| Fault::Throttled);
        check("KmsThrottled", true, |_| Fault::Throttled);
    }
}
