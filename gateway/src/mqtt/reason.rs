//! What a broker's reason codes, and the ends of connections, ask of us.

use std::io;

use rumqttc::{
    tokio_rustls::rustls::{self, AlertDescription},
    v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason},
};

/// What became of a message that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server has it, whether or not somebody subscribes.
    Kept,
    /// Too much at the moment.
    Throttled,
    /// Not now, and about this message alone.
    Transient(String),
    /// Never, and about this message alone.
    Permanent(String),
    /// The same, because of who may publish where.
    Forbidden(String),
    /// The connection is out of step: it may or may not have been kept.
    Doubtful(String),
    /// Needs a person.
    Misconfigured(String),
}

/// Why a connection is over, or never was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Broken {
    pub(crate) reason: String,
    /// It will be the same until a person changes something.
    pub(crate) needs_person: bool,
    /// The server ended it, maybe because of what it was sent.
    pub(crate) may_be_answer: bool,
}

impl Broken {
    pub(crate) fn lost(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            needs_person: false,
            may_be_answer: false,
        }
    }

    pub(crate) fn wrong(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            needs_person: true,
            may_be_answer: false,
        }
    }

    /// The server ended the connection; one of 3.1.1 has no other way to refuse a
    /// message (section 3.3.5.2).
    pub(super) fn by_server(self) -> Self {
        Self {
            may_be_answer: true,
            ..self
        }
    }
}

/// What a PUBACK of MQTT 5 says (section 3.4.2.1).
pub(super) fn of_puback(reason: PubAckReason, text: Option<&str>) -> Verdict {
    use PubAckReason as Code;
    let said = |what: &str| match text {
        Some(text) => format!("{what}: {text}"),
        None => what.to_owned(),
    };
    match reason {
        Code::Success | Code::NoMatchingSubscribers => Verdict::Kept,
        Code::QuotaExceeded => Verdict::Throttled,
        Code::UnspecifiedError => Verdict::Transient(said("refused without a reason (0x80)")),
        Code::ImplementationSpecificError => {
            Verdict::Transient(said("refused for a reason of the server's own (0x83)"))
        }
        Code::NotAuthorized => {
            Verdict::Misconfigured(said("not authorized to publish on its topic (0x87)"))
        }
        Code::TopicNameInvalid => {
            Verdict::Permanent(said("the server does not take its topic (0x90)"))
        }
        Code::PayloadFormatInvalid => {
            Verdict::Permanent(said("the server does not take its payload (0x99)"))
        }
        Code::PacketIdentifierInUse => {
            Verdict::Doubtful(said("the server holds the packet identifier in use (0x91)"))
        }
    }
}

/// What a refused CONNECT of MQTT 5 means (section 3.2.2.2).
pub(super) fn of_connack_v5(code: ConnectReturnCode) -> Broken {
    use ConnectReturnCode as Code;
    let reason = format!("the server refused the connection: {code:?}");
    match code {
        Code::ServiceUnavailable
        | Code::UnspecifiedError
        | Code::ImplementationSpecificError
        | Code::ServerUnavailable
        | Code::ServerBusy
        | Code::QuotaExceeded
        | Code::ConnectionRateExceeded => Broken::lost(reason),
        _ => Broken::wrong(reason),
    }
}

/// What a refused CONNECT of MQTT 3.1.1 means (section 3.2.2.3).
pub(super) fn of_connack_v4(code: rumqttc::ConnectReturnCode) -> Broken {
    let reason = format!("the server refused the connection: {code:?}");
    match code {
        rumqttc::ConnectReturnCode::ServiceUnavailable => Broken::lost(reason),
        _ => Broken::wrong(reason),
    }
}

/// What the server's DISCONNECT means (section 3.14.2.1).
pub(super) fn of_disconnect(code: DisconnectReasonCode, text: Option<&str>) -> Broken {
    use DisconnectReasonCode as Code;
    let text = text.map(|text| format!(" ({text})")).unwrap_or_default();
    let reason = format!("the server disconnected: {code:?}{text}");
    match code {
        Code::NotAuthorized => Broken::wrong(reason).by_server(),
        Code::UnspecifiedError
        | Code::MalformedPacket
        | Code::ProtocolError
        | Code::ImplementationSpecificError
        | Code::TopicNameInvalid
        | Code::PacketTooLarge
        | Code::PayloadFormatInvalid => Broken::lost(reason).by_server(),
        Code::UseAnotherServer
        | Code::ServerMoved
        | Code::QoSNotSupported
        | Code::SharedSubscriptionNotSupported
        | Code::WildcardSubscriptionsNotSupported => Broken::wrong(reason),
        // Somebody else uses our identifier, or an older connection of our own does.
        _ => Broken::lost(reason),
    }
}

/// What an error of the socket means; those of TLS come in it.
pub(super) fn of_io(error: &io::Error) -> Broken {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(tls) if is_about_identity(tls) => Broken::wrong(format!("TLS: {tls}")),
        _ if is_end(error.kind()) => Broken::lost(error.to_string()).by_server(),
        _ => Broken::lost(error.to_string()),
    }
}

/// Whether the other side ended the connection, rather than the network.
const fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof
    )
}

/// Whether one side does not believe who the other is.
fn is_about_identity(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(_) => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                | Alert::CertificateRequired
                | Alert::NoApplicationProtocol
        ),
        _ => false,
    }
}
