//! The real binary against a server that misbehaves on command.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod audit;
mod nats;
mod receive;
mod resend;
mod server;

use std::{
    path::Path,
    process::{Command, Output},
};

use server::Server;

/// Runs `device-sim` with these arguments to its end.
fn device_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_device-sim"))
        .args(args)
        .output()
        .unwrap()
}

/// What a run left behind.
struct Run {
    output: Output,
    report: serde_json::Value,
    log: Vec<serde_json::Value>,
}

impl Run {
    /// `device-sim run` against `server`, with an ack log and a report in `dir`.
    fn against(server: &Server, dir: &Path, args: &str) -> Self {
        Self::at(&server.address.to_string(), dir, args)
    }

    fn at(address: &str, dir: &Path, args: &str) -> Self {
        let log = dir.join("ack.log");
        let report = dir.join("report.json");
        let files = [
            "--ack-log",
            log.to_str().unwrap(),
            "--report",
            report.to_str().unwrap(),
        ];
        let mut all = vec!["run", "--broker", address];
        all.extend(files);
        all.extend(args.split_whitespace());
        let output = device_sim(&all);
        let lines = std::fs::read_to_string(&log).unwrap();
        Self {
            report: serde_json::from_slice(&std::fs::read(&report).unwrap())
                .unwrap_or_else(|error| panic!("{error}: {output:?}")),
            log: lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            output,
        }
    }

    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn count(&self, field: &str) -> u64 {
        self.report[field].as_u64().unwrap()
    }

    /// The identities in the ack log's lines of this type, in order.
    fn logged(&self, kind: &str) -> Vec<String> {
        let of_kind = self.log.iter().filter(|line| line["t"] == kind);
        of_kind
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect()
    }
}
