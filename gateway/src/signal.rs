//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once. SIGHUP
//! asks for what was changed to be read again, see `reload`.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal.
const IMPATIENT: i32 = 130;

/// From here on SIGHUP does not end the process.
///
/// # Errors
/// When the operating system does not let us listen for signals.
pub fn catch_hangup() -> std::io::Result<()> {
    signal(SignalKind::hangup()).map(drop)
}

/// Cancels `shutdown` at the first signal and ends the process at the second.
///
/// # Errors
/// When the operating system does not let us listen for signals.
pub async fn watch(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if shutdown.is_cancelled() {
            tracing::warn!(signal = name, "second signal, ending at once");
            std::process::exit(IMPATIENT);
        }
        tracing::info!(signal = name, "shutting down; a second signal ends at once");
        shutdown.cancel();
    }
}
