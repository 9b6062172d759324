//! `penstock map`: what mappings make of messages.

mod attempt;
mod case;
mod vectors;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run messages with known outcomes through the normaliser and show what differs
    CheckVectors {
        /// One case a line; docs/testing.md describes them
        #[arg(value_name = "FILE.jsonl")]
        file: PathBuf,
    },
    /// Show what a message becomes under the configured mappings, which key it gets, and why
    Try(Box<attempt::Args>),
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Try(args) => {
            output::line(attempt::run(&args)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::CheckVectors { file } => {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            let report = vectors::check(&text)?;
            for difference in &report.differences {
                output::line(format_args!("{difference}"));
            }
            output::line(format_args!("{report}"));
            Ok(match report.differences.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            })
        }
    }
}
