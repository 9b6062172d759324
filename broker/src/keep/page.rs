//! From the file to the feed of a connected session.

use std::sync::Arc;

use rusqlite::params;

use super::{
    Item, SessionId,
    queue::{number, read_ids, read_qos},
    sealed::{Table, opened},
    writer::{Writer, cached},
};
use crate::{clock::passed_ms, fanout::Message};

/// Places read at once.
const PAGE: usize = if cfg!(test) { 16 } else { 256 };

/// Some places of a queue, in order.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// The last place that was looked at, damaged or not.
    last: i64,
    /// There may be more behind it.
    more: bool,
}

impl Writer {
    /// Brings more of a queue into the feed of its connected session.
    pub(super) fn page(&mut self, id: SessionId) -> rusqlite::Result<()> {
        let Some(session) = self.state.sessions.get(&id) else {
            return Ok(());
        };
        let (Some(feed), true) = (session.feed.clone(), session.behind) else {
            return Ok(());
        };
        let (mut loaded, sent_before) = (session.loaded, session.sent_before);
        let page = self.read(id, loaded, PAGE, feed.bytes_max())?;
        let (mut behind, mut up_to) = (page.more, page.last);
        for mut item in page.items {
            item.dup = item.position <= sent_before;
            if !feed.reserve(&item) {
                (behind, up_to) = (true, loaded);
                break;
            }
            loaded = item.position;
            self.state.deliver(&feed, item);
        }
        feed.set_behind(behind);
        if let Some(session) = self.state.change(id) {
            session.behind = behind;
            session.loaded = up_to;
            session.row.given = session.row.given.max(loaded);
        }
        Ok(())
    }

    /// Places behind `after`, not many more than `bytes_max`; what is damaged among
    /// them is gone.
    pub(super) fn read(
        &mut self,
        id: SessionId,
        after: i64,
        count: usize,
        bytes_max: u64,
    ) -> rusqlite::Result<Page> {
        let (wall, now_ms) = (self.shared.wall_ms(), self.shared.clock.now_ms());
        let budget = Arc::clone(&self.shared.budget);
        let mut page = Page {
            items: Vec::new(),
            last: after,
            more: false,
        };
        let (mut seen, mut bytes) = (0, 0);
        let mut damaged = Vec::new();
        {
            let mut statement = cached(
                &self.connection,
                "SELECT q.position, q.options, q.identifiers, q.message, m.kept_ms, m.checksum,
                        m.frame, q.bytes
                 FROM queue q LEFT JOIN messages m ON m.id = q.message
                 WHERE q.session = ?1 AND q.position > ?2 ORDER BY q.position LIMIT ?3",
            )?;
            let mut rows = statement.query(params![id.0, after, number(count)])?;
            while let Some(row) = rows.next()? {
                let position: i64 = row.get(0)?;
                let options: u8 = row.get(1)?;
                let waiting: Option<i64> = row.get(3)?;
                if waiting.is_some() {
                    bytes += row.get::<_, i64>(7)?.unsigned_abs();
                    if bytes > bytes_max && seen > 0 {
                        page.more = true;
                        break;
                    }
                }
                seen += 1;
                page.last = position;
                let message = match waiting {
                    None => None,
                    Some(_) => {
                        let frame: Option<&[u8]> = row.get_ref(6)?.as_blob_or_null()?;
                        let number = waiting.unwrap_or_default().to_string();
                        let (seal, row_of) = (&self.shared.config.seal, number.as_bytes());
                        let sound = frame
                            .map(|frame| opened(seal, Table::Messages, row_of, row.get(5), frame));
                        let sound = sound.transpose()?.flatten();
                        let age_ms = passed_ms(row.get::<_, Option<i64>>(4)?.unwrap_or(0), wall);
                        let message = sound
                            .and_then(|frame| Message::restore(&frame, age_ms, now_ms, &budget));
                        if message.is_none() {
                            damaged.push(position);
                            continue;
                        }
                        message
                    }
                };
                page.items.push(Item {
                    position,
                    qos: read_qos(options),
                    retain: options & 0b100 != 0,
                    subscription_ids: read_ids(row.get_ref(2)?.as_blob_or_null()?),
                    dup: false,
                    message,
                });
            }
        }
        page.more |= seen == count;
        for position in damaged {
            tracing::error!(session = id.0, position, "a queued message was damaged");
            self.shared.counters.kept_damaged.add(1);
            self.remove_place(id, position)?;
        }
        Ok(page)
    }
}
