//! Inbound QoS 2 exchanges of one session, by packet identifier.
//!
//! In a persistent session each has a token, which is on disk before its message goes
//! anywhere. The identity that the token gives the message makes it the same message
//! when the client sends it again after a crash.

use std::collections::HashMap;

use crate::{Publish, keep::Token};

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Begun on an earlier connection; nobody knows what became of its message.
    Begun,
    /// PUBREC is still to come.
    Pending,
    /// PUBREC is sent; PUBREL is awaited.
    Received,
}

#[derive(Debug, Clone, Copy)]
struct Exchange {
    stage: Stage,
    token: Option<Token>,
    /// It counts against the receive maximum of this connection.
    is_open: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    by_id: HashMap<u16, Exchange>,
}

/// What was known of an exchange that is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Over {
    pub(super) token: Option<Token>,
    pub(super) was_open: bool,
}

impl Exchanges {
    /// Those of a session that was there before.
    pub(super) fn resume(before: &[(u16, Token, bool)]) -> Self {
        let exchange = |&(id, token, received): &(u16, Token, bool)| {
            let stage = if received {
                Stage::Received
            } else {
                Stage::Begun
            };
            let exchange = Exchange {
                stage,
                token: Some(token),
                is_open: false,
            };
            (id, exchange)
        };
        Self {
            by_id: before.iter().map(exchange).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn stage(&self, id: u16) -> Option<Stage> {
        self.by_id.get(&id).map(|one| one.stage)
    }

    pub(super) fn token(&self, id: u16) -> Option<Token> {
        self.by_id.get(&id)?.token
    }

    /// A PUBLISH is taken: the exchange waits for its verdict. In a persistent session
    /// its token, and whether that is to be written first.
    pub(super) fn begin(&mut self, id: u16, is_durable: bool) -> Option<(Token, bool)> {
        let known = self.by_id.get(&id).and_then(|one| one.token);
        let token = known.or_else(|| is_durable.then(rand::random));
        let exchange = Exchange {
            stage: Stage::Pending,
            token,
            is_open: true,
        };
        self.by_id.insert(id, exchange);
        token.map(|token| (token, known.is_none()))
    }

    pub(super) fn received(&mut self, id: u16) {
        if let Some(exchange) = self.by_id.get_mut(&id) {
            exchange.stage = Stage::Received;
        }
    }

    pub(super) fn end(&mut self, id: u16, capacity_max: usize) -> Option<Over> {
        let over = self.by_id.remove(&id)?;
        if self.by_id.is_empty() && self.by_id.capacity() > capacity_max {
            self.by_id = HashMap::new();
        }
        Some(Over {
            token: over.token,
            was_open: over.is_open,
        })
    }
}

/// What makes a message the same each time it is sent within its exchange.
pub(super) fn delivery(token: &Token, publish: &Publish) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(token);
    hasher.update(&(publish.topic.len() as u64).to_be_bytes());
    hasher.update(publish.topic.as_bytes());
    hasher.update(&publish.payload);
    let mut identity = [0; 16];
    identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    identity
}
