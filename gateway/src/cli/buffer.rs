//! `penstock buffer`: the journal itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::{ConfigFile, output};
use crate::store;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read everything, check every checksum and the ledger; non-zero when something is wrong
    Verify(ConfigFile),
    /// How much is in it, and where each destination stands
    Stats(ConfigFile),
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Verify(file) => {
            let report = store::verify(&file.load()?.data_dir)?;
            output::line(&report);
            Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Stats(file) => {
            output::line(store::stats(&file.load()?.data_dir)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}
