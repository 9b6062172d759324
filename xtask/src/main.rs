//! The project's own chores: `cargo xtask test` is the one command that runs every test.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to people"
)]

mod bench;
mod features;
mod tally;
mod test;
mod tools;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::Context as _;
use clap::Parser;

/// Chores of the Penstock workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Get what the tests need, then run every test of the workspace
    Test(test::Args),
    /// Measure the whole line against Mosquitto on the same machine
    Bench(bench::Bench),
    /// Check that the gateway builds without features, and with each by itself
    Features,
}

fn main() -> ExitCode {
    let outcome = match Chore::parse() {
        Chore::Test(args) => test::run(&args),
        Chore::Bench(bench) => bench.run().map(|()| true),
        Chore::Features => features::run(),
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

/// Cargo, at the top of the repository. Without what `cargo run` said of this
/// program: build scripts (ring's) take such variables for a change, and all that
/// hangs on them would be built again at every switch between shell and chore.
fn cargo() -> anyhow::Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()?).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        let said = name.to_string_lossy();
        if said.starts_with("CARGO_PKG_") || said.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// A heading between the steps of a chore.
fn step(what: &str) {
    println!("==> {what}");
}
