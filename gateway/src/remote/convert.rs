//! From a message of a remote broker to one of this broker.

use std::sync::Arc;

use penstock_broker::{Properties, Publish};
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use super::{Subscription, qos};
use crate::{
    event::message::{SHOWN_PROPERTY, VIA_PROPERTY},
    gateway_id::GatewayId,
    mqtt::{link::Received, topic},
};

/// What is to be done with a message.
#[derive(Debug)]
pub(super) enum Converted {
    /// Show it to local subscribers.
    Show(Publish),
    /// Keep it, then show it.
    Keep(Publish),
    /// It has been through this gateway before.
    Circle,
    /// It cannot be a message here, and is to be kept as it came all the same.
    SetAside(Publish, &'static str),
    /// It cannot be a message here.
    Refused(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Converter {
    subscriptions: Vec<Subscription>,
    gateway: GatewayId,
}

impl Converter {
    pub(super) const fn new(subscriptions: Vec<Subscription>, gateway: GatewayId) -> Self {
        Self {
            subscriptions,
            gateway,
        }
    }

    pub(super) fn convert(&self, received: &Received) -> Converted {
        let (remote_topic, payload, level, retain, properties) = match received {
            Received::V4(one) => (
                one.topic.as_str(),
                &one.payload,
                one.qos as u8,
                one.retain,
                None,
            ),
            Received::V5(one) => {
                let Ok(topic) = std::str::from_utf8(&one.topic) else {
                    return Converted::Refused("its topic is not UTF-8");
                };
                let properties = one.properties.as_ref();
                (topic, &one.payload, one.qos as u8, one.retain, properties)
            }
        };
        // The first that takes it, in the order of the configuration.
        let mut subscriptions = self.subscriptions.iter();
        let Some(subscription) =
            subscriptions.find(|one| topic::matches(remote_topic, &one.filter))
        else {
            return Converted::Refused("no configured filter takes its topic");
        };
        let own = self.gateway.as_str();
        let mut user = properties
            .into_iter()
            .flat_map(|known| &known.user_properties);
        if user.any(|(name, value)| is_mark(name) && **value == **own) {
            return Converted::Circle;
        }
        let publish = |topic: &str| Publish {
            topic: topic.into(),
            payload: payload.clone(),
            qos: qos(level),
            retain,
            dup: false,
            properties: Some(Arc::new(self.properties(properties, subscription.journal))),
            delivery: None,
        };
        match (subscription.local_topic(remote_topic), subscription.journal) {
            (Ok(topic), true) => Converted::Keep(publish(&topic)),
            (Ok(topic), false) => Converted::Show(publish(&topic)),
            (Err(why), true) => Converted::SetAside(publish(remote_topic), why),
            (Err(why), false) => Converted::Refused(why),
        }
    }

    /// What belongs to the message goes on with it; our mark is added. In what is only
    /// shown, the marks are such that an answer may carry them on.
    fn properties(&self, known: Option<&PublishProperties>, is_kept: bool) -> Properties {
        let text = |text: &Option<String>| text.as_deref().map(Arc::from);
        let mark_name: Arc<str> = match is_kept {
            true => VIA_PROPERTY.into(),
            false => SHOWN_PROPERTY.into(),
        };
        let mark = (mark_name.clone(), self.gateway.as_str().clone());
        let Some(known) = known else {
            return Properties {
                user: vec![mark],
                ..Properties::default()
            };
        };
        let user = known.user_properties.iter();
        Properties {
            payload_is_utf8: known.payload_format_indicator.map(|byte| byte == 1),
            message_expiry_secs: known.message_expiry_interval,
            content_type: text(&known.content_type),
            response_topic: text(&known.response_topic),
            correlation_data: known.correlation_data.clone(),
            user: user
                .map(|(name, value)| match is_mark(name) {
                    true => (mark_name.clone(), value.as_str().into()),
                    false => (name.as_str().into(), value.as_str().into()),
                })
                .chain([mark])
                .collect(),
        }
    }
}

impl Subscription {
    /// The topic here of one at the remote broker, or why it can be none.
    fn local_topic(&self, remote: &str) -> Result<String, &'static str> {
        let rest = remote
            .strip_prefix(&self.remote_prefix)
            .ok_or("its topic does not begin with remote_prefix")?;
        let topic = format!("{}{rest}", self.local_prefix);
        if topic.is_empty() || topic.len() > 65_535 {
            return Err("its topic would be empty or too long here");
        }
        if topic.starts_with('$') || topic.contains(['+', '#', '\0']) {
            return Err("its topic would be one of the gateway's own here");
        }
        Ok(topic)
    }
}

/// Whether a user property names a gateway on the message's way.
fn is_mark(name: &str) -> bool {
    name == VIA_PROPERTY || name == SHOWN_PROPERTY
}

#[cfg(test)]
mod tests {
    use rumqttc::{QoS, v5};

    use super::*;

    fn converter() -> Converter {
        let subscription = |filter: &str, remote: &str, local: &str, journal| Subscription {
            filter: filter.to_owned(),
            qos: 1,
            remote_prefix: remote.to_owned(),
            local_prefix: local.to_owned(),
            journal,
        };
        Converter::new(
            vec![
                subscription("site/7/cmd/#", "site/7/", "", false),
                subscription("$share/g/all/+", "", "cloud/", true),
                subscription("own/#", "own/", "", false),
                subscription("$aws/#", "", "", true),
                subscription("kept/#", "kept/", "", true),
            ],
            GatewayId::random(),
        )
    }

    fn v4(topic: &str) -> Received {
        Received::V4(rumqttc::Publish::new(topic, QoS::AtLeastOnce, "x"))
    }

    #[test]
    fn topics_lose_one_prefix_and_get_another() {
        let converter = converter();
        let topic = |name: &str| match converter.convert(&v4(name)) {
            Converted::Show(publish) => format!("show {}", publish.topic),
            Converted::Keep(publish) => format!("keep {}", publish.topic),
            Converted::Circle => "circle".to_owned(),
            Converted::SetAside(publish, _) => format!("set aside {}", publish.topic),
            Converted::Refused(_) => "refused".to_owned(),
        };
        for (name, expect) in [
            ("site/7/cmd/a", "show cmd/a"),
            ("site/7/cmd", "show cmd"),
            ("all/x", "keep cloud/all/x"),
            ("all/x/y", "refused"),
            ("own/$SYS/a", "refused"),
            ("own/$penstock/events/a", "refused"),
            ("own", "refused"),
            ("kept", "set aside kept"),
            ("kept/$SYS/a", "set aside kept/$SYS/a"),
            ("$aws/things/x/jobs/a", "set aside $aws/things/x/jobs/a"),
        ] {
            assert_eq!(topic(name), expect, "{name}");
        }
    }

    #[test]
    fn a_message_that_was_here_before_is_known_by_its_mark() {
        let converter = converter();
        let mut message = v5::mqttbytes::v5::Publish::new(
            "all/x",
            v5::mqttbytes::QoS::AtLeastOnce,
            "x",
            Some(PublishProperties {
                content_type: Some("text/plain".to_owned()),
                user_properties: vec![(VIA_PROPERTY.to_owned(), "another".to_owned())],
                ..PublishProperties::default()
            }),
        );
        let Converted::Keep(publish) = converter.convert(&Received::V5(message.clone())) else {
            panic!("it is new");
        };
        let known = publish.properties.unwrap();
        assert_eq!(known.content_type.as_deref(), Some("text/plain"));
        let via: Vec<_> = known.user.iter().map(|(_, value)| value.clone()).collect();
        assert_eq!(via, ["another".into(), converter.gateway.as_str().clone()]);
        // It comes back with what it left with.
        message.properties.as_mut().unwrap().user_properties = known
            .user
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let again = converter.convert(&Received::V5(message));
        assert!(matches!(again, Converted::Circle), "{again:?}");
    }

    #[test]
    fn what_is_only_shown_has_a_mark_that_an_answer_may_carry_on() {
        let converter = converter();
        let mut message = v5::mqttbytes::v5::Publish::new(
            "site/7/cmd/a",
            v5::mqttbytes::QoS::AtLeastOnce,
            "x",
            Some(PublishProperties {
                user_properties: vec![(VIA_PROPERTY.to_owned(), "another".to_owned())],
                ..PublishProperties::default()
            }),
        );
        let Converted::Show(publish) = converter.convert(&Received::V5(message.clone())) else {
            panic!("it is shown");
        };
        let user = &publish.properties.as_ref().unwrap().user;
        let own = converter.gateway.as_str();
        assert_eq!(
            user[..],
            [
                (SHOWN_PROPERTY.into(), "another".into()),
                (SHOWN_PROPERTY.into(), own.clone())
            ]
        );
        // A copy that another broker sends is known all the same.
        let known = user
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        message.properties.as_mut().unwrap().user_properties = known.collect();
        let again = converter.convert(&Received::V5(message));
        assert!(matches!(again, Converted::Circle), "{again:?}");
    }
}
