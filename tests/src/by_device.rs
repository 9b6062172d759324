//! The ledger by device, compared with that of the destinations.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Gateway, http, status::Status, wait};

/// How long the read side may take to have counted everything.
const SOON: Duration = Duration::from_secs(30);
/// The counts of a destination.
const COUNTS: [&str; 7] = [
    "routed",
    "delivered",
    "backlog",
    "expired",
    "evicted",
    "damaged",
    "dead",
];

/// Of each device and destination, in the order of [`COUNTS`].
pub type ByDevice = BTreeMap<(String, String), [i64; 7]>;

/// What the ledger by device says.
#[derive(Debug, Default)]
struct Said {
    by_device: ByDevice,
    /// Of no device that has a line of its own: without what was delivered and what waits.
    others: BTreeMap<String, [i64; 7]>,
    unattributed: u64,
}

/// One page of it.
fn page(gateway: &Gateway, after: Option<&str>) -> Option<Value> {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let path = format!("/api/v1/ledger?limit=1000{after}");
    let reply = http::get(gateway.setup().http, &path)?;
    if reply.status == 503 {
        // The file is being built anew, or the read side is behind.
        return None;
    }
    assert_eq!(reply.status, 200, "{}", reply.body);
    Some(serde_json::from_str(&reply.body).expect("an answer is JSON"))
}

/// The counts of each destination; `None` where something was not counted.
fn counts(item: &Value, of: &[&str]) -> Option<Vec<(String, [i64; 7])>> {
    let all = item["destinations"].as_array().expect("a list").iter();
    all.map(|one| {
        let name = one["name"].as_str().expect("a name").to_owned();
        let mut counts = [0; 7];
        for (count, name) in counts.iter_mut().zip(COUNTS) {
            if of.contains(&name) {
                *count = one[name].as_i64()?;
            }
        }
        Some((name, counts))
    })
    .collect()
}

fn read(gateway: &Gateway) -> Option<Said> {
    let (mut said, mut after) = (Said::default(), None);
    loop {
        let answer = page(gateway, after.as_deref())?;
        for item in answer["items"].as_array().expect("a list") {
            let device = item["device"].as_str().expect("a name");
            for (name, counts) in counts(item, &COUNTS)? {
                said.by_device.insert((device.to_owned(), name), counts);
            }
        }
        let next = answer["next"].as_str().map(str::to_owned);
        if next.is_some() {
            after = next;
            continue;
        }
        said.unattributed = answer["unattributed"].as_u64().expect("a count");
        let ended = ["routed", "expired", "evicted", "damaged", "dead"];
        for item in [&answer["others"], &answer["unknown"]] {
            for (name, counts) in counts(item, &ended)? {
                add(said.others.entry(name).or_default(), counts);
            }
        }
        return Some(said);
    }
}

fn add(sum: &mut [i64; 7], counts: [i64; 7]) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum += count;
    }
}

/// Whether it is what `status` says of the destinations.
fn is_balanced(said: &Said, status: &Status) -> bool {
    let is_of_devices = said.others.values().flatten().all(|count| *count == 0);
    if status.read.missed == 0 && said.unattributed > 0 {
        return false;
    }
    status.destinations.iter().all(|one| {
        let mut sum = said.others.get(&one.name).copied().unwrap_or_default();
        let of_it = said.by_device.iter();
        for (_, counts) in of_it.filter(|((_, name), _)| *name == one.name) {
            add(&mut sum, *counts);
        }
        let mut told = [
            one.routed,
            one.delivered,
            one.backlog,
            one.expired,
            one.evicted,
            one.damaged,
            one.dead,
        ]
        .map(u64::cast_signed);
        if !is_of_devices {
            // What of it was delivered is not said of what is of no device.
            (sum[1], sum[2], told[1], told[2]) = (0, 0, 0, 0);
        }
        told == sum
    }) && (!is_of_devices || said.by_device.values().flatten().all(|count| *count >= 0))
}

/// What became of events by device, where there is a read side; it is what `status` says
/// of the destinations. Nothing more comes in or goes out meanwhile.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_balanced(gateway: &Gateway, status: &Status) -> Option<ByDevice> {
    if status.read.state == "off" {
        return None;
    }
    let deadline = Instant::now() + SOON;
    loop {
        let said = read(gateway);
        if let Some(said) = &said
            && is_balanced(said, status)
        {
            return Some(said.by_device.clone());
        }
        assert!(
            Instant::now() < deadline,
            "the ledger by device is not that of the destinations: {said:?}; {status:#?}"
        );
        wait::pass(Duration::from_millis(50));
    }
}
