//! An event as an MQTT message, or the message that it was made of.

use bytes::Bytes;

use super::{super::batch::Item, Config};
use crate::{
    dictionary::{ENCODING, ENCODING_NAME, Packer},
    event::{
        OriginalView, View,
        message::{self, KEY_PROPERTY, VIA_PROPERTY},
    },
    gateway_id::GatewayId,
    mqtt::{Version, link::Message, topic::Template},
};

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// The event.
    Event(message::Payload),
    /// What the device sent, once for each message, however many events it became.
    Original,
}

impl Payload {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("json", Self::Event(message::Payload::Json)),
        ("cbor", Self::Event(message::Payload::Cbor)),
        ("original", Self::Original),
    ];
}

/// The message of an event, or why it can have none.
pub(super) fn of_event(
    item: &Item,
    topic: &Template,
    config: &Config,
    gateway: &GatewayId,
) -> Result<Message, String> {
    let view = item.view();
    let topic = topic.fill(&view.attributes)?;
    let mut message = match config.payload {
        Payload::Event(form) => event(&view, form),
        Payload::Original => {
            let original = view.original.ok_or(
                "the message was not kept as it came; it came before `payload = \"original\"` was configured",
            )?;
            original_of(&view, &original)
        }
    };
    message.topic = topic;
    if config.server.version == Version::V5 {
        let via = message::via(&view, gateway).into_iter();
        let user = &mut message.properties.user_properties;
        user.extend(via.map(|id| (VIA_PROPERTY.to_owned(), String::from(&*id))));
    } else {
        message.properties = Default::default();
    }
    Ok(message)
}

fn event(view: &View<'_>, form: message::Payload) -> Message {
    let mut message = Message {
        payload: Bytes::from(form.encode(view)),
        ..Message::default()
    };
    let properties = &mut message.properties;
    properties.content_type = Some(form.media_type().to_owned());
    properties.user_properties = message::properties(&view.attributes)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    message
}

/// Compresses the payload. Of the properties only those stay that a receiver needs before
/// it has inflated it: the others say once more what is inside, and would be most of the
/// packet then.
pub(super) fn pack(message: &mut Message, packer: &Packer, version: Version) {
    let Some(frame) = packer.pack(&message.payload) else {
        return;
    };
    message.payload = frame.into();
    if version == Version::V5 {
        let user = &mut message.properties.user_properties;
        user.retain(|(name, _)| [KEY_PROPERTY, VIA_PROPERTY].contains(&&**name));
        user.push((ENCODING_NAME.to_owned(), ENCODING.to_owned()));
    }
}

/// The message as it came. Its own properties come along, but for those that name it
/// and say which way it came: that is ours to say.
fn original_of(view: &View<'_>, original: &OriginalView<'_>) -> Message {
    let mut message = Message {
        payload: Bytes::copy_from_slice(original.payload),
        ..Message::default()
    };
    let properties = &mut message.properties;
    properties.content_type = original.content_type.map(str::to_owned);
    let key = view.attributes.delivery_key().to_string();
    let own = original.user().into_iter();
    let own = own.filter(|(name, _)| ![KEY_PROPERTY, VIA_PROPERTY].contains(name));
    properties.user_properties = [(KEY_PROPERTY.to_owned(), key)]
        .into_iter()
        .chain(own.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    message
}
