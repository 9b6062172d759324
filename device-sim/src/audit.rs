//! Compares what was sent and acknowledged with what arrived.
//!
//! The verdict is on a destination: every message that was acknowledged and is
//! well formed must be there, once, and those of a device in the order in which
//! it first sent them. What may legally differ is counted apart: what arrived
//! without an acknowledgement, what the gateway put off, malformed messages
//! (they belong in quarantine), and events that no simulator sent.

mod arrival;
mod files;
mod ledger;
mod nats;
mod verdict;

use anyhow::Context as _;

use crate::cli;
pub(crate) use verdict::Verdict;

/// Reads everything and judges.
///
/// # Errors
/// When something cannot be read, or an ack log contradicts itself.
pub(crate) fn run(args: &cli::Audit) -> anyhow::Result<Verdict> {
    let mut ledger = ledger::Ledger::default();
    for path in &args.ack_log {
        files::read_ack_log(path, &mut ledger)
            .with_context(|| format!("ack log {}", path.display()))?;
    }
    ledger.check_complete()?;
    if let Some((url, stream)) = args.nats.as_ref().zip(args.stream.as_ref()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        runtime.block_on(nats::read(url, stream, &mut ledger))?;
    } else {
        for path in &args.files {
            files::read_arrived(path, &mut ledger)
                .with_context(|| format!("arrived events {}", path.display()))?;
        }
    }
    Ok(ledger.verdict(args.allow_duplicates))
}
