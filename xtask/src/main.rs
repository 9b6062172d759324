//! The project's own chores: `cargo xtask test` is the one command that runs every test.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to people"
)]

mod bench;
mod tally;
mod test;
mod tools;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;

/// Chores of the Penstock workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Get what the tests need, then run every test of the workspace
    Test(test::Args),
    /// Measure the whole line against Mosquitto on the same machine
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Test(args) => test::run(&args),
        Command::Bench(bench) => bench.run().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository: xtask lives one level below it.
fn repository() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .context("xtask is not inside a workspace")
}

/// A heading between the steps of a chore.
fn step(what: &str) {
    println!("==> {what}");
}
