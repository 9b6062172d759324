//! Which devices are connected, as far as the broker knows.

use std::{collections::BTreeSet, sync::Arc};

use penstock_broker::Addressee;
use serde_json::{Value, json};

use super::Device;

/// Who is connected at one moment.
#[derive(Debug, Clone, Default)]
pub struct Online {
    /// Client identifiers and the users that they have.
    clients: BTreeSet<(Arc<str>, Option<Arc<str>>)>,
    /// Users.
    users: BTreeSet<Arc<str>>,
}

impl Online {
    pub(super) fn of(clients: impl Iterator<Item = (Arc<str>, Option<Arc<str>>)>) -> Self {
        let mut online = Self::default();
        for (client, user) in clients {
            online.users.extend(user.clone());
            online.clients.insert((client, user));
        }
        online
    }

    /// Whether a client is connected that is the device; of one behind a Sparkplug node,
    /// whether it was born.
    pub fn is_online(&self, device: &Device) -> bool {
        if let Some(heard) = device.heard {
            return heard;
        }
        let has_client = |id: &str, is: &dyn Fn(Option<&str>) -> bool| {
            let from = (Arc::from(id), None);
            let of = self.clients.range(from..);
            let mut of = of.take_while(|(client, _)| **client == *id);
            of.any(|(_, user)| is(user.as_deref()))
        };
        match device.addressee() {
            Addressee::User(user) => self.users.contains(&*user),
            Addressee::Client(id) => has_client(&id, &|_| true),
            Addressee::Name(name) => {
                self.users.contains(&*name) || has_client(&name, &|user| user.is_none())
            }
        }
    }

    /// A device as people see it, with whether it is connected.
    pub fn show(&self, device: &Device) -> Value {
        json!(device.shown(Some(self.is_online(device))))
    }
}
