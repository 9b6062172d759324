//! Damage to files, as disks and people do it.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use rand::{RngExt as _, rngs::StdRng};

/// Inverts bytes at random places between `from` and the end of the file.
///
/// # Panics
/// When the file cannot be changed.
pub fn flip_bytes(path: &Path, from: u64, count: u32, rng: &mut StdRng) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file is there");
    let length = file.metadata().expect("the file is there").len();
    assert!(length > from, "{} has only {length} bytes", path.display());
    for _ in 0..count {
        let at = rng.random_range(from..length);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("inside the file");
        file.write_all_at(&[!byte[0]], at).expect("inside the file");
    }
}

/// Overwrites a stretch with zeroes.
///
/// # Panics
/// When the file cannot be changed.
pub fn blank(path: &Path, at: u64, bytes: usize) {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file is there");
    file.write_all_at(&vec![0; bytes], at)
        .expect("the file can be written");
}

/// Cuts the file to a part of its length, in percent.
///
/// # Panics
/// When the file cannot be changed.
pub fn cut(path: &Path, percent: u64) {
    let length = fs::metadata(path).expect("the file is there").len();
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file is there");
    file.set_len(length * percent / 100)
        .expect("the file can be cut");
}
