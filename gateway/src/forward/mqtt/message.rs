//! An event as an MQTT message.

use bytes::Bytes;

use super::{super::batch::Item, Config};
use crate::{
    event::message::{self, VIA_PROPERTY},
    gateway_id::GatewayId,
    mqtt::{Version, link::Message, topic::Template},
};

pub use crate::event::message::Payload;

/// The message of an event, or why it can have none.
pub(super) fn of_event(
    item: &Item,
    topic: &Template,
    config: &Config,
    gateway: &GatewayId,
) -> Result<Message, String> {
    let view = item.view();
    let mut message = Message {
        topic: topic.fill(&view.attributes)?,
        payload: Bytes::from(config.payload.encode(&view)),
        ..Message::default()
    };
    if config.server.version == Version::V5 {
        let properties = &mut message.properties;
        properties.content_type = Some(config.payload.media_type().to_owned());
        properties.user_properties = message::properties(&view.attributes)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let via = message::via(&view, gateway).into_iter();
        properties
            .user_properties
            .extend(via.map(|id| (VIA_PROPERTY.to_owned(), String::from(&*id))));
    }
    Ok(message)
}
