//! Checks passwords: few at a time, off the threads that serve clients, and not
//! again when it was done before.
//!
//! A check takes memory and milliseconds on purpose, so [`Verifier`] does at most
//! as many at once as it was told; others wait, each address behind itself ([`Places`]). What was right is
//! remembered as a keyed hash of user, password and stored hash, for as long as a
//! session lives by it and some time after, so that a thousand devices that come
//! back together are not a thousand checks. The key is random and new at each
//! start; what is remembered is never written anywhere.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    lockout::Charge,
    passwords,
    places::{Place, Places},
};
use crate::metrics::Counters;

/// Credentials that are remembered at a time.
const REMEMBERED_MAX: usize = 65_536;

type Fingerprint = [u8; 32];

/// See the module.
#[derive(Debug)]
pub(crate) struct Verifier {
    key: [u8; 32],
    places: Arc<Places>,
    remember: Duration,
    remembered: Mutex<HashMap<Fingerprint, Arc<Proof>>>,
    counters: Arc<Counters>,
}

/// That a password was right, and when a session lived by it last.
#[derive(Debug)]
struct Proof {
    last: Mutex<Instant>,
}

/// A session lives by a proof for as long as it holds this.
#[derive(Debug)]
pub(crate) struct Proven(Arc<Proof>);

impl Drop for Proven {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Proof {
    fn is_good(self: &Arc<Self>, remember: Duration) -> bool {
        Arc::strong_count(self) > 1
            || self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed()
                < remember
    }
}

/// What is to be checked, and where it comes from.
#[derive(Clone, Copy)]
pub(super) struct Login<'l> {
    pub(super) user: &'l str,
    pub(super) hash: &'l Arc<str>,
    pub(super) password: &'l [u8],
    pub(super) is_real: bool,
    pub(super) address: IpAddr,
}

/// How a check ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Right(Proven),
    Wrong,
    /// There was none: too many have failed.
    NotNow,
}

impl Verifier {
    /// At most `at_once` checks at a time, of which `of_one_address` are for one.
    pub(super) fn new(
        at_once: usize,
        of_one_address: usize,
        remember: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            key: rand::random(),
            places: Places::new(at_once, of_one_address),
            remember,
            remembered: Mutex::default(),
            counters,
        }
    }

    /// A number that stands for `text`, different at each start.
    pub(crate) fn number(&self, text: &str) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] =
            *blake3::keyed_hash(&self.key, text.as_bytes()).as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether these are remembered to be right.
    pub(crate) fn known(&self, user: &str, hash: &str, password: &[u8]) -> Option<Proven> {
        let fingerprint = self.fingerprint(user, hash, password);
        let remembered = self.lock();
        let proof = remembered.get(&fingerprint)?;
        proof
            .is_good(self.remember)
            .then(|| Proven(Arc::clone(proof)))
    }

    /// Checks a password against its user's hash. Without `is_real` the work is done
    /// all the same and the answer is no. `begin` is asked when there is a place: what
    /// was allowed before the wait may not be any more.
    pub(super) async fn check(
        &self,
        login: Login<'_>,
        begin: impl FnOnce() -> Option<Charge>,
    ) -> Outcome {
        let Login {
            user,
            hash,
            password,
            is_real,
            address,
        } = login;
        let Some(place) = self.places.take(address).await else {
            return Outcome::Wrong;
        };
        // Whoever was here before may have had the same.
        if is_real && let Some(proven) = self.known(user, hash, password) {
            return Outcome::Right(proven);
        }
        let Some(charge) = begin() else {
            return Outcome::NotNow;
        };
        self.counters.passwords_checked.add(1);
        let (hash_of_it, password_of_it) = (Arc::clone(hash), Box::<[u8]>::from(password));
        let right = tokio::task::spawn_blocking(move || {
            // Kept until the work is over, also when nobody waits for it any more.
            let _place: Place = place;
            let right = passwords::is_right(&password_of_it, &hash_of_it) && is_real;
            if right {
                charge.right();
            } else {
                charge.wrong();
            }
            right
        });
        let right = right.await.unwrap_or(false);
        if !right {
            return Outcome::Wrong;
        }
        let proof = Arc::new(Proof {
            last: Mutex::new(Instant::now()),
        });
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, proof| proof.is_good(self.remember));
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(self.fingerprint(user, hash, password), Arc::clone(&proof));
        }
        Outcome::Right(Proven(proof))
    }

    fn fingerprint(&self, user: &str, hash: &str, password: &[u8]) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Arc<Proof>>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        lockout::{Config, Lockout},
        passwords::Cost,
    };

    fn hash(password: &str) -> Arc<str> {
        let cost = Cost {
            memory_kib: 8,
            iterations: 1,
        };
        Arc::from(passwords::hash(password.as_bytes(), cost).unwrap())
    }

    async fn check(
        verifier: &Verifier,
        user: &str,
        hash: &Arc<str>,
        password: &[u8],
        is_real: bool,
    ) -> Option<Proven> {
        let (lockout, config) = (Arc::new(Lockout::default()), Config::default());
        let login = Login {
            user,
            hash,
            password,
            is_real,
            address: [10, 0, 0, 1].into(),
        };
        let begin = || lockout.charge(&config, login.address, 7);
        match verifier.check(login, begin).await {
            Outcome::Right(proven) => Some(proven),
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_was_right_is_not_checked_again_while_a_session_lives_by_it() {
        let counters = Arc::<Counters>::default();
        let verifier = Verifier::new(1, 1, Duration::ZERO, Arc::clone(&counters));
        let stored = hash("sesame");
        let proven = check(&verifier, "d", &stored, b"sesame", true)
            .await
            .unwrap();
        assert!(verifier.known("d", &stored, b"sesame").is_some());
        assert!(
            check(&verifier, "d", &stored, b"sesame", true)
                .await
                .is_some()
        );
        assert_eq!(counters.passwords_checked.get(), 1);
        // Another user, another password, another stored hash.
        assert!(verifier.known("e", &stored, b"sesame").is_none());
        assert!(verifier.known("d", &stored, b"Sesame").is_none());
        assert!(verifier.known("d", &hash("sesame"), b"sesame").is_none());
        drop(proven);
        assert!(
            verifier.known("d", &stored, b"sesame").is_none(),
            "its time is over"
        );
    }

    #[tokio::test]
    async fn what_was_wrong_or_unreal_is_not_remembered() {
        let counters = Arc::<Counters>::default();
        let verifier = Verifier::new(2, 2, Duration::from_secs(60), Arc::clone(&counters));
        let stored = hash("sesame");
        assert!(
            check(&verifier, "d", &stored, b"guess", true)
                .await
                .is_none()
        );
        assert!(
            check(&verifier, "x", &stored, b"sesame", false)
                .await
                .is_none()
        );
        assert_eq!(counters.passwords_checked.get(), 2);
        assert!(verifier.known("d", &stored, b"guess").is_none());
        assert!(verifier.known("x", &stored, b"sesame").is_none());
    }

    #[tokio::test]
    async fn it_is_remembered_for_a_time_after_the_session() {
        let verifier = Verifier::new(1, 1, Duration::from_secs(60), Arc::default());
        let stored = hash("sesame");
        drop(
            check(&verifier, "d", &stored, b"sesame", true)
                .await
                .unwrap(),
        );
        assert!(verifier.known("d", &stored, b"sesame").is_some());
    }
}
