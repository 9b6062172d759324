//! Servers that refuse to run as root.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use rustix::process::getuid;

use crate::Sandbox;

/// Who they run as instead.
const NOBODY: u32 = 65_534;

/// The same, run as nobody where the user is root.
pub(crate) fn run(mut command: Command) -> Command {
    if getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Makes a directory in the sandbox that is theirs.
pub(crate) fn dir(sandbox: &Sandbox, dir: &Path) {
    fs::create_dir_all(dir).expect("the sandbox takes a directory");
    if getuid().is_root() {
        let passable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(sandbox.dir(), passable).expect("the sandbox is ours");
    }
    own(dir);
}

/// Gives them what is there.
pub(crate) fn own(path: &Path) {
    if getuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}
