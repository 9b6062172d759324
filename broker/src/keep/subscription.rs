//! What persistent sessions subscribe to.

use std::sync::Arc;

use rusqlite::params;

use super::{
    Add, SessionId, SubscriptionInfo,
    job::{Answer, Sub},
    queue::read_qos,
    shared,
    writer::Writer,
};
use crate::packet::SendRetained;

impl Writer {
    /// Whether there is room in memory for the filters that a session has not got yet.
    pub(super) fn has_room_for_filters(&self, id: SessionId, adds: &[Add]) -> bool {
        let new = adds
            .iter()
            .filter(|add| !self.shared.has_filter(id, &add.filter));
        self.shared
            .has_room_for(new.map(|add| shared::weight(&add.filter)).sum())
    }

    /// Adds or replaces a subscription; whether it replaced none.
    pub(super) fn subscribe(&mut self, id: SessionId, add: &Add) -> rusqlite::Result<bool> {
        let Add {
            filter,
            subscription: sub,
            ..
        } = add;
        self.sql(
            "INSERT OR REPLACE INTO subscriptions (session, filter, options, identifier)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id.0, filter, write_options(sub), sub.id])?;
        let before = self.shared.insert(id, filter, *sub);
        self.state.subscription_was(id, filter, before);
        Ok(before.is_none())
    }

    pub(super) fn unsubscribe(&mut self, id: SessionId, filter: &Arc<str>) -> rusqlite::Result<()> {
        self.sql("DELETE FROM subscriptions WHERE session = ?1 AND filter = ?2")?
            .execute(params![id.0, filter])?;
        if let Some(before) = self.shared.remove(id, filter) {
            self.state.subscription_was(id, filter, Some(before));
        }
        Ok(())
    }

    pub(super) fn subscriptions_of(&self, id: SessionId) -> rusqlite::Result<Vec<Add>> {
        self.sql("SELECT filter, options, identifier FROM subscriptions WHERE session = ?1")?
            .query_map([id.0], |row| {
                Ok(Add {
                    filter: row.get(0)?,
                    subscription: read_options(row.get(1)?, row.get(2)?),
                    retained: SendRetained::Never,
                })
            })?
            .collect()
    }

    /// Reads every subscription of the file.
    pub(super) fn load_subscriptions(&mut self) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare("SELECT session, filter, options, identifier FROM subscriptions")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let filter: Arc<str> = row.get(1)?;
            let sub = read_options(row.get(2)?, row.get(3)?);
            self.shared.insert(SessionId(row.get(0)?), &filter, sub);
        }
        Ok(())
    }

    pub(super) fn list_subscriptions(&self) -> rusqlite::Result<Answer> {
        let all = self
            .sql(
                "SELECT s.client, u.filter, u.options, u.identifier
                 FROM subscriptions u JOIN sessions s ON s.id = u.session
                 ORDER BY s.client, u.filter",
            )?
            .query_map([], |row| {
                let sub = read_options(row.get(2)?, row.get(3)?);
                Ok(SubscriptionInfo {
                    client_id: row.get(0)?,
                    filter: row.get(1)?,
                    qos: sub.qos as u8,
                    no_local: sub.no_local,
                    retain_as_published: sub.retain_as_published,
                    identifier: sub.id,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Answer::Subscriptions(all))
    }
}

/// The bits of the options byte of SUBSCRIBE, without retain handling.
fn write_options(sub: &Sub) -> u8 {
    sub.qos as u8 | u8::from(sub.no_local) << 2 | u8::from(sub.retain_as_published) << 3
}

fn read_options(options: u8, id: Option<u32>) -> Sub {
    Sub {
        qos: read_qos(options),
        no_local: options & 0b100 != 0,
        retain_as_published: options & 0b1000 != 0,
        id,
    }
}
