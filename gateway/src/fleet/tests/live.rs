//! The fleet beside a broker.

use penstock_broker::{Admission, Admitted, Broker, Publish, Publisher, Receipt, Verdict};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ingest::Ingest;

/// Takes what clients publish, and keeps nothing.
struct Nobody;

impl Admission for Nobody {
    #[expect(
        clippy::async_yields_async,
        reason = "an admission resolves to a receipt"
    )]
    fn admit<'a>(&'a self, _: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        let verdicts = vec![Verdict::Accepted; batch.len()];
        Box::pin(async move {
            let receipt: Receipt = Box::pin(std::future::ready(verdicts));
            receipt
        })
    }
}

impl Desk {
    pub(super) async fn beside_a_broker(&self) -> (Fleet, Broker) {
        let (fleet, _, broker) = self.with_delivery().await;
        (fleet, broker)
    }

    async fn with_delivery(&self) -> (Fleet, Delivery, Broker) {
        let listener = penstock_broker::listener::Config::tcp("127.0.0.1:0".parse().expect("one"));
        let broker = penstock_broker::Config {
            listeners: vec![listener],
            ..penstock_broker::Config::default()
        };
        let broker = broker.bind().await.expect("a port");
        let fleet = Fleet::open(
            self.config.clone(),
            self.store(),
            Arc::new(Keep),
            Arc::new(self.clock.clone()),
            broker.handle().errands(),
        );
        let (fleet, delivery) = fleet.expect("the journal is read");
        (fleet, delivery, broker)
    }
}

#[tokio::test]
async fn a_command_whose_sender_went_away_is_delivered_all_the_same() {
    let desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let (fleet, _broker) = desk.beside_a_broker().await;
    // As when a request ends between the commit and its answer: nobody is told.
    desk.place("pump", json!({ "payload": 1 }), Some("k"))
        .await
        .expect("it is placed");
    assert_eq!(fleet.waiting(), [] as [Arc<str>; 0]);
    fleet.look_again().await;
    assert_eq!(fleet.waiting(), [Arc::from("pump")]);
    assert_eq!(fleet.0.open.load(Relaxed), 1);
    // Or whoever placed it asks again before that.
    fleet.wait_no_more(&Arc::from("pump"));
    let order = Order::read("pump", members(json!({ "payload": 1 }))).expect("an order");
    let again = fleet.order(order, asked(Some("k"))).await;
    assert!(again.expect("it was placed").again);
    assert_eq!(fleet.waiting(), [Arc::from("pump")]);
    assert_eq!(fleet.0.open.load(Relaxed), 1);
    desk.end().await;
}

#[tokio::test]
async fn beyond_its_bound_in_bytes_nothing_is_added_but_for_what_was_there_before() {
    let mut desk = Desk::new();
    desk.config.bytes_max = 20_000;
    desk.config.open_per_device_max = 100;
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let (fleet, _broker) = desk.beside_a_broker().await;
    let order = || {
        let order = json!({ "payload": "x".repeat(1_000) });
        Order::read("pump", members(order)).expect("an order")
    };
    let mut placed = 0;
    let refused = loop {
        let key = format!("k{placed}");
        match fleet.order(order(), asked(Some(&key))).await {
            Ok(_) => placed += 1,
            Err(refused) => break refused,
        }
        assert!(placed < 20, "it has no bound");
    };
    // The count is from above: by that four would be all. It is looked at again before
    // anybody is turned away.
    assert!(placed > 4, "{placed}");
    let NotChanged::Refused(Refusal::TooMany(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("bytes_max"), "{why}");
    let again = fleet.order(order(), asked(Some("k0"))).await;
    assert!(again.expect("it was placed").again);
    let patch = members(json!({ "much": "x".repeat(8_000) }));
    let desired = fleet.desire("pump", patch, None, asked(None)).await;
    assert!(matches!(desired, Err(NotChanged::Full(_))), "{desired:?}");
    desk.end().await;
}

#[tokio::test]
async fn what_could_not_be_told_of_presence_is_told_later() {
    let desk = Desk::new();
    let (fleet, broker) = desk.beside_a_broker().await;
    let port = broker.local_addr().expect("an address").port();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(broker.run(Arc::new(Nobody), stop.clone()));
    let options = rumqttc::MqttOptions::new("pump", "127.0.0.1", port);
    let (_client, mut link) = rumqttc::AsyncClient::new(options, 10);
    let connected = |event: &rumqttc::Event| {
        matches!(event, rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(_)))
    };
    while !connected(&link.poll().await.expect("the broker answers")) {}
    let mut watch = fleet.watch();
    while fleet.connected().is_empty() {
        tokio::task::yield_now().await;
    }
    watch.look().await;
    // It is added while its client is there already, so nothing comes any more.
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    watch.look().await;
    assert_eq!(kinds(&desk.told()), ["penstock.device.created"]);
    watch.reconcile().await;
    watch.reconcile().await;
    let both = ["penstock.device.created", "penstock.device.online"];
    assert_eq!(kinds(&desk.told()), both);
    // One that was noted to be there, and is not.
    desk.create(json!({ "id": "valve" }), None)
        .await
        .expect("it is added");
    desk.edit(Presence {
        ids: vec!["valve".to_owned()],
        online: true,
        announce: Arc::new(Keep),
    })
    .await;
    watch.reconcile().await;
    let told = desk.told();
    assert_eq!(
        told.last().map(|(kind, device)| (&**kind, &**device)),
        Some(("penstock.device.offline", "valve"))
    );
    stop.cancel();
    serving.await.expect("it ends").expect("well");
    desk.end().await;
}

#[tokio::test]
async fn deadlines_that_pass_together_end_in_pieces() {
    let mut desk = Desk::new();
    desk.config.open_per_device_max = 100;
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    for _ in 0..50 {
        let order = json!({ "payload": "x".repeat(60_000), "deadline_secs": 1 });
        desk.place("pump", order, None).await.expect("it is placed");
    }
    desk.pass(1_000);
    let expire = || Expire {
        announce: Arc::new(Keep),
    };
    let first = desk.edit(expire()).await;
    assert!(first.is_more && first.commands < 40, "{first:?}");
    let rest = desk.edit(expire()).await;
    assert_eq!((first.commands + rest.commands, rest.is_more), (50, false));
    desk.end().await;
}

#[tokio::test]
async fn what_is_told_before_the_clock_is_set_is_marked_as_what_devices_say_then() {
    let desk = Desk::new();
    let ingest = Ingest::new(
        crate::ingest::Config::default(),
        crate::record::Routes(1),
        desk.store(),
        Arc::new(desk.clock.clone()),
    );
    let ingest = Arc::new(ingest);
    let set = desk.clock.0.swap(5_000, SeqCst);
    for (id, ms) in [("early", 5_000), ("late", set)] {
        desk.clock.0.store(ms, SeqCst);
        let draft = Draft::read(members(json!({ "id": id }))).expect("a device");
        let created = desk.edit(Create::new(draft, asked(None), ingest.clone()));
        created.await.expect("it is added");
    }
    let mut reader = desk.store().reader().expect("the journal is read");
    let page = reader.all(Position(0), 10, 1 << 20).expect("a page");
    let marked = |record: &crate::record::Record| {
        let event = record.event().expect("it reads back");
        event.marks.contains(crate::event::Marks::CLOCK_UNSET)
    };
    let marked: Vec<bool> = page.records.iter().map(marked).collect();
    assert_eq!(marked, [true, false]);
    desk.end().await;
}

#[tokio::test]
async fn where_there_is_no_room_what_was_made_is_answered_and_what_shrinks_is_made() {
    let mut desk = Desk::new();
    let (roomy, _broker) = desk.beside_a_broker().await;
    let draft = |id: &str| Draft::read(members(json!({ "id": id, "tags": { "much": "x" } })));
    let create = |fleet: Fleet, id: &'static str, key| async move {
        let draft = draft(id).expect("a draft");
        fleet.create(draft, asked(key)).await
    };
    create(roomy.clone(), "pump", Some("c"))
        .await
        .expect("it is added");
    let much = || members(json!({ "much": "x".repeat(1_000) }));
    let desired = roomy.desire("pump", much(), None, asked(Some("d"))).await;
    desired.expect("there is room");
    // As much as is there is too much.
    desk.config.bytes_max = 1;
    let (full, _broker) = desk.beside_a_broker().await;
    let again = create(full.clone(), "pump", Some("c")).await;
    assert!(again.expect("it was added").again);
    let again = full.desire("pump", much(), None, asked(Some("d"))).await;
    assert!(again.expect("it was said").again);
    let other = create(full.clone(), "other", None).await;
    assert!(matches!(other, Err(NotChanged::Full(_))), "{other:?}");
    // What changes nothing has an answer that is kept, under another key each time.
    let same = full.desire("pump", much(), None, asked(Some("e"))).await;
    assert!(matches!(same, Err(NotChanged::Full(_))), "{same:?}");
    let same = Changes::Merge(members(json!({ "tags": { "much": "x" } })));
    let same = full.update("pump", same, None, asked(Some("f"))).await;
    assert!(matches!(same, Err(NotChanged::Full(_))), "{same:?}");
    let update = |tag: Value| {
        let changes = Changes::Merge(members(json!({ "tags": { "much": tag } })));
        full.update("pump", changes, None, asked(None))
    };
    let more = update(json!("xx")).await;
    assert!(matches!(more, Err(NotChanged::Full(_))), "{more:?}");
    update(json!(null)).await.expect("it is less");
    let patch = |value: Value| members(json!({ "much": value }));
    let more = patch(json!("x".repeat(1_001)));
    let more = full.desire("pump", more, None, asked(None)).await;
    assert!(matches!(more, Err(NotChanged::Full(_))), "{more:?}");
    let less = full.desire("pump", patch(json!(null)), None, asked(None));
    less.await.expect("it is less");
    desk.end().await;
}

#[tokio::test]
async fn where_nothing_can_be_forgotten_the_tables_are_not_read_each_second() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let placed = desk.place("pump", json!({ "payload": 1 }), None).await;
    let id = placed.expect("it is placed").value.id;
    desk.config.bytes_max = 1;
    let (_fleet, delivery, _broker) = desk.with_delivery().await;
    let (soon, later) = (Duration::from_secs(1), Duration::from_secs(30));
    assert_eq!(delivery.make_room().await, later);
    desk.reply("pump", &id, "pump", true).await;
    desk.pass(600_001);
    assert_eq!(delivery.make_room().await, soon, "something was forgotten");
    assert_eq!(delivery.make_room().await, later);
    desk.end().await;
}

#[tokio::test]
async fn commands_are_counted_by_state_once_they_are_on_disk() {
    let mut desk = Desk::new();
    desk.create(json!({ "id": "pump" }), None)
        .await
        .expect("it is added");
    let (fleet, broker) = desk.beside_a_broker().await;
    assert_eq!(fleet.account(), Account::default());
    let place = |fleet: &Fleet, key: &'static str| {
        let order = Order::read("pump", members(json!({ "deadline_secs": 60 })));
        let (fleet, order) = (fleet.clone(), order.expect("an order"));
        async move { fleet.order(order, asked(Some(key))).await }
    };
    let mut ids = Vec::new();
    for key in ["a", "b", "c", "d"] {
        let placed = place(&fleet, key).await.expect("it is placed");
        ids.push(placed.value.id);
        desk.pass(1_000);
    }
    // Nothing counts twice that comes twice, nor what is refused.
    place(&fleet, "a").await.expect("it was placed");
    fleet
        .cancel("pump", &ids[3], asked(None))
        .await
        .expect("it was not sent");
    let again = fleet.cancel("pump", &ids[3], asked(None)).await;
    assert!(again.expect("it is cancelled").again);
    for _ in 0..2 {
        let sent = Sent {
            ids: ids[..3].to_vec(),
            announce: fleet.announce(),
        };
        desk.edit(sent).await;
        let said = |id: &String, done| Reply {
            device: "pump".to_owned(),
            id: id.clone(),
            client_id: "x".into(),
            user: Some("pump".into()),
            done,
            value: Value::Null,
            bytes: 4,
        };
        let replied = Replied {
            replies: vec![said(&ids[0], true), said(&ids[1], false)],
            is_full: false,
            turn: None,
            announce: fleet.announce(),
        };
        desk.edit(replied).await;
    }
    fleet.look_again().await;
    let expect = Account {
        open: 1,
        oldest_age_secs: 2,
        queued: 4,
        sent: 3,
        acknowledged: 1,
        failed: 1,
        expired: 0,
        cancelled: 1,
    };
    assert_eq!(fleet.account(), expect);
    drop((fleet, broker));
    desk.crash().await;
    // Counts are since the start; what is open is what there is.
    let (fleet, _broker) = desk.beside_a_broker().await;
    let expect = Account {
        open: 1,
        oldest_age_secs: 2,
        ..Account::default()
    };
    assert_eq!(fleet.account(), expect);
    desk.pass(60_000);
    let announce = fleet.announce();
    desk.edit(Expire { announce }).await;
    fleet.look_again().await;
    let expect = Account {
        expired: 1,
        ..Account::default()
    };
    assert_eq!(fleet.account(), expect);
    desk.end().await;
}
