//! What the configuration says about the messages on some topics, compiled.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{
    condition::{Condition, Derived},
    decode::{Columns, Compression, Format, Lenient},
    pointer::Pointer,
    protocol::Protocol,
    schema::Schemas,
    template::Template,
    timestamp::Unit,
    topic,
    units::{Conversion, Preferred},
};
use crate::{
    dictionary::Known,
    event::{Quality, Value},
};

/// The type of events where nothing says otherwise.
pub const KIND_DEFAULT: &str = "iot.telemetry.v1";
/// The MQTT 5 user property that carries an id, where nothing says otherwise.
pub const ID_PROPERTY_DEFAULT: &str = "idempotency-key";

/// A word that describes an event: its name and its text.
pub type Tag = (Arc<str>, Arc<str>);

/// How the messages on some topics become events.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Which topics.
    pub topic: topic::Template,
    /// What payloads mean beyond their format.
    pub protocol: Protocol,
    /// How payloads are read.
    pub format: Format,
    /// What is around payloads.
    pub compression: Compression,
    /// What it may have been compressed with.
    pub dictionaries: Known,
    /// What is taken of payloads although it should not be in them.
    pub lenient: Lenient,
    /// The columns of lines of text.
    pub columns: Columns,
    /// Who measured.
    pub device: Device,
    /// Whether `device` counts before what the protocol says.
    pub own_device: bool,
    /// Where the payload may say who measured; where it does not, `device` counts.
    /// A claim, as in [`Device::At`].
    pub device_tag: Option<Pointer>,
    /// Where; without it the gateway's own site. Does not name the client.
    pub site: Option<Template>,
    /// The event's `type`; slashes become full stops. Does not name the client.
    pub kind: Template,
    /// The device's time.
    pub time: Option<Time>,
    /// Whether a message without a plausible time is refused, wherever its time is.
    pub require_time: bool,
    /// The array whose elements are events of their own.
    pub split: Option<Pointer>,
    /// What becomes of a batch with elements that cannot be used.
    pub bad_element: BadElement,
    /// The fields that together identify an event.
    pub id: Vec<Pointer>,
    /// The MQTT 5 user property that identifies a message; `None` looks at none.
    pub id_property: Option<Arc<str>>,
    /// The device's counter.
    pub sequence: Option<Sequence>,
    /// How far to go in telling resends from readings.
    pub dedup: Dedup,
    /// Whether two users can send the same event.
    pub dedup_scope: Scope,
    /// What must be so, in the element or around it.
    pub require: Vec<Condition>,
    /// What makes an element no data: it is acknowledged, counted, and not kept.
    pub drop: Vec<Condition>,
    /// The part of an element whose leaves are measured, where `values` names none.
    pub flatten: Option<Pointer>,
    /// What is not measured.
    pub exclude: Vec<Pointer>,
    /// Words added to every event.
    pub tags: Vec<Tag>,
    /// What is measured; empty takes everything.
    pub values: Vec<Measured>,
    /// Whether messages are kept as they came.
    pub raw: Keep,
    /// Whether Sparkplug nodes of which something was missed are asked to be born again.
    pub rebirth: bool,
    /// What is derived from it then, in this order.
    pub derive: Vec<Derived>,
    /// The units that the site prefers.
    pub units: Arc<Preferred>,
    /// What payloads should look like, by the type of their events.
    pub schemas: Schemas,
}

/// Where the device's name is.
#[derive(Debug, Clone)]
pub enum Device {
    /// In the topic, or the client identifier.
    Text(Template),
    /// In the payload. A claim, so it counts only together with who made it.
    At(Pointer),
}

/// Where the device's time is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// In the payload, or in the element.
    pub at: Pointer,
    /// In the payload, for elements without a time of their own.
    pub fallback: Option<Pointer>,
    /// What it counts.
    pub unit: Unit,
    /// Where local times are local; without it they are refused.
    pub zone: Option<TimeZone>,
}

/// Where the device's counter is.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// The counter.
    pub at: Pointer,
    /// What differs from one start of the device to the next.
    pub boot: Option<Pointer>,
    /// Whether the counter goes on across restarts of the device.
    pub persistent: bool,
}

/// How far to go in telling resends from readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dedup {
    /// Whatever identifies an event for sure.
    #[default]
    Auto,
    /// Equal content is the same event, whatever the clock.
    Content,
    /// Every message is a new event.
    None,
}

impl Dedup {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("content", Self::Content),
        ("none", Self::None),
    ];
}

/// Whether messages are kept as they came, beside the events made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// Each with one of its events.
    Always,
    /// Those that become no event, in quarantine.
    #[default]
    OnError,
    /// As `OnError`: what cannot be decoded would be lost otherwise.
    Never,
}

impl Keep {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("always", Self::Always),
        ("on-error", Self::OnError),
        ("never", Self::Never),
    ];
}

/// Within what equal identities are the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// What one user sends of a device: nobody else can suppress it.
    #[default]
    User,
    /// The same where clients are asked who they are: what comes from nobody, or from a
    /// remote broker, is not what a user sends, the device's own least of all.
    Asked,
    /// What anybody sends of a device who may publish on its topic: gateways that pass
    /// on the same event by different ways.
    Device,
}

impl Scope {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 2] = [("user", Self::User), ("device", Self::Device)];
}

/// What becomes of a batch with elements that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BadElement {
    /// They are quarantined, the others become events.
    #[default]
    Skip,
    /// The whole message is quarantined.
    Reject,
}

impl BadElement {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 2] = [("skip", Self::Skip), ("reject", Self::Reject)];
}

/// One value that the operator named.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The measurement's name; empty for that of a bare value.
    pub name: Arc<str>,
    /// Where it is. Without it: the member of this name, or the whole payload if
    /// that is one bare value.
    pub at: Option<Pointer>,
    /// What it must be.
    pub kind: Kind,
    /// Its unit.
    pub unit: Option<Arc<str>>,
    /// Whether a message without it is refused.
    pub required: bool,
    /// What words and numbers stand for; anything else is refused. Empty for no such list.
    pub map: Vec<(Box<str>, Value)>,
    /// What a number is multiplied by.
    pub scale: Option<f64>,
    /// What is added to it then.
    pub offset: Option<f64>,
    /// The unit that it is converted to last, and how.
    pub to: Option<(Arc<str>, Conversion)>,
    /// Where its quality is.
    pub quality: Option<QualityAt>,
}

/// Where the quality of a value is.
#[derive(Debug, Clone)]
pub struct QualityAt {
    /// The place, in the element.
    pub at: Pointer,
    /// What is there, as text, and what it means; anything else is uncertain. Empty
    /// for the words themselves.
    pub map: Vec<(Box<str>, Quality)>,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Whatever it is. Objects and arrays are flattened under the name.
    #[default]
    Any,
    /// A number, or text that spells one.
    Number,
    /// True or false.
    Boolean,
    /// Text.
    Text,
}

impl Kind {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("any", Self::Any),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("string", Self::Text),
    ];
}

impl Mapping {
    /// What the topic alone tells, worked out once per topic; `None` where this
    /// mapping does not take the topic.
    pub fn resolve(&self, topic: &str, gateway_site: Option<&Arc<str>>) -> Option<Resolved> {
        let captures = self.topic.captures(topic)?;
        let own_attribute = |n: usize, name: &str| {
            name == "site"
                || self.kind.uses(n)
                || matches!(&self.device, Device::Text(device) if device.uses(n))
        };
        let captured = self.topic.names().iter().zip(&captures).enumerate();
        let captured = captured
            .filter(|(n, (name, _))| !own_attribute(*n, name))
            .map(|(_, (name, text))| (name.clone(), Arc::from(*text)));
        Some(Resolved {
            device: match &self.device {
                Device::Text(device) if !device.names_client() => {
                    Some(Arc::from(device.fill(&captures, "", "")))
                }
                Device::Text(_) | Device::At(_) => None,
            },
            site: match &self.site {
                Some(site) => Some(Arc::from(site.fill(&captures, "", "")))
                    .filter(|site: &Arc<str>| !site.is_empty()),
                None => gateway_site.cloned(),
            },
            kind: Arc::from(self.kind.fill(&captures, "", "").replace('/', ".")),
            bare: (self.protocol == Protocol::Homie).then(|| {
                let names = self.topic.names().iter().zip(&captures);
                let others = names.filter(|(name, _)| ***name != *"device");
                let levels: Vec<&str> = others.map(|(_, level)| *level).collect();
                levels.join(".").into()
            }),
            tags: self.tags.iter().cloned().chain(captured).collect(),
        })
    }
}

impl Mapping {
    /// Whether what has no types of its own is text: the bare payload, or the `column`
    /// of a line.
    pub(super) fn is_text(&self, column: Option<&str>) -> bool {
        self.values.iter().any(|value| {
            let is_there = match (&value.at, column) {
                (Some(at), Some(column)) => at.member() == Some(column),
                (Some(at), None) => at.is_root(),
                (None, Some(column)) => *value.name == *column,
                (None, None) => true,
            };
            is_there && value.kind == Kind::Text && value.map.is_empty()
        })
    }

    /// The pointers that look into an element and then around it.
    pub(super) fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        let device = match &self.device {
            Device::At(at) => Some(at),
            Device::Text(_) => None,
        };
        let time = self.time.iter().map(|time| &time.at);
        let fallback = self.time.iter().filter_map(|time| time.fallback.as_ref());
        let sequence = self.sequence.iter().map(|sequence| &sequence.at);
        let boot = self.sequence.iter().filter_map(|s| s.boot.as_ref());
        let conditions = self.require.iter().chain(&self.drop);
        let conditions = conditions.filter_map(|condition| match condition {
            Condition::At(at) => Some(at),
            Condition::That(_) => None,
        });
        (device.into_iter().chain(time).chain(fallback))
            .chain(sequence)
            .chain(boot)
            .chain(&self.id)
            .chain(&self.exclude)
            .chain(conditions)
            .chain(&self.device_tag)
    }

    /// The device that the topic, the client identifier and the user tell; `None` where it
    /// is in the payload.
    pub(super) fn device(&self, topic: &str, client_id: &str, user: &str) -> Option<Arc<str>> {
        match &self.device {
            Device::Text(device) => {
                let captures = self.topic.captures(topic)?;
                Some(Arc::from(device.fill(&captures, client_id, user)))
            }
            Device::At(_) => None,
        }
    }

    /// Where the device's time is, where nothing says otherwise.
    pub fn builtin_time() -> Time {
        Time {
            at: builtin("/ts"),
            fallback: None,
            unit: Unit::Auto,
            zone: None,
        }
    }

    /// Where the device's counter is, where nothing says otherwise.
    pub fn builtin_sequence() -> Sequence {
        Sequence {
            at: builtin("/seq"),
            boot: Some(builtin("/boot")),
            persistent: false,
        }
    }

    /// The mappings of a gateway without a configuration: `devices/{device}/...`,
    /// and everything else under the name of the client.
    pub fn defaults() -> Vec<Self> {
        ["devices/{device}/{type...}", "#"]
            .map(|topic| {
                let topic = topic::Template::parse(topic).expect("the template is well-formed");
                let text = |names: &[&str], otherwise: &str| {
                    let has = |name: &&&str| topic.names().iter().any(|n| **n == ***name);
                    let text = names.iter().find(has).map(|name| format!("{{{name}}}"));
                    Template::parse(text.as_deref().unwrap_or(otherwise), topic.names())
                        .expect("the capture was just found")
                };
                Self {
                    device: Device::Text(text(&["device"], "{client}")),
                    kind: text(&["type"], KIND_DEFAULT),
                    topic,
                    protocol: Protocol::None,
                    format: Format::Auto,
                    compression: Compression::Auto,
                    dictionaries: Known::default(),
                    lenient: Lenient::STRICT,
                    columns: Columns::default(),
                    own_device: false,
                    device_tag: None,
                    site: None,
                    time: Some(Self::builtin_time()),
                    require_time: false,
                    split: None,
                    bad_element: BadElement::Skip,
                    id: Vec::new(),
                    id_property: Some(ID_PROPERTY_DEFAULT.into()),
                    sequence: Some(Self::builtin_sequence()),
                    dedup: Dedup::Auto,
                    dedup_scope: Scope::User,
                    require: Vec::new(),
                    drop: Vec::new(),
                    flatten: None,
                    exclude: Vec::new(),
                    tags: Vec::new(),
                    values: Vec::new(),
                    raw: Keep::default(),
                    rebirth: true,
                    derive: Vec::new(),
                    units: Arc::default(),
                    schemas: Schemas::default(),
                }
            })
            .into()
    }
}

fn builtin(pointer: &str) -> Pointer {
    Pointer::parse(pointer).expect("it begins with a slash")
}

/// What a topic alone tells about its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The device, where the topic alone tells it.
    pub device: Option<Arc<str>>,
    /// The site.
    pub site: Option<Arc<str>>,
    /// The event's type.
    pub kind: Arc<str>,
    /// The name of a bare value, where the topic tells it.
    pub bare: Option<Arc<str>>,
    /// Tags of the mapping, and captures that are not an attribute of the event.
    pub tags: Vec<Tag>,
}
