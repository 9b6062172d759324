//! Births and deaths of Sparkplug nodes, with the real admission in front.

use penstock_broker::{Admission, Broker, Protocol, Publish, Publisher, QoS, Verdict};

use super::*;
use crate::{ingest::Ingest, record::Routes};

/// A payload with the number of a node's session.
fn payload(clock: &Stopped, session: u8) -> Vec<u8> {
    let mut millis = u64::try_from(clock.0.load(SeqCst)).expect("after 1970");
    let mut payload = vec![1 << 3];
    while millis > 0x7f {
        payload.push(u8::try_from(millis & 0x7f).expect("seven bits") | 0x80);
        millis >>= 7;
    }
    payload.push(u8::try_from(millis).expect("seven bits"));
    let mut metric = vec![1 << 3 | 2, 5];
    metric.extend_from_slice(b"bdSeq");
    metric.extend_from_slice(&[4 << 3, 8, 11 << 3, session]);
    payload.extend_from_slice(&[2 << 3 | 2, u8::try_from(metric.len()).expect("short")]);
    payload.append(&mut metric);
    payload.extend_from_slice(&[3 << 3, 0]);
    payload
}

/// A gateway that nodes publish to.
struct Site {
    fleet: Fleet,
    replies: Replies,
    clock: Stopped,
    _broker: Broker,
}

impl Desk {
    async fn site(&self) -> Site {
        let (fleet, broker) = self.beside_a_broker().await;
        let text = "[[mapping]]\ntopic = \"spBv1.0/#\"\npreset = \"sparkplug\"\n";
        let config = crate::config::Config::from_text(text, Path::new(""), &|_| None);
        let ingest = Ingest::new(
            config.expect("no mistakes").ingest,
            Routes(1),
            self.store(),
            Arc::new(self.clock.clone()),
        );
        Site {
            replies: Replies::new(fleet.clone(), Arc::new(ingest)),
            fleet,
            clock: self.clock.clone(),
            _broker: broker,
        }
    }

    /// Whether each device was told to be there, in order.
    fn presence(&self) -> Vec<(String, bool)> {
        let told = self.told().into_iter();
        let told = told.filter_map(|(kind, device)| match &*kind {
            "penstock.device.online" => Some((device, true)),
            "penstock.device.offline" => Some((device, false)),
            _ => None,
        });
        told.collect()
    }

    fn is_online(&self, site: &Site, id: &str) -> bool {
        let listing = self.store().listing().expect("the journal is read");
        let device = device(listing.tables(), id).expect("it is read");
        site.fleet.online().is_online(&device.expect("it is there"))
    }
}

impl Site {
    async fn says(&self, user: Option<&str>, origin: Option<&str>, said: &[(&str, u8)]) {
        let publisher = Arc::new(Publisher {
            client_id: "edge".into(),
            username: None,
            identity: user.map(Into::into),
            origin: origin.map(Into::into),
            address: None,
            protocol: Protocol::V5,
            turn: 0.into(),
            turns_over: Arc::default(),
        });
        let mut batch = Vec::new();
        for (topic, session) in said {
            self.clock.0.fetch_add(1, SeqCst);
            batch.push(Publish {
                topic: format!("spBv1.0/{topic}").into(),
                payload: payload(&self.clock, *session).into(),
                qos: QoS::AtLeastOnce,
                retain: false,
                dup: false,
                properties: None,
                delivery: None,
            });
        }
        let settled = self.replies.admit(&publisher, batch).await.await;
        assert_eq!(settled, vec![Verdict::Accepted; said.len()]);
    }
}

fn told(of: &[(&str, bool)]) -> Vec<(String, bool)> {
    let told = of
        .iter()
        .map(|(device, online)| ((*device).into(), *online));
    told.collect()
}

#[tokio::test]
async fn devices_behind_a_node_are_there_from_their_birth_to_their_death() {
    let mut desk = Desk::new();
    for id in ["g/n", "g/n/d", "g/n/e", "g/n0/d", "other"] {
        let created = desk.create(json!({ "id": id }), None).await;
        created.expect("it is added");
    }
    let of_other = json!({ "id": "g/n/x", "user": "other" });
    desk.create(of_other, None).await.expect("it is added");
    let site = desk.site().await;
    let births = [
        ("g/NBIRTH/n", 1),
        ("g/DBIRTH/n/d", 1),
        ("g/DBIRTH/n/unknown", 1),
        ("g/DBIRTH/n/x", 1),
        ("g/DBIRTH/n/e", 1),
        ("g/DBIRTH/n0/d", 1),
    ];
    site.says(Some("edge"), None, &births).await;
    let mut all = told(&[
        ("g/n", true),
        ("g/n/d", true),
        ("g/n/e", true),
        ("g/n0/d", true),
    ]);
    assert_eq!(desk.presence(), all);
    assert!(desk.is_online(&site, "g/n/d") && !desk.is_online(&site, "g/n/x"));
    // Born again while alive is nothing new, and one device may die alone.
    site.says(
        Some("edge"),
        None,
        &[("g/NBIRTH/n", 2), ("g/DDEATH/n/e", 2)],
    )
    .await;
    all.extend(told(&[("g/n/e", false)]));
    assert_eq!(desk.presence(), all);
    // The death of the session before comes late.
    site.says(Some("edge"), None, &[("g/NDEATH/n", 1)]).await;
    assert_eq!(desk.presence(), all);
    // Nobody else says that somebody's device is dead, nor makes it look so.
    desk.create(json!({ "id": "g/m/d", "user": "edge" }), None)
        .await
        .expect("it is added");
    site.says(Some("edge"), None, &[("g/DBIRTH/m/d", 2)]).await;
    let others = [("g/NDEATH/m", 2), ("g/DDEATH/m/d", 2), ("g/DBIRTH/m/d", 2)];
    site.says(Some("other"), None, &others).await;
    site.fleet.watch().reconcile().await;
    all.extend(told(&[("g/m/d", true)]));
    assert_eq!(desk.presence(), all);
    // With the node all behind it die that are alive, and nobody else's.
    site.says(Some("edge"), None, &[("g/NDEATH/n", 2)]).await;
    all.extend(told(&[("g/n/d", false), ("g/n", false)]));
    assert_eq!(desk.presence(), all);
    assert!(!desk.is_online(&site, "g/n/d") && desk.is_online(&site, "g/n0/d"));
    drop(site);
    desk.crash().await;
    let site = desk.site().await;
    assert!(!desk.is_online(&site, "g/n/d") && desk.is_online(&site, "g/n0/d"));
    assert_eq!(desk.presence(), all);
    drop(site);
    desk.end().await;
}

#[tokio::test]
async fn a_node_that_does_not_come_back_is_dead_but_for_one_at_another_broker() {
    let mut desk = Desk::new();
    for id in ["g/n/d", "far/n/d"] {
        let created = desk.create(json!({ "id": id }), None).await;
        created.expect("it is added");
    }
    let site = desk.site().await;
    site.says(None, None, &[("g/DBIRTH/n/d", 1)]).await;
    site.says(None, Some("cloud"), &[("far/DBIRTH/n/d", 1)])
        .await;
    drop(site);
    desk.crash().await;
    let site = desk.site().await;
    assert!(desk.is_online(&site, "g/n/d") && desk.is_online(&site, "far/n/d"));
    let watch = site.fleet.watch();
    watch.reconcile().await;
    watch.reconcile().await;
    let mut all = told(&[("g/n/d", true), ("far/n/d", true), ("g/n/d", false)]);
    assert_eq!(desk.presence(), all);
    assert!(!desk.is_online(&site, "g/n/d") && desk.is_online(&site, "far/n/d"));
    site.says(None, Some("cloud"), &[("far/NDEATH/n", 1)]).await;
    all.extend(told(&[("far/n/d", false)]));
    assert_eq!(desk.presence(), all);
    drop((watch, site));
    desk.end().await;
}

#[tokio::test]
async fn a_device_that_was_born_is_put_right_when_a_death_of_before_was_written_after_it() {
    let desk = Desk::new();
    desk.create(json!({ "id": "g/n/d" }), None)
        .await
        .expect("it is added");
    let site = desk.site().await;
    site.says(None, None, &[("g/DBIRTH/n/d", 2)]).await;
    // As of a connection that is slower.
    desk.edit(crate::fleet::edits::life::Lost {
        ids: vec!["g/n/d".to_owned()],
        token: 1,
        announce: Arc::new(Keep),
    })
    .await;
    assert!(!desk.is_online(&site, "g/n/d"));
    desk.pass(1_000);
    let watch = site.fleet.watch();
    watch.reconcile().await;
    watch.reconcile().await;
    let all = told(&[("g/n/d", true), ("g/n/d", false), ("g/n/d", true)]);
    assert_eq!(desk.presence(), all);
    assert!(desk.is_online(&site, "g/n/d"));
    drop((watch, site));
    desk.end().await;
}

#[tokio::test]
async fn more_devices_than_fit_in_one_transaction_die_with_their_node() {
    const DEVICES: usize = 600;
    let desk = Desk::new();
    let site = desk.site().await;
    let mut births = Vec::new();
    for n in 0..DEVICES {
        desk.create(json!({ "id": format!("g/n/{n}") }), None)
            .await
            .expect("it is added");
        births.push(format!("g/DBIRTH/n/{n}"));
    }
    // It was opened before they were there.
    site.fleet.look_again().await;
    let births: Vec<_> = births.iter().map(|topic| (&**topic, 1)).collect();
    for some in births.chunks(90) {
        site.says(None, None, some).await;
    }
    site.says(None, None, &[("g/NDEATH/n", 1)]).await;
    let presence = desk.presence();
    let dead = presence.iter().filter(|(_, online)| !online).count();
    assert_eq!((presence.len(), dead), (2 * DEVICES, DEVICES));
    drop(site);
    desk.end().await;
}

#[tokio::test]
async fn what_is_not_born_again_in_a_new_session_of_its_node_is_dead_after_a_while() {
    let desk = Desk::new();
    for id in ["g/n", "g/n/d", "g/n/e", "g/n/f", "far/n/d"] {
        let created = desk.create(json!({ "id": id }), None).await;
        created.expect("it is added");
    }
    let of_other = json!({ "id": "g/n/x", "user": "other" });
    desk.create(of_other, None).await.expect("it is added");
    let site = desk.site().await;
    let births = [
        ("g/NBIRTH/n", 1),
        ("g/DBIRTH/n/d", 1),
        ("g/DBIRTH/n/e", 1),
        ("g/DBIRTH/n/f", 1),
    ];
    site.says(None, None, &births).await;
    site.says(Some("other"), None, &[("g/DBIRTH/n/x", 1)]).await;
    let far = [("far/NBIRTH/n", 1), ("far/DBIRTH/n/d", 1)];
    site.says(None, Some("cloud"), &far).await;
    let mut all = told(&[
        ("g/n", true),
        ("g/n/d", true),
        ("g/n/e", true),
        ("g/n/f", true),
        ("g/n/x", true),
        ("far/n/d", true),
    ]);
    let look = async |patience| {
        let ids = ["g/n", "g/n/d", "g/n/e", "g/n/f", "g/n/x"];
        let online = ids.into_iter().filter(|id| desk.is_online(&site, id));
        let in_table = online.map(str::to_owned).collect();
        let looked = site.fleet.reconcile_lives(&in_table, |_| true, patience);
        looked.await.expect("it is noted");
    };
    // Asked to say all of it once more, it is born again in the same session.
    site.says(None, None, &[("g/NBIRTH/n", 1)]).await;
    look(Duration::ZERO).await;
    assert_eq!(desk.presence(), all);
    // The connection was gone, and its will is still on the way.
    site.says(None, None, &[("g/NBIRTH/n", 2), ("g/DBIRTH/n/d", 2)])
        .await;
    site.says(None, Some("cloud"), &[("far/NBIRTH/n", 2)]).await;
    look(Duration::from_secs(60)).await;
    assert_eq!(desk.presence(), all, "they have their time");
    site.says(None, None, &[("g/DBIRTH/n/f", 2)]).await;
    look(Duration::ZERO).await;
    all.extend(told(&[("far/n/d", false), ("g/n/e", false)]));
    assert_eq!(desk.presence(), all);
    assert!(desk.is_online(&site, "g/n/d") && desk.is_online(&site, "g/n/f"));
    look(Duration::ZERO).await;
    assert_eq!(desk.presence(), all, "nothing brings them back");
    drop(site);
    desk.end().await;
}

#[tokio::test]
async fn a_device_that_is_added_after_its_birth_is_there_with_the_next_look() {
    let desk = Desk::new();
    let site = desk.site().await;
    // Nobody knows a device yet.
    let births = [
        ("g/NBIRTH/n", 1),
        ("g/DBIRTH/n/d", 1),
        ("g/DBIRTH/n/e", 1),
        ("g/DBIRTH/n/x", 1),
        ("g/DDEATH/n/e", 1),
    ];
    site.says(None, None, &births).await;
    for id in ["g/n/d", "g/n/e"] {
        let created = desk.create(json!({ "id": id }), None).await;
        created.expect("it is added");
    }
    let of_other = json!({ "id": "g/n/x", "user": "other" });
    desk.create(of_other, None).await.expect("it is added");
    site.fleet.look_again().await;
    let none = std::collections::BTreeSet::new();
    let gone = site
        .fleet
        .reconcile_lives(&none, |_| false, Duration::from_secs(60));
    gone.await.expect("it is noted");
    assert_eq!(desk.presence(), told(&[("g/n/d", true)]));
    assert!(desk.is_online(&site, "g/n/d") && !desk.is_online(&site, "g/n/x"));
    // Whoever went without a word is not there when its device is added.
    site.says(None, None, &[("g/DBIRTH/n/late", 1)]).await;
    let gone = site.fleet.reconcile_lives(&none, |_| false, Duration::ZERO);
    gone.await.expect("it is noted");
    let late = desk.create(json!({ "id": "g/n/late" }), None).await;
    late.expect("it is added");
    let gone = site
        .fleet
        .reconcile_lives(&none, |_| true, Duration::from_secs(60));
    gone.await.expect("it is noted");
    assert!(!desk.is_online(&site, "g/n/late"));
    drop(site);
    desk.end().await;
}
