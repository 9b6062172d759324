//! What topics say of the life of nodes and of the devices behind them.

use super::{NAMESPACE, topic};

/// A birth, or a death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Whose: the device's name as its events have it.
    pub device: String,
    /// The node as its births know it, where it is the node's own.
    pub node: Option<String>,
    /// Whether it is a birth.
    pub is_birth: bool,
}

impl Life {
    /// What a topic says, if it is one of these.
    pub fn of(name: &str) -> Option<Self> {
        if !name.contains(NAMESPACE) {
            return None;
        }
        let topic = topic(name).ok()?;
        let is_birth = match topic.kind {
            "NBIRTH" | "DBIRTH" => true,
            "NDEATH" | "DDEATH" => false,
            _ => return None,
        };
        Some(match topic.device {
            Some(device) => Self {
                device: format!("{}/{device}", topic.node),
                node: None,
                is_birth,
            },
            None => Self {
                device: topic.node,
                node: Some(topic.born_as),
                is_birth,
            },
        })
    }
}

impl Life {
    /// The node as its births know it, where it is one that is born.
    pub fn node_that_is_born(&self) -> Option<&str> {
        self.node.as_deref().filter(|_| self.is_birth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_and_deaths_are_of_the_devices_that_events_are_of() {
        for (topic, expect) in [
            ("spBv1.0/g/NBIRTH/n", Some(("g/n", Some("g/n"), true))),
            ("spBv1.0/g/DBIRTH/n/d", Some(("g/n/d", None, true))),
            ("spBv1.0/g/DDEATH/n/d", Some(("g/n/d", None, false))),
            ("a/spBv1.0/g/NDEATH/n", Some(("g/n", Some("a/g/n"), false))),
            ("spBv1.0/g/NDATA/n", None),
            ("spBv1.0/g/DBIRTH/n", None),
            ("spBv1.0/STATE/h", None),
            ("devices/spBv1.0", None),
            ("g/NBIRTH/n", None),
        ] {
            let life = Life::of(topic);
            let said = life
                .as_ref()
                .map(|life| (&*life.device, life.node.as_deref(), life.is_birth));
            assert_eq!(said, expect, "{topic}");
        }
    }
}
