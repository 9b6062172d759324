//! `penstock rules`: what patterns do, without a gateway.

mod attempt;
mod backtest;

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::output;
use crate::rules::vectors::Vector;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say which rules take an event; fails where none does
    Test(Box<attempt::Args>),
    /// Say why, clause by clause
    Explain(Box<attempt::Args>),
    /// Say what rules would make of the events that the journal has
    Backtest(Box<backtest::Args>),
    /// Check the matcher with cases, and print those that come out otherwise
    CheckVectors {
        /// A case on each line: {"name", "pattern", "event", "expect": "match|no-match|invalid"},
        /// pattern and event as texts
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Test(args) => attempt::test(&args),
        Command::Explain(args) => attempt::explained(&args),
        Command::Backtest(args) => backtest::run(&args),
        Command::CheckVectors { file } => check_vectors(&file),
    }
}

fn check_vectors(path: &Path) -> Result<ExitCode> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("{shown} cannot be read"))?;
    let (mut cases, mut differ) = (0_u64, 0_u64);
    for (n, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.with_context(|| format!("{shown}:{n} cannot be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let case: Vector =
            serde_json::from_str(&line).with_context(|| format!("{shown}:{n} is not a case"))?;
        cases += 1;
        let (outcome, why) = case.outcome();
        if outcome != case.expect {
            differ += 1;
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            output::line(format_args!(
                "{}: expected {}, found {}{}\n    pattern {}\n    event   {}",
                output::tame(&case.name),
                case.expect.as_str(),
                outcome.as_str(),
                output::tame(&why),
                output::tame(&case.pattern),
                output::tame(&case.event),
            ));
        }
    }
    output::line(format_args!("{cases} cases, {differ} differ"));
    Ok(if differ == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
