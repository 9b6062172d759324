use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn config(key: Source) -> Config {
    Config {
        key: Some(key),
        ..Config::default()
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let set = |text: &str, mode| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        config(Source::File(path.clone())).seal()
    };
    let ours = set(&format!("{HEX}\n"), 0o600).unwrap();
    assert!(ours.is_on());
    assert_eq!(set(HEX, 0o400).unwrap().key(), ours.key());
    for mode in [0o604, 0o644, 0o602] {
        let said = set(HEX, mode).unwrap_err().to_string();
        assert!(
            said.contains("key_file") && said.contains("chmod 600"),
            "{said}"
        );
        assert!(
            said.contains(&format!("{mode:o}")) && !said.contains("0001"),
            "{said}"
        );
    }
    // The group of root is root.
    let is_root = fs::metadata(&path).unwrap().gid() == 0;
    assert_eq!(set(HEX, 0o640).is_ok(), is_root);
    let said = set("sesame", 0o600).unwrap_err().to_string();
    assert!(
        said.contains("64 hexadecimal digits") && !said.contains("sesame"),
        "{said}"
    );
    fs::remove_file(&path).unwrap();
    let said = config(Source::File(path.clone()))
        .seal()
        .unwrap_err()
        .to_string();
    assert!(said.contains("new-key"), "{said}");
    let said = config(Source::Env("PENSTOCK_TEST_NO_SUCH_KEY".into())).seal();
    assert!(said.unwrap_err().to_string().contains("no such variable"));
}

#[test]
fn what_the_read_side_left_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    assert_eq!(left_plain(dir.path(), &config, true), None);
    fs::write(dir.path().join(query::FILE), []).unwrap();
    assert!(left_plain(dir.path(), &config, true).is_some());
    assert_eq!(left_plain(dir.path(), &config, false), None);
}
