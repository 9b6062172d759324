//! Disks that are really small, or hang.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{programs, skip};

/// A tmpfs of its own size, unmounted when dropped. Whoever writes to it must be gone by then.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `dir`; `None`, said aloud, where that is not allowed.
    ///
    /// # Panics
    /// When the mount point cannot be made.
    pub fn mount(dir: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(dir).expect("the sandbox can be written");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m"),
                "penstock-test",
            ])
            .arg(dir)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            skip::not_permitted("mounting a small tmpfs (needs root)");
            return None;
        }
        Some(Self {
            dir: dir.to_path_buf(),
        })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that are free on it.
    ///
    /// # Panics
    /// When the system cannot say.
    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.dir).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all the room there is with a file of somebody else's; removing the file gives
    /// it back.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn occupy(&self) -> PathBuf {
        occupy(&self.dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.dir);
    }
}

/// A disk in a file, which can be frozen: whoever writes to it then hangs until it is thawed,
/// and cannot be killed before.
#[derive(Debug)]
pub struct FrozenDisk {
    dir: PathBuf,
    fsfreeze: PathBuf,
}

impl FrozenDisk {
    /// Mounts one at `dir`; `None`, said aloud, where a program is missing or that is not
    /// allowed.
    ///
    /// # Panics
    /// When the mount point cannot be made.
    pub fn mount(dir: &Path, mebibytes: u32) -> Option<Self> {
        let find = |program| {
            let found = programs::on_path(program);
            if found.is_none() {
                skip::missing_program(program);
            }
            found
        };
        let (mkfs, fsfreeze) = (find("mkfs.ext4")?, find("fsfreeze")?);
        fs::create_dir_all(dir).expect("the sandbox can be written");
        let image = dir.with_extension("image");
        let file = File::create(&image).expect("the sandbox can be written");
        file.set_len(u64::from(mebibytes) << 20)
            .expect("a file can have holes");
        let done = |command: &mut Command| {
            let output = command.output();
            output.is_ok_and(|output| output.status.success())
        };
        let mounted = done(Command::new(mkfs).args(["-q", "-m", "0"]).arg(&image))
            && done(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .args([&image, dir]),
            );
        if !mounted {
            skip::not_permitted("mounting a disk in a file (needs root and a loop device)");
            return None;
        }
        let dir = dir.to_path_buf();
        Some(Self { dir, fsfreeze })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on whoever writes hangs, until what this gives is dropped.
    ///
    /// # Panics
    /// When that cannot be had.
    pub fn freeze(&self) -> Frozen<'_> {
        assert!(self.run("-f"), "the disk cannot be frozen");
        Frozen { disk: self }
    }

    /// As [`SmallDisk::occupy`].
    pub fn occupy(&self) -> PathBuf {
        occupy(&self.dir)
    }

    fn run(&self, what: &str) -> bool {
        let output = Command::new(&self.fsfreeze)
            .arg(what)
            .arg(&self.dir)
            .output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        unmount(&self.dir);
    }
}

/// A disk on which nobody can write, nor be killed while he tries. A test that fails thaws
/// it, too: otherwise it would wait for ever for what it has started.
#[derive(Debug)]
#[must_use]
pub struct Frozen<'d> {
    disk: &'d FrozenDisk,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = self.disk.run("-u");
        assert!(
            thawed || std::thread::panicking(),
            "the disk cannot be thawed"
        );
    }
}

fn occupy(dir: &Path) -> PathBuf {
    let path = dir.join("somebody-elses-file");
    let mut file = File::create(&path).expect("a file can be made");
    // To the last page, whoever else writes meanwhile.
    while file.write_all(&[0; 4_096]).is_ok() {}
    path
}

fn unmount(dir: &Path) {
    for lazily in ["-f", "-l"] {
        let output = Command::new("umount").arg(lazily).arg(dir).output();
        if output.is_ok_and(|output| output.status.success()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sandbox;

    #[test]
    fn a_small_disk_is_full_when_occupied_and_gone_when_dropped() {
        let sandbox = Sandbox::new();
        let Some(disk) = SmallDisk::mount(&sandbox.path("disk"), 1) else {
            return;
        };
        let file = disk.occupy();
        fs::write(disk.dir().join("more"), [0; 8_192]).unwrap_err();
        fs::remove_file(file).unwrap();
        assert!(disk.free_bytes() > 900_000);
        let dir = disk.dir().to_path_buf();
        fs::write(dir.join("inside"), "x").unwrap();
        drop(disk);
        assert!(!dir.join("inside").is_file());
    }

    #[test]
    fn whoever_writes_to_a_frozen_disk_hangs_until_it_is_thawed() {
        let sandbox = Sandbox::new();
        let Some(disk) = FrozenDisk::mount(&sandbox.path("disk"), 8) else {
            return;
        };
        let frozen = disk.freeze();
        let file = disk.dir().join("file");
        let writer = std::thread::spawn(move || fs::write(file, "x"));
        crate::wait::pass(std::time::Duration::from_millis(200));
        assert!(!writer.is_finished());
        drop(frozen);
        writer.join().unwrap().unwrap();
    }
}
