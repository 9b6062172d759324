//! Shared subscriptions, 4.8.2 of version 5; members of 3.1.1 are taken too.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    support::{Running, config, connect_v5, packet, start, string},
    wire::{Peer, connack},
};

async fn members(broker: &Running, count: usize, filter: &str, qos: u8) -> Vec<Peer> {
    let mut members = Vec::new();
    for n in 0..count {
        let mut peer = Peer::connect(broker, n % 2 == 0, &format!("member-{n}")).await;
        assert_eq!(peer.subscribe(filter, qos).await, qos);
        members.push(peer);
    }
    members
}

/// 4.8.2: each message to one member; and evenly, where all keep up.
#[tokio::test]
async fn each_message_goes_to_one_member_and_the_work_is_shared_evenly() {
    let broker = start(config()).await;
    let mut members = members(&broker, 4, "$share/g/t/+", 1).await;
    let mut whole = Peer::connect(&broker, true, "whole").await;
    whole.subscribe("t/#", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..40 {
        publisher.publish("t/x", 1, &n.to_string()).await;
    }
    let mut seen = BTreeSet::new();
    for peer in &mut members {
        for _ in 0..10 {
            assert!(seen.insert(peer.receive().await.payload), "to one member");
        }
        peer.nothing().await;
    }
    assert_eq!(seen.len(), 40);
    for n in 0..40 {
        assert_eq!(whole.receive().await.payload, n.to_string());
    }
    broker.stop().await;
}

/// 4.8.2: groups are independent of each other, by name and by filter, and of the
/// member's own other subscriptions.
#[tokio::test]
async fn every_group_gets_every_message_and_so_do_the_member_s_own_subscriptions() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.subscribe_as("$share/one/t", 2, Some(1)).await;
    peer.subscribe_as("$share/two/t", 1, Some(2)).await;
    peer.subscribe_as("$share/one/+", 0, Some(3)).await;
    peer.subscribe_as("t", 2, Some(4)).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("t", 2, "x").await;
    let mut got = BTreeMap::new();
    for _ in 0..4 {
        // 3.3.4: each copy names the subscription that it is for.
        let message = peer.receive().await;
        let ids = message.all(0x0B);
        assert_eq!(ids.len(), 1);
        got.insert(ids[0][0], message.qos);
    }
    // [MQTT-4.8.2-3]: each at the QoS of its subscription.
    assert_eq!(got, BTreeMap::from([(1, 2), (2, 1), (3, 0), (4, 2)]));
    peer.nothing().await;
    broker.stop().await;
}

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2], [MQTT-3.8.3-4].
#[tokio::test]
async fn a_shared_subscription_that_cannot_be_is_refused() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    for bad in [
        "$share/g",
        "$share/g/",
        "$share//t",
        "$share/+/t",
        "$share/a#b/t",
        "$share/g/t#",
    ] {
        assert_eq!(peer.subscribe(bad, 1).await, 0x8F, "{bad}");
    }
    peer.client
        .send(&packet(
            0x82,
            &[&[0, 1, 0], &string("$share/g/t"), &[0b100]],
        ))
        .await;
    peer.client.expect_disconnect(0x82).await;
    broker.stop().await;
}

/// 3.3.1.3 of 5, 4.8.2: retained messages are not sent to a shared subscription.
#[tokio::test]
async fn a_shared_subscription_brings_no_retained_messages() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.retain("t", "kept").await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.subscribe("$share/g/t", 1).await;
    peer.nothing().await;
    publisher.publish("t", 1, "live").await;
    assert_eq!(peer.receive().await.payload, "live");
    broker.stop().await;
}

/// 4.8.2: what a member has not acknowledged when its session ends goes to another,
/// before what came later.
#[tokio::test]
async fn qos_1_messages_of_a_member_that_leaves_go_to_another_in_order() {
    let broker = start(config()).await;
    let mut leaver = Peer::of(broker.v5_with("leaver", &[0x21, 0, 5]).await, true);
    leaver.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..10 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    // Five are in flight, of which one is acknowledged; the others wait.
    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.push(leaver.take().await);
    }
    leaver.acknowledge(&taken[2]).await;
    leaver.take().await;
    let mut stayer = Peer::of(broker.v5_with("stayer", &[0x21, 0, 1]).await, true);
    stayer.subscribe("$share/g/t", 1).await;
    let first = stayer.take().await;
    leaver.client.abort();
    broker.until("gone", |now| now.sessions_open == 2).await;
    stayer.acknowledge(&first).await;
    let mut got = vec![first.payload];
    for _ in 0..8 {
        let message = stayer.receive().await;
        assert!(!message.dup, "the first time for this client");
        got.push(message.payload);
    }
    assert_eq!(got, ["6", "0", "1", "3", "4", "5", "7", "8", "9"]);
    stayer.nothing().await;
    broker.stop().await;
}

/// [MQTT-4.8.2-5]: a QoS 2 message that was sent to a member whose session ended goes
/// to no other; one that was not sent does.
#[tokio::test]
async fn a_qos_2_message_that_was_sent_goes_to_nobody_else() {
    let broker = start(config()).await;
    let mut leaver = Peer::of(broker.v5_with("leaver", &[0x21, 0, 1]).await, true);
    leaver.subscribe("$share/g/t", 2).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for payload in ["sent", "waiting"] {
        publisher.publish("t", 2, payload).await;
    }
    assert_eq!(leaver.take().await.payload, "sent");
    let mut stayer = Peer::connect(&broker, true, "stayer").await;
    stayer.subscribe("$share/g/t", 2).await;
    leaver.client.abort();
    assert_eq!(stayer.receive().await.payload, "waiting");
    publisher.publish("t", 2, "next").await;
    assert_eq!(stayer.receive().await.payload, "next");
    broker.stop().await;
}

/// [MQTT-4.8.2-6]: what a member refuses goes to nobody else.
#[tokio::test]
async fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for (qos, ack) in [(1, 0x40), (2, 0x50)] {
        let mut refusing = Peer::connect(&broker, true, "refusing").await;
        refusing.subscribe("$share/g/t", qos).await;
        publisher.publish("t", qos, "refused").await;
        let message = refusing.take().await;
        let [high, low] = message.id.to_be_bytes();
        refusing.client.send(&[ack, 3, high, low, 0x97]).await;
        refusing.nothing().await;
        let mut other = Peer::connect(&broker, true, "other").await;
        other.subscribe("$share/g/t", qos).await;
        drop(refusing);
        broker.until("gone", |now| now.sessions_open == 2).await;
        publisher.publish("t", qos, "next").await;
        assert_eq!(other.receive().await.payload, "next");
        drop(other);
        broker.until("gone", |now| now.sessions_open == 1).await;
    }
    broker.stop().await;
}

/// A member that takes nothing is passed over; the others get the rest.
#[tokio::test]
async fn a_member_that_does_not_acknowledge_holds_up_its_window_only() {
    let broker = start(config()).await;
    let mut stuck = Peer::of(broker.v5_with("stuck", &[0x21, 0, 2]).await, true);
    stuck.subscribe("$share/g/t", 1).await;
    let mut busy = Peer::connect(&broker, false, "busy").await;
    busy.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut got = 0;
    for n in 0..20 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    while got < 18 {
        busy.receive().await;
        got += 1;
    }
    busy.nothing().await;
    stuck.take().await;
    stuck.take().await;
    stuck.nothing().await;
    broker.stop().await;
}

/// [MQTT-3.10.4-1]: who unsubscribes gets no more; the group goes on, and ends with its
/// last member.
#[tokio::test]
async fn a_group_goes_on_without_who_unsubscribes() {
    let broker = start(config()).await;
    let mut members = members(&broker, 2, "$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    assert_eq!(members[0].unsubscribe("$share/g/t").await, 0);
    assert_eq!(members[0].unsubscribe("$share/g/t").await, 0x11);
    for n in 0..4 {
        publisher.publish("t", 1, &n.to_string()).await;
        assert_eq!(members[1].receive().await.payload, n.to_string());
    }
    members[1].unsubscribe("$share/g/t").await;
    assert_eq!(broker.handle.metrics().subscriptions, 0);
    publisher.publish("t", 1, "to nobody").await;
    members[0].subscribe("$share/g/t", 1).await;
    publisher.publish("t", 1, "last").await;
    assert_eq!(members[0].receive().await.payload, "last");
    broker.stop().await;
}

/// Members come and go while messages flow: none is lost, and none that was
/// acknowledged comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_members_come_and_go() {
    const MESSAGES: usize = 400;
    let broker = start(config()).await;
    let mut stayer = Peer::connect(&broker, true, "stayer").await;
    stayer.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let publish = tokio::spawn(async move {
        for n in 0..MESSAGES {
            publisher.publish("t", 1, &n.to_string()).await;
        }
    });
    let mut acknowledged: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..10 {
        let mut guest = Peer::connect(&broker, false, &format!("guest-{round}")).await;
        // A message may be here before SUBACK's turn, so it is taken by hand.
        guest
            .client
            .send(&packet(0x82, &[&[0, 1], &string("$share/g/t"), &[1]]))
            .await;
        guest.client.expect(&[0x90, 3, 0, 1, 1]).await;
        for _ in 0..5 {
            let message = stayer.receive().await;
            *acknowledged.entry(message.payload).or_default() += 1;
        }
        guest.client.abort();
    }
    publish.await.unwrap();
    while acknowledged.len() < MESSAGES {
        let message = stayer.receive().await;
        *acknowledged.entry(message.payload).or_default() += 1;
    }
    assert!(acknowledged.values().all(|&times| times == 1));
    stayer.nothing().await;
    broker.stop().await;
}

/// A member whose session lasts, at its last place or anew.
async fn lasting(broker: &Running, id: &str, clean: bool, window: u8) -> Peer {
    let mut client = broker.raw().await;
    let properties = [0x11, 0, 0, 0, 60, 0x21, 0, window];
    let flags = if clean { 2 } else { 0 };
    client.send(&connect_v5(id, flags, 0, &properties)).await;
    let (present, code, _) = connack(&client.packet().await);
    assert_eq!((present, code), (!clean, 0));
    Peer::of(client, true)
}

async fn away(broker: &Running, mut peer: Peer) {
    let open = broker.handle.metrics().sessions_open;
    peer.client.send(&[0xE0, 0]).await;
    peer.client.expect_end().await;
    broker
        .until("gone", |now| now.sessions_open == open - 1)
        .await;
}

/// 4.8.2 with sessions that last: what comes while all members are away waits for them,
/// each message for one.
#[tokio::test]
async fn messages_wait_for_members_that_are_away() {
    let broker = start(config()).await;
    for id in ["one", "two"] {
        let mut peer = lasting(&broker, id, true, 20).await;
        peer.subscribe("$share/g/t", 2).await;
        away(&broker, peer).await;
    }
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..10 {
        publisher.publish("t", 1 + n % 2, &n.to_string()).await;
    }
    let mut got = BTreeSet::new();
    for id in ["one", "two"] {
        let mut peer = lasting(&broker, id, false, 20).await;
        for _ in 0..5 {
            assert!(got.insert(peer.receive().await.payload));
        }
        peer.nothing().await;
    }
    assert_eq!(got.len(), 10);
    broker.stop().await;
}

/// 4.8.2: members that are there come before members that are away.
#[tokio::test]
async fn a_member_that_is_there_gets_what_comes_while_another_is_away() {
    let broker = start(config()).await;
    let mut absent = lasting(&broker, "absent", true, 20).await;
    absent.subscribe("$share/g/t", 1).await;
    away(&broker, absent).await;
    let mut present = lasting(&broker, "present", true, 20).await;
    present.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..10 {
        publisher.publish("t", 1, &n.to_string()).await;
        assert_eq!(present.receive().await.payload, n.to_string());
    }
    broker.stop().await;
}

/// [MQTT-4.8.2-4]: a QoS 2 message in flight is completed with the same client when it
/// comes back, although another member is there.
#[tokio::test]
async fn a_qos_2_message_is_completed_with_the_member_that_has_it() {
    let broker = start(config()).await;
    let mut first = lasting(&broker, "first", true, 20).await;
    first.subscribe("$share/g/t", 2).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("t", 2, "half").await;
    let half = first.take().await;
    first.client.abort();
    broker.until("gone", |now| now.sessions_open == 1).await;
    let mut second = lasting(&broker, "second", true, 20).await;
    second.subscribe("$share/g/t", 2).await;
    publisher.publish("t", 2, "whole").await;
    assert_eq!(second.receive().await.payload, "whole");
    second.nothing().await;
    let mut first = lasting(&broker, "first", false, 20).await;
    let again = first.receive().await;
    assert!(again.dup);
    assert_eq!((&*again.payload, again.id), ("half", half.id));
    first.nothing().await;
    broker.stop().await;
}

/// 4.8.2, [MQTT-4.8.2-5]: when a session ends, what it was owed moves to another member,
/// but for what it was sent at QoS 2.
#[tokio::test]
async fn what_a_session_that_ends_was_owed_moves_to_another_member() {
    let broker = start(config()).await;
    let mut ending = lasting(&broker, "ending", true, 20).await;
    ending.subscribe("$share/g/t", 2).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("t", 2, "sent at 2").await;
    publisher.publish("t", 1, "sent at 1").await;
    ending.take().await;
    ending.take().await;
    away(&broker, ending).await;
    for (qos, payload) in [(1, "waiting at 1"), (2, "waiting at 2")] {
        publisher.publish("t", qos, payload).await;
    }
    let mut other = lasting(&broker, "other", true, 20).await;
    other.subscribe("$share/g/t", 2).await;
    other.nothing().await;
    let _anew = lasting(&broker, "ending", true, 20).await;
    for payload in ["sent at 1", "waiting at 1", "waiting at 2"] {
        let message = other.receive().await;
        assert_eq!(message.payload, payload);
        assert!(!message.dup);
    }
    other.nothing().await;
    broker.stop().await;
}

/// What a group with persistent members is owed is on disk, and so is who its members
/// are: also over a restart, each message goes to one.
#[tokio::test]
async fn a_shared_subscription_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = config();
        config.keep.dir = Some(dir.path().to_owned());
        config
    };
    let broker = start(config()).await;
    for id in ["one", "two"] {
        let mut peer = lasting(&broker, id, true, 20).await;
        peer.subscribe("$share/g/t", 1).await;
        away(&broker, peer).await;
    }
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..4 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    broker.stop().await;
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 4..6 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    // One of them never comes back to its session: the other gets its part.
    let _anew = lasting(&broker, "one", true, 20).await;
    let mut two = lasting(&broker, "two", false, 20).await;
    let mut got = BTreeSet::new();
    for _ in 0..6 {
        assert!(got.insert(two.receive().await.payload));
    }
    two.nothing().await;
    broker.stop().await;
}

/// A group of both kinds: with a session that lasts or without, each message goes to one.
#[tokio::test]
async fn a_group_with_both_kinds_of_members_gives_each_message_once() {
    let broker = start(config()).await;
    let mut lasting_one = lasting(&broker, "lasting", true, 20).await;
    lasting_one.subscribe("$share/g/t", 1).await;
    let mut passing = Peer::connect(&broker, true, "passing").await;
    passing.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..6 {
        publisher.publish("t", 1, &n.to_string()).await;
        assert_eq!(lasting_one.receive().await.payload, n.to_string());
    }
    passing.nothing().await;
    assert_eq!(lasting_one.unsubscribe("$share/g/t").await, 0);
    publisher.publish("t", 1, "last").await;
    assert_eq!(passing.receive().await.payload, "last");
    lasting_one.nothing().await;
    broker.stop().await;
}

/// 4.8.2: a member whose client is away holds nobody up: who is there gets what comes.
#[tokio::test]
async fn a_member_that_is_away_silences_nobody() {
    let broker = start(config()).await;
    let mut absent = lasting(&broker, "absent", true, 20).await;
    absent.subscribe("$share/g/t", 1).await;
    away(&broker, absent).await;
    let mut worker = Peer::connect(&broker, true, "worker").await;
    worker.subscribe("$share/g/t", 2).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..6 {
        publisher.publish("t", 1 + n % 2, &n.to_string()).await;
        assert_eq!(worker.receive().await.payload, n.to_string());
    }
    worker.nothing().await;
    let mut absent = lasting(&broker, "absent", false, 20).await;
    absent.nothing().await;
    broker.stop().await;
}

/// 4.8.2: what the last member that was there leaves behind waits for one that is away,
/// but for what it was sent at QoS 2.
#[tokio::test]
async fn what_a_worker_leaves_behind_waits_for_a_member_that_is_away() {
    let broker = start(config()).await;
    let mut absent = lasting(&broker, "absent", true, 20).await;
    absent.subscribe("$share/g/t", 2).await;
    away(&broker, absent).await;
    let mut worker = Peer::of(broker.v5_with("worker", &[0x21, 0, 2]).await, true);
    worker.subscribe("$share/g/t", 2).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for (qos, payload) in [(2, "sent at 2"), (1, "sent at 1"), (1, "a"), (2, "b")] {
        publisher.publish("t", qos, payload).await;
    }
    worker.take().await;
    worker.take().await;
    worker.client.abort();
    broker
        .until("all is back", |now| now.queued_messages == 3)
        .await;
    let mut absent = lasting(&broker, "absent", false, 20).await;
    let mut got = BTreeSet::new();
    for _ in 0..3 {
        let message = absent.receive().await;
        got.insert((message.payload, message.qos));
    }
    // At the lower of the two [MQTT-3.8.4-8], whoever had it before.
    let all = [("sent at 1", 1), ("a", 1), ("b", 2)];
    let all = all.map(|(payload, qos)| (payload.to_owned(), qos));
    assert_eq!(got, BTreeSet::from(all));
    absent.nothing().await;
    assert_eq!(broker.handle.metrics().dropped_shared, 0);
    broker.stop().await;
}

/// 4.8.2: when a session ends, what it was owed goes to members that are connected,
/// where no other session is left.
#[tokio::test]
async fn what_a_session_that_ends_was_owed_is_offered_to_who_is_there() {
    let broker = start(config()).await;
    let mut ending = lasting(&broker, "ending", true, 20).await;
    ending.subscribe("$share/g/t", 1).await;
    away(&broker, ending).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..3 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    let mut worker = Peer::connect(&broker, true, "worker").await;
    worker.subscribe("$share/g/t", 1).await;
    worker.nothing().await;
    let _anew = lasting(&broker, "ending", true, 20).await;
    for n in 0..3 {
        assert_eq!(worker.receive().await.payload, n.to_string());
    }
    worker.nothing().await;
    assert_eq!(broker.handle.metrics().dropped_shared, 0);
    broker.stop().await;
}

/// What nobody is left for is counted.
#[tokio::test]
async fn what_nobody_is_left_for_is_dropped_and_counted() {
    let broker = start(config()).await;
    let mut only = Peer::of(broker.v5_with("only", &[0x21, 0, 1]).await, true);
    only.subscribe("$share/g/t", 1).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for n in 0..3 {
        publisher.publish("t", 1, &n.to_string()).await;
    }
    only.take().await;
    only.client.abort();
    broker.until("counted", |now| now.dropped_shared == 3).await;
    broker.stop().await;
}
