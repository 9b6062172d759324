//! Where `broker.db` has no more room: what is said then, and what is not.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use penstock_broker::Config;

use crate::{
    resuming::{again, kept, leave_behind, resume},
    support::{Client, Running, connect_v5, crash, packet, publish_v4, publish_v5, start, string},
};

/// A tmpfs of two MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, said aloud, where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "penstock-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            // Past the capture of output, so that it is seen although the test passes.
            writeln!(io::stderr(), "SKIPPED: mounting a small tmpfs needs root")
                .expect("standard error takes a line");
            return None;
        }
        Some(Self(dir))
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.dir().join("somebody-elses")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.dir().join("somebody-elses")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status()
            .unwrap();
    }
}

fn on(disk: &SmallDisk) -> Config {
    kept(disk.dir())
}

#[tokio::test]
async fn a_qos_2_publish_whose_note_found_no_room_is_taken_once_over_a_crash() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let (mut publisher, _) = resume(&broker, "publisher").await;
    disk.fill();
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    broker
        .until("it is held", |now| now.keep_full > 0 && now.busy > 0)
        .await;
    assert!(broker.gateway.payloads().is_empty(), "it is not noted yet");
    disk.free();
    publisher.expect(&[0x50, 2, 0, 9]).await;
    let copy = crash(disk.dir());
    let after = start(kept(copy.path())).await;
    let (mut publisher, _) = resume(&after, "publisher").await;
    publisher.send(&again(publish_v4("t", 2, 9, "x"))).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    assert!(after.gateway.payloads().is_empty(), "it was received");
    after.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_the_gateway_has_is_held_until_its_subscribers_have_it_too() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    leave_behind(&broker, "away", "t", 1).await;
    let mut publisher = broker.v5("publisher").await;
    disk.fill();
    publisher.send(&publish_v5("t", 1, 1, &[], "x")).await;
    broker
        .until("it is asked about", |now| now.refused_queue_full >= 2)
        .await;
    assert_eq!(broker.gateway.payloads(), ["x"]);
    disk.free();
    // Not 0x97: the gateway has it, and would have it twice.
    publisher.expect(&[0x40, 2, 0, 1]).await;
    assert_eq!(broker.gateway.payloads(), ["x"]);
    let (mut client, _) = resume(&broker, "away").await;
    client.expect(&publish_v4("t", 1, 2, "x")).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_retained_message_at_qos_0_is_held_too() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("t", 0).await;
    let mut publisher = broker.v5("publisher").await;
    disk.fill();
    let mut retained = publish_v5("t", 0, 0, &[], "x");
    retained[0] |= 1;
    publisher.send(&retained).await;
    broker
        .until("it is asked about", |now| now.refused_queue_full >= 2)
        .await;
    disk.free();
    subscriber.expect(&publish_v4("t", 0, 0, "x")).await;
    assert_eq!(broker.handle.metrics().retained, 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_end_of_a_subscription_that_cannot_be_noted_is_not_claimed() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let mut new = broker.raw().await;
    new.send(&connect_v5("new", 0, 0, &[0x11, 0, 0, 0, 60]))
        .await;
    new.packet().await;
    new.subscribe_v5("t", 1).await;
    let (mut old, _) = resume(&broker, "old").await;
    old.subscribe_v4("t", 1).await;
    disk.fill();
    new.send(&packet(0xA2, &[&[0, 5, 0], &string("t")])).await;
    new.expect(&[0xB0, 4, 0, 5, 0, 0x83]).await;
    old.send(&packet(0xA2, &[&[0, 5], &string("t")])).await;
    old.expect_end().await;
    assert_eq!(broker.handle.metrics().protocol_errors, 0);
    disk.free();
    assert_eq!(broker.handle.persistent_subscriptions().await.len(), 2);
    let mut publisher = broker.v4("publisher").await;
    publisher.send(&publish_v4("t", 1, 1, "x")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    new.expect(&publish_v5("t", 1, 2, &[], "x")).await;
    broker.stop().await;
}

#[tokio::test]
async fn our_full_disk_is_not_held_against_a_client() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let persistent = |id: &str| connect_v5(id, 0, 0, &[0x11, 0, 0, 0, 60]);
    let mut subscriber = broker.raw().await;
    subscriber.send(&persistent("subscriber")).await;
    subscriber.packet().await;
    subscriber.subscribe_v5("t", 2).await;
    let mut publisher = broker.v4("publisher").await;
    publisher.send(&publish_v4("t", 2, 1, "x")).await;
    publisher.expect(&[0x50, 2, 0, 1]).await;
    subscriber.expect(&publish_v5("t", 2, 2, &[], "x")).await;
    disk.fill();
    subscriber.send(&[0x50, 2, 0, 2]).await;
    subscriber.expect_disconnect(0x97).await;
    let mut late = broker.raw().await;
    late.send(&persistent("late")).await;
    assert_eq!(late.packet().await[3], 0x97);
    broker
        .until("both are counted", |now| now.keep_full >= 3)
        .await;
    let now = broker.handle.metrics();
    assert_eq!(
        (
            now.protocol_errors,
            now.memory_exceeded,
            now.refused_sessions_max
        ),
        (0, 0, 0)
    );
    disk.free();
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_is_not_read_because_of_the_disk_is_not_silent() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let mut client = broker.raw().await;
    // A keep-alive of a second: less than what the disk is waited for.
    client
        .send(&connect_v5("d", 0, 1, &[0x11, 0, 0, 0, 60]))
        .await;
    client.packet().await;
    client.subscribe_v5("t", 1).await;
    disk.fill();
    let unsubscribe = packet(0xA2, &[&[0, 5, 0], &string("t")]);
    client.send(&[unsubscribe, vec![0xC0, 0]].concat()).await;
    client.expect(&[0xB0, 4, 0, 5, 0, 0x83]).await;
    client.expect(&[0xD0, 0]).await;
    disk.free();
    broker.stop().await;
}

#[tokio::test]
async fn a_connection_that_ended_before_its_receipt_does_not_wait_for_the_disk() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    leave_behind(&broker, "away", "t", 1).await;
    broker.gateway.let_pass(0);
    let mut publisher = broker.v5("publisher").await;
    let both = [publish_v5("t", 1, 1, &[], "x"), vec![0xE0, 0]];
    publisher.send(&both.concat()).await;
    broker.gateway.took(1).await;
    disk.fill();
    broker.gateway.open();
    publisher.expect_end().await;
    broker
        .until("its task is gone", |now| now.sessions_open == 0)
        .await;
    disk.free();
    broker.stop().await;
}

/// Connects with a retained will of QoS 1 on a topic with the client's name.
async fn with_will(broker: &Running, id: &str, clean: bool) -> Client {
    let flags = 0b10_1100 | u8::from(clean) << 1;
    let connect: &[&[u8]] = &[
        &string("MQTT"),
        &[4, flags, 0, 0],
        &string(id),
        &string(id),
        &string("gone"),
    ];
    let mut client = broker.raw().await;
    client.send(&packet(0x10, connect)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client
}

/// [MQTT-3.1.2-8] and [MQTT-3.1.2-17]
#[tokio::test]
async fn a_retained_will_that_came_on_a_full_disk_is_retained() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let broker = start(on(&disk)).await;
    let gone = |topic: &str, retain: u8| {
        let mut packet = publish_v4(topic, 0, 0, "gone");
        packet[0] |= retain;
        packet
    };
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe_v4("persistent", 0).await;
    watcher.subscribe_v4("other", 0).await;
    let persistent = with_will(&broker, "persistent", false).await;
    let other = with_will(&broker, "other", true).await;
    disk.fill();
    persistent.abort();
    watcher.expect(&gone("persistent", 0)).await;
    other.abort();
    watcher.expect(&gone("other", 0)).await;
    broker
        .until("both are owed", |now| now.retained_owed == 2)
        .await;
    let mut late = broker.v4("late").await;
    for topic in ["persistent", "other"] {
        late.subscribe_v4(topic, 0).await;
        late.expect(&gone(topic, 1)).await;
    }
    disk.free();
    broker
        .until("both are on disk", |now| now.retained_owed == 0)
        .await;
    let copy = crash(disk.dir());
    let after = start(kept(copy.path())).await;
    let mut late = after.v4("late").await;
    for topic in ["persistent", "other"] {
        late.subscribe_v4(topic, 0).await;
        late.expect(&gone(topic, 1)).await;
    }
    assert!(
        after.gateway.payloads().is_empty(),
        "none is published again"
    );
    after.stop().await;
    broker.stop().await;
}
