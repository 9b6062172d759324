//! Errands: each queued once, for whom it is.

use super::*;
use crate::{
    errand::Addressee,
    keep::{Errand, Ran, Token},
};

const ONE: Token = [1; 16];
const OTHER: Token = [2; 16];

impl Running {
    /// Queues an errand at QoS 2.
    async fn errand(&self, payload: &str, token: Token, to: Addressee) -> Ran {
        let message = self.message("devices/pump/commands", payload, QoS::ExactlyOnce, false);
        let errand = Errand { message, token, to };
        self.keeper.errand(errand).await.unwrap()
    }

    async fn away(&self, client: &str, filter: &str, qos: QoS) {
        let session = self.enter(client, false).await.session;
        self.subscribe(session, filter, qos).await;
        self.leave(session, 0).await;
    }
}

fn pump() -> Addressee {
    Addressee::Name(Arc::from("pump"))
}

#[tokio::test]
async fn an_errand_is_queued_once_until_its_sender_says_that_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    running
        .away("pump", "devices/pump/#", QoS::ExactlyOnce)
        .await;
    let first = running.errand("start", ONE, pump()).await;
    assert!(matches!(first, Ran::Queued(_)), "{first:?}");
    let again = running.errand("start", ONE, pump()).await;
    assert!(matches!(again, Ran::Before), "{again:?}");
    running.until_queued(1).await;

    // As kill -9 leaves it.
    let after = tempfile::tempdir().unwrap();
    crash(dir.path(), after.path());
    let running = open(config(after.path()));
    assert_eq!(running.keeper.errands().await.unwrap(), [ONE]);
    let again = running.errand("start", ONE, pump()).await;
    assert!(matches!(again, Ran::Before), "{again:?}");
    let next = running.errand("stop", OTHER, pump()).await;
    assert!(matches!(next, Ran::Queued(_)), "{next:?}");
    running.until_queued(2).await;

    running.keeper.errands_are_over(vec![ONE]).await.unwrap();
    assert_eq!(running.keeper.errands().await.unwrap(), [OTHER]);
    let entered = running.enter("pump", false).await;
    assert_eq!(texts(&entered), ["start", "stop"]);
}

#[tokio::test]
async fn an_errand_waits_for_its_addressee_whoever_else_listens() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    running.away("monitor", "devices/#", QoS::ExactlyOnce).await;
    let ran = running.errand("start", ONE, pump()).await;
    assert!(matches!(ran, Ran::Nobody), "{ran:?}");
    assert!(
        !running
            .keeper
            .shared()
            .is_kept_for("devices/pump/commands", &pump())
    );
    // QoS 0 is not kept for anybody.
    running
        .away("pump", "devices/pump/#", QoS::AtMostOnce)
        .await;
    let ran = running.errand("start", ONE, pump()).await;
    assert!(matches!(ran, Ran::Nobody), "{ran:?}");
    assert_eq!(running.keeper.errands().await.unwrap(), [] as [Token; 0]);

    running
        .away("pump", "devices/pump/#", QoS::AtLeastOnce)
        .await;
    assert!(
        running
            .keeper
            .shared()
            .is_kept_for("devices/pump/commands", &pump())
    );
    let ran = running.errand("start", ONE, pump()).await;
    assert!(matches!(ran, Ran::Queued(_)), "{ran:?}");
    // The monitor's copy and the pump's.
    running.until_queued(2).await;
}

#[tokio::test]
async fn an_errand_that_finds_no_room_may_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    // Also where an old message would make room for another publisher's.
    let small = Config {
        queue_messages_max: 1,
        queue_full: crate::QueueFull::DropOldest,
        ..config(dir.path())
    };
    let running = open(small);
    running
        .away("pump", "devices/pump/#", QoS::ExactlyOnce)
        .await;
    let ran = running.errand("start", ONE, pump()).await;
    assert!(matches!(ran, Ran::Queued(_)), "{ran:?}");
    for _ in 0..3 {
        let ran = running.errand("stop", OTHER, pump()).await;
        assert!(matches!(ran, Ran::Full), "{ran:?}");
    }
    assert_eq!(running.counters.dropped_kept_queue_full.get(), 0);
    let entered = running.enter("pump", false).await;
    let done = Turn {
        done: vec![1],
        ..Turn::default()
    };
    running.keeper.turn(entered.session, done).await.unwrap();
    let ran = running.errand("stop", OTHER, pump()).await;
    assert!(matches!(ran, Ran::Queued(_)), "{ran:?}");
}

#[test]
fn a_name_is_a_users_or_that_of_an_anonymous_client() {
    let user = Addressee::User(Arc::from("pump"));
    let client = Addressee::Client(Arc::from("pump"));
    for (to, client_id, user, expect) in [
        (&pump(), "x", Some("pump"), true),
        (&pump(), "pump", None, true),
        (&pump(), "pump", Some("thief"), false),
        (&pump(), "x", None, false),
        (&user, "pump", None, false),
        (&user, "x", Some("pump"), true),
        (&client, "pump", Some("fleet"), true),
        (&client, "pump", None, true),
        (&client, "x", Some("pump"), false),
    ] {
        assert_eq!(
            to.is(client_id, user),
            expect,
            "{to:?} {client_id} {user:?}"
        );
    }
}
