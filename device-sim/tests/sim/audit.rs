//! Run, deliver, audit: clean when the destination is honest, and each of its
//! faults found when it is not.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Run, device_sim,
    server::{Answer, Server},
};

const ALL_CHAOS: &str = "duplicates=0.05,reorder=0.05,malformed=0.02,skew=5s,disconnect=0.01,offline=0.002,offline-for=100ms";

/// A run with all chaos against an honest server, and what an honest gateway
/// that dedupes and quarantines would deliver of it.
fn delivered(dir: &Path, qos: u8) -> Vec<String> {
    let server = Server::start(|_| Answer::Ack);
    let args = format!(
        "--devices 10 --rate 0 --count 3000 --window 20 --qos {qos} --identity mixed --format json --chaos {ALL_CHAOS}"
    );
    let run = Run::against(&server, dir, &args);
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    for field in [
        "duplicates_sent",
        "reordered",
        "malformed",
        "cut",
        "offline",
        "resent",
    ] {
        assert!(run.count(field) > 0, "{field}");
    }
    assert_eq!((run.count("sent"), run.count("acked")), (3_000, 3_000));
    let mut seen = HashSet::new();
    let events: Vec<_> = server
        .publishes()
        .iter()
        .filter_map(|publish| {
            let json: serde_json::Value = serde_json::from_slice(&publish.payload).ok()?;
            let (boot, seq) = (json["boot"].as_u64()?, json["seq"].as_u64()?);
            if !seen.insert((publish.client.clone(), seq)) {
                return None;
            }
            Some(match publish.properties.get("idempotency-key") {
                Some(id) => format!(r#"{{"specversion":"1.0","id":"{id}","device":"{}","data":{{"m":[]}}}}"#, publish.client),
                None => match json.get("id") {
                    Some(id) => format!(r#"{{"id":"ab","device":"x","data":{{"m":[{{"n":"id","v":{id}}}]}}}}"#),
                    None => format!(
                        r#"{{"id":"ab","device":"{}","sequence":"{seq:020}","data":{{"m":[{{"n":"boot","v":{boot}}}]}}}}"#,
                        publish.client
                    ),
                },
            })
        })
        .collect();
    assert_eq!(events.len() as u64, 3_000 - run.count("malformed"));
    events
}

struct Audit {
    code: Option<i32>,
    report: serde_json::Value,
}

impl Audit {
    fn of(dir: &Path, events: &[String], extra: &[&str]) -> Self {
        let files = dir.join("events");
        fs::create_dir_all(&files).unwrap();
        let (first, second) = events.split_at(events.len() / 2);
        fs::write(files.join("events-0001.ndjson"), first.join("\n") + "\n").unwrap();
        fs::write(files.join("events-0002.ndjson"), second.join("\n") + "\n").unwrap();
        Self::run(dir, &files, extra)
    }

    fn run(dir: &Path, files: &Path, extra: &[&str]) -> Self {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let (log, report) = (text(dir.join("ack.log")), text(dir.join("audit.json")));
        let mut args = vec![
            "audit",
            "--ack-log",
            &log,
            "--files",
            files.to_str().unwrap(),
            "--report",
            &report,
        ];
        args.extend(extra);
        let output = device_sim(&args);
        Self {
            code: output.status.code(),
            report: serde_json::from_slice(&fs::read(&report).unwrap()).unwrap(),
        }
    }

    #[track_caller]
    fn finds(&self, fault: &str, count: u64) {
        assert_eq!(
            self.report[fault]["count"], count,
            "{fault} in {:#}",
            self.report
        );
        for other in [
            "lost",
            "duplicated",
            "phantom",
            "out_of_order",
            "unreadable",
        ] {
            if other != fault {
                assert_eq!(self.report[other]["count"], 0, "{other} beside {fault}");
            }
        }
        assert_eq!((self.code, &self.report["clean"]), (Some(1), &false.into()));
    }
}

#[test]
fn an_honest_destination_is_clean_and_every_fault_is_found() {
    for qos in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let events = delivered(dir, qos);

        let clean = Audit::of(dir, &events, &[]);
        assert_eq!(clean.code, Some(0), "{:#}", clean.report);
        assert_eq!(clean.report["arrived_distinct"], events.len());

        let mut lost = events.clone();
        lost.remove(700);
        Audit::of(dir, &lost, &[]).finds("lost", 1);

        let mut duplicated = events.clone();
        duplicated.push(events[700].clone());
        Audit::of(dir, &duplicated, &[]).finds("duplicated", 1);
        assert_eq!(
            Audit::of(dir, &duplicated, &["--allow-duplicates"]).code,
            Some(0)
        );

        let mut phantom = events.clone();
        phantom.push(r#"{"id":"sim-env-0001-1-5"}"#.to_owned());
        Audit::of(dir, &phantom, &[]).finds("phantom", 1);

        // One event of a device behind its successor.
        let device = |event: &str| {
            Some(
                event
                    .split_once(r#""id":"sim-"#)?
                    .1
                    .rsplitn(3, '-')
                    .nth(2)?
                    .to_owned(),
            )
        };
        let first = events
            .iter()
            .position(|event| device(event).is_some())
            .unwrap();
        let second = (first + 1..events.len())
            .find(|n| device(&events[*n]) == device(&events[first]))
            .unwrap();
        let mut swapped = events.clone();
        swapped.swap(first, second);
        Audit::of(dir, &swapped, &[]).finds("out_of_order", 1);

        let mut torn = events.clone();
        let half = torn[0].len() / 2;
        torn.insert(5, torn[0][..half].to_owned());
        Audit::of(dir, &torn, &[]).finds("unreadable", 1);
    }
}

#[test]
fn runs_are_audited_together() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut events = delivered(first.path(), 1);
    events.extend(delivered(second.path(), 1));
    let other = second.path().join("ack.log");
    let together = ["--ack-log", other.to_str().unwrap()];
    let audit = Audit::of(first.path(), &events, &together);
    assert_eq!(audit.code, Some(0), "{:#}", audit.report);
    assert_eq!(audit.report["sent"], 6_000);
    Audit::of(first.path(), &events[..events.len() - 1], &together).finds("lost", 1);
    assert_eq!(
        Audit::of(first.path(), &events, &[]).code,
        Some(1),
        "phantoms without the other log"
    );
}

#[test]
fn qos_0_loses_without_being_held_to_account_and_keeps_order() {
    let server = Server::start(|_| Answer::Nothing);
    let dir = tempfile::tempdir().unwrap();
    let args = "--devices 5 --rate 0 --count 1000 --qos 0 --protocol 5 --identity property --chaos disconnect=0.02,duplicates=0.05,reorder=0.05";
    let run = Run::against(&server, dir.path(), args);
    assert_eq!(run.code(), Some(0), "{:?}", run.output);
    assert_eq!(
        (
            run.count("sent"),
            run.count("acked"),
            run.count("unacknowledged")
        ),
        (1_000, 0, 0)
    );
    let mut seen = HashSet::new();
    let events: Vec<_> = server
        .publishes()
        .iter()
        .filter_map(|publish| publish.id())
        .filter(|id| seen.insert(id.clone()))
        .map(|id| format!(r#"{{"id":"{id}"}}"#))
        .collect();
    let audit = Audit::of(dir.path(), &events, &[]);
    assert_eq!(audit.code, Some(0), "{:#}", audit.report);
    assert_eq!(audit.report["arrived_unacked"], events.len());
}
