//! Errands: messages of the gateway for one client, each queued once.
//!
//! Whoever sends one has its own file, and a crash between the two commits must neither
//! lose the message nor queue it again. So the token of an errand is committed with its
//! places in the queues, and stays until the sender says that it has noted as much.

use super::{Token, job::Answer, writer::Writer};
use crate::{errand::Addressee, fanout::Message};

/// One message for one client.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) message: Message,
    pub(crate) token: Token,
    pub(crate) to: Addressee,
}

/// What became of an [`Errand`].
#[derive(Debug, Clone)]
pub(crate) enum Ran {
    /// It is in the addressee's queue; the message as live subscribers are to see it.
    Queued(Message),
    /// It was queued before.
    Before,
    /// No persistent session of the addressee subscribes to it at QoS 1 or 2.
    Nobody,
    /// The addressee's queue has no room.
    Full,
}

impl Writer {
    /// Queues an errand for everybody who subscribes to it, if the addressee does and has
    /// room. An errand is nobody's share of work: shared subscriptions have no part in it.
    pub(super) fn errand(&mut self, errand: &Errand) -> rusqlite::Result<Answer> {
        let is_known = self
            .sql("SELECT 1 FROM errands WHERE token = ?1")?
            .exists([errand.token.as_slice()])?;
        if is_known {
            return Ok(Answer::Errand(Ran::Before));
        }
        let mut message = errand.message.clone();
        let mut targets = self.targets(&message, None);
        let to: Vec<_> = targets
            .iter()
            .map(|target| target.session)
            .filter(|id| {
                let session = self.state.sessions.get(id);
                session.is_some_and(|one| errand.to.is(&one.client, one.row.user.as_deref()))
            })
            .collect();
        if to.is_empty() {
            return Ok(Answer::Errand(Ran::Nobody));
        }
        let bytes = message.len() as u64;
        // It drops nothing that is owed already, and is tried again; others who would see
        // it and have no room go without.
        if !to.iter().any(|id| self.has_room(*id, bytes))
            || !self.make_room(&mut targets, bytes, false)?
            || !targets.iter().any(|target| to.contains(&target.session))
        {
            return Ok(Answer::Errand(Ran::Full));
        }
        if message.number() < self.shared.decided() {
            // Numbered before subscriptions changed, and matched with them now.
            let number = self.shared.retained.number();
            message = message.renumbered(number, &self.shared.budget);
        }
        self.enqueue(&message, targets)?;
        self.sql("INSERT INTO errands (token) VALUES (?1)")?
            .execute([errand.token.as_slice()])?;
        Ok(Answer::Errand(Ran::Queued(message)))
    }

    /// The tokens of errands that were queued and are not over.
    pub(super) fn errands(&self) -> rusqlite::Result<Answer> {
        let tokens = self
            .sql("SELECT token FROM errands")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Answer::Errands(tokens))
    }

    /// Their sender has noted that these were queued.
    pub(super) fn errands_are_over(&self, tokens: &[Token]) -> rusqlite::Result<Answer> {
        let mut statement = self.sql("DELETE FROM errands WHERE token = ?1")?;
        for token in tokens {
            statement.execute([token.as_slice()])?;
        }
        Ok(Answer::Done)
    }
}
