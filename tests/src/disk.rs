//! A disk that is really small.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip;

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
        let path = self.dir.join("somebody-elses-file");
        let mut file = File::create(&path).expect("a file can be made");
        // To the last page, whoever else writes meanwhile.
        while file.write_all(&[0; 4_096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for lazily in [&["-f"][..], &["-l"][..]] {
            let unmounted = Command::new("umount")
                .args(lazily)
                .arg(&self.dir)
                .output()
                .is_ok_and(|output| output.status.success());
            if unmounted {
                return;
            }
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
}
