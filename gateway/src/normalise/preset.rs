//! What the payloads of known devices and servers look like, by name.
//!
//! A preset only fills in what a mapping leaves open; every key of the mapping
//! still counts. Sources: the documentation of each project, as of early 2026.

use super::{
    decode::Format,
    mapping::{Mapping, Sequence, Time},
    pointer::Pointer,
    protocol::Protocol,
    timestamp::Unit,
};

/// What a mapping means where it does not say so itself.
#[derive(Debug, Clone)]
pub struct Preset {
    /// What payloads mean beyond their format.
    pub protocol: Protocol,
    /// How payloads are read.
    pub format: Format,
    /// Where the payload says who measured.
    pub device: Option<Pointer>,
    /// The device's time.
    pub time: Option<Time>,
    /// The device's counter.
    pub sequence: Option<Sequence>,
    /// The array whose elements are events of their own.
    pub split: Option<Pointer>,
    /// The part whose leaves are measured.
    pub flatten: Option<Pointer>,
}

/// The presets of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the name of a project")]
pub enum Name {
    Zigbee2Mqtt,
    Tasmota,
    Shelly,
    Homie,
    HaDiscovery,
    Lwt,
    ChirpStack,
    Tts,
    AwsShadow,
    OpcUa,
    Sparkplug,
    ThinEdge,
    Uplink,
}

impl Name {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Option<Self>); 13] = [
        ("zigbee2mqtt", Some(Self::Zigbee2Mqtt)),
        ("tasmota", Some(Self::Tasmota)),
        ("shelly", Some(Self::Shelly)),
        ("homie", Some(Self::Homie)),
        ("ha-discovery", Some(Self::HaDiscovery)),
        ("lwt", Some(Self::Lwt)),
        ("chirpstack", Some(Self::ChirpStack)),
        ("tts", Some(Self::Tts)),
        ("aws-shadow", Some(Self::AwsShadow)),
        ("opcua", Some(Self::OpcUa)),
        ("sparkplug", Some(Self::Sparkplug)),
        ("thin-edge", Some(Self::ThinEdge)),
        ("uplink", Some(Self::Uplink)),
    ];
}

impl Preset {
    /// What a mapping without a preset means, by its format.
    pub fn of_format(format: Format) -> Self {
        let nothing = Self::of(Protocol::None, format);
        match format {
            // Their own rules say where the time is, and they have no counter.
            Format::SenmlJson | Format::SenmlCbor | Format::CloudEvents | Format::Raw => nothing,
            Format::Influx => Self {
                time: time("/time", Unit::Nanos),
                ..nothing
            },
            _ => Self {
                time: Some(Mapping::builtin_time()),
                sequence: Some(Mapping::builtin_sequence()),
                ..nothing
            },
        }
    }

    /// What a preset means.
    pub fn named(name: Name) -> Self {
        let json = |protocol| Self::of(protocol, Format::Json);
        match name {
            Name::Zigbee2Mqtt => Self {
                time: time("/last_seen", Unit::Auto),
                ..json(Protocol::Zigbee2Mqtt)
            },
            Name::Tasmota => Self {
                time: time("/Time", Unit::Auto),
                ..json(Protocol::None)
            },
            Name::Shelly => Self {
                device: Some(pointer("/src")),
                time: time("/params/ts", Unit::Seconds),
                flatten: Some(pointer("/params")),
                ..json(Protocol::Shelly)
            },
            Name::Homie => Self::of(Protocol::Homie, Format::Scalar),
            Name::HaDiscovery => json(Protocol::Discovery),
            Name::Lwt => Self::of(Protocol::Lwt, Format::Auto),
            Name::ChirpStack => Self {
                device: Some(pointer("/deviceInfo/devEui")),
                time: time("/time", Unit::Rfc3339),
                sequence: sequence("/fCnt"),
                ..json(Protocol::ChirpStack)
            },
            Name::Tts => Self {
                device: Some(pointer("/end_device_ids/device_id")),
                time: time("/uplink_message/received_at", Unit::Rfc3339).map(|time| Time {
                    fallback: Some(pointer("/received_at")),
                    ..time
                }),
                sequence: sequence("/uplink_message/f_cnt"),
                ..json(Protocol::Tts)
            },
            Name::AwsShadow => Self {
                time: time("/timestamp", Unit::Seconds),
                ..json(Protocol::Shadow)
            },
            Name::OpcUa => Self {
                time: time("/Timestamp", Unit::Rfc3339),
                sequence: sequence("/SequenceNumber"),
                ..json(Protocol::OpcUa)
            },
            Name::Sparkplug => Self::of(Protocol::Sparkplug, Format::Sparkplug),
            Name::ThinEdge => Self {
                time: time("/time", Unit::Auto),
                ..json(Protocol::None)
            },
            Name::Uplink => Self {
                // Nominally milliseconds; the project's own examples also send microseconds.
                time: time("/timestamp", Unit::Auto),
                sequence: sequence("/sequence"),
                split: Some(pointer("")),
                ..json(Protocol::None)
            },
        }
    }

    const fn of(protocol: Protocol, format: Format) -> Self {
        Self {
            protocol,
            format,
            device: None,
            time: None,
            sequence: None,
            split: None,
            flatten: None,
        }
    }
}

fn time(at: &str, unit: Unit) -> Option<Time> {
    Some(Time {
        at: pointer(at),
        unit,
        ..Mapping::builtin_time()
    })
}

fn sequence(at: &str) -> Option<Sequence> {
    Some(Sequence {
        at: pointer(at),
        boot: None,
        persistent: false,
    })
}

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("it is empty or begins with a slash")
}
