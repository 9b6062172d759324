//! Asks for a password at the terminal, without showing it.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// What Ctrl-C sends while it is not a signal.
const INTERRUPT: u8 = 3;

/// Asks twice, so that a slip of the finger does not become a password.
pub(super) fn twice() -> Result<Vec<u8>> {
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .context("there is no terminal to ask at; use --password-stdin or --generate")?;
    let first = ask(&mut terminal, "Password: ")?;
    let second = ask(&mut terminal, "Once more: ")?;
    if first != second {
        bail!("the two are not the same");
    }
    Ok(first)
}

/// Puts the terminal back as it was.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn new(terminal: &'t File) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        // Ctrl-C must not leave a terminal behind that shows nothing.
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nobody left to tell.
        tcsetattr(self.terminal, OptionalActions::Now, &self.before).ok();
    }
}

fn ask(terminal: &mut File, text: &str) -> Result<Vec<u8>> {
    write!(terminal, "{text}")?;
    terminal.flush()?;
    let mut line = Vec::new();
    {
        let quiet = Quiet::new(terminal).context("cannot keep the terminal from showing it")?;
        BufReader::new(quiet.terminal).read_until(b'\n', &mut line)?;
    }
    writeln!(terminal)?;
    if line.contains(&INTERRUPT) {
        bail!("interrupted");
    }
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    Ok(line)
}
