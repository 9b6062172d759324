//! `penstock`: see `penstock --help`.

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "demo")]
    if let Some(code) = penstock::demo::devices() {
        return code;
    }
    match penstock::cli::main() {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// One line to standard error, with the causes behind it.
#[expect(
    clippy::print_stderr,
    reason = "the last word of a command line is for the person"
)]
fn report(error: &anyhow::Error) {
    eprintln!("penstock: {error:#}");
}
