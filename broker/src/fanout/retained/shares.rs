//! Who has how much of the retained messages.
//!
//! One client that retains without end must not take the room of all others. So nobody may
//! have more than some times what is left: [`TIMES_CLIENT`] for a client, [`TIMES_USER`]
//! for all clients of a user. One alone comes to four fifths of all, several that want
//! everything leave less, but always some, and who has little finds room to the last.
//!
//! Names are remembered as hashes, which differ with each process; two that are equal share.
//! Whose the messages are that a file brings is not known: they are nobody's, and so is
//! what comes with wills and from the gateway itself.

use std::{collections::HashMap, hash::BuildHasher, hash::RandomState};

/// What one client may have, in times of what is left.
const TIMES_CLIENT: usize = 4;
/// The same of one user; of all clients together that do not say who they are.
const TIMES_USER: usize = 16;

/// Who retained a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    client: u64,
    user: u64,
}

/// Topics, and the bytes of their messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) topics: usize,
    pub(crate) bytes: usize,
}

impl Amount {
    /// With a message of so many bytes more; without bytes there is none.
    pub(super) fn add(&mut self, bytes: usize) {
        self.topics += usize::from(bytes > 0);
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.topics -= 1;
        self.bytes -= bytes;
    }
}

/// Makes owners of names.
#[derive(Debug, Default)]
pub(super) struct Names(RandomState);

/// What each owner has.
#[derive(Debug, Default)]
pub(super) struct Shares {
    clients: HashMap<u64, Amount>,
    users: HashMap<u64, Amount>,
}

impl Names {
    pub(super) fn owner(&self, client: &str, user: Option<&str>) -> Owner {
        Owner {
            client: self.0.hash_one(client),
            user: self.0.hash_one(user),
        }
    }
}

impl Shares {
    pub(super) fn add(&mut self, of: Owner, bytes: usize) {
        for amount in [
            self.clients.entry(of.client).or_default(),
            self.users.entry(of.user).or_default(),
        ] {
            amount.add(bytes);
        }
    }

    pub(super) fn remove(&mut self, of: Owner, bytes: usize) {
        let [clients, users] = [&mut self.clients, &mut self.users];
        for (shares, name) in [(clients, of.client), (users, of.user)] {
            if let Some(amount) = shares.get_mut(&name) {
                amount.remove(bytes);
                if amount.topics == 0 {
                    shares.remove(&name);
                }
            }
        }
    }

    /// Whether an owner may have so many topics more where `left` are left.
    pub(super) fn may_have_topics(&self, of: Owner, more: usize, left: usize) -> bool {
        self.may_have(of, left, |has| has.topics + more)
    }

    /// Whether an owner may have so many bytes more where `left` are left.
    pub(super) fn may_have_bytes(&self, of: Owner, more: usize, left: usize) -> bool {
        self.may_have(of, left, |has| has.bytes + more)
    }

    fn may_have(&self, of: Owner, left: usize, then: impl Fn(Amount) -> usize) -> bool {
        let has = |shares: &HashMap<u64, Amount>, name| shares.get(&name).copied();
        let client = has(&self.clients, of.client).unwrap_or_default();
        let user = has(&self.users, of.user).unwrap_or_default();
        then(client) <= left.saturating_mul(TIMES_CLIENT)
            && then(user) <= left.saturating_mul(TIMES_USER)
    }
}
