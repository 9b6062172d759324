//! The password file: one `name:hash` a line, hashes as PHC strings of argon2id.
//!
//! Lines that begin with `#` and empty lines are kept as they are. The file is
//! written whole, beside the old one, made durable and then renamed, readable for
//! its owner only, so that nobody ever reads half of it or finds it gone after a
//! power cut. Passwords themselves are never in it.
//!
//! A check costs what the hash says it costs, memory included, so a file with a
//! cost beyond [`MEMORY_KIB_MAX`] or [`ITERATIONS_MAX`] is refused.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};

/// Longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Longest user name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Most memory that one check may take, in KiB.
pub const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// Most passes of one check over its memory.
pub const ITERATIONS_MAX: u32 = 16;
/// A password file has at most so many bytes: half a million users.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a check of a password costs whoever does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
}

impl Cost {
    /// For passwords that people choose: OWASP's first recommendation for argon2id.
    pub const PERSON: Self = Self {
        memory_kib: 19 * 1024,
        iterations: 2,
    };
    /// For passwords of 128 random bits, which nobody can guess at any cost.
    pub const RANDOM: Self = Self {
        memory_kib: 1024,
        iterations: 1,
    };
}

/// Why a password cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No password at all.
    #[error("a password has at least one character")]
    Empty,
    /// More than [`PASSWORD_BYTES_MAX`].
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// A cost that argon2 or this broker does not take.
    #[error(
        "the cost is beyond {MEMORY_KIB_MAX} KiB or {ITERATIONS_MAX} iterations, or below argon2's least"
    )]
    Cost,
    /// The system has no random numbers, or argon2 failed.
    #[error("the password cannot be hashed")]
    Hash,
}

/// Hashes a password with a new salt.
///
/// # Errors
/// When the password or the cost cannot be used.
pub fn hash(password: &[u8], cost: Cost) -> Result<String, Unfit> {
    match password.len() {
        0 => return Err(Unfit::Empty),
        1..=PASSWORD_BYTES_MAX => {}
        _ => return Err(Unfit::TooLong),
    }
    if cost.memory_kib > MEMORY_KIB_MAX || cost.iterations > ITERATIONS_MAX {
        return Err(Unfit::Cost);
    }
    let params = Params::new(cost.memory_kib, cost.iterations, 1, None).map_err(|_| Unfit::Cost)?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password);
    hash.map(|hash| hash.to_string()).map_err(|_| Unfit::Hash)
}

/// Whether `password` is the one behind `hash`. Takes the hash's cost, and compares
/// in constant time.
pub(crate) fn is_right(password: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

fn check_hash(text: &str) -> Result<(), String> {
    let hash = PasswordHash::new(text)
        .map_err(|_| "not a hash; lines are made with \"penstock user add\"".to_owned())?;
    if hash.algorithm != Algorithm::Argon2id.ident() {
        return Err(format!(
            "a hash of {}; it has to be argon2id",
            hash.algorithm
        ));
    }
    let params = Params::try_from(&hash)
        .map_err(|_| "a hash with a cost that argon2 does not know".to_owned())?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > ITERATIONS_MAX || params.p_cost() > 4 {
        return Err(format!(
            "a hash that costs more than {MEMORY_KIB_MAX} KiB, {ITERATIONS_MAX} iterations and 4 lanes"
        ));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("a hash without its salt or its end".to_owned());
    }
    Ok(())
}

/// Checks a user name for the file.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err("a user name has 1 to 256 bytes");
    }
    if name.contains(':') || name.starts_with('#') || name.contains(char::is_control) {
        return Err(
            "a user name has no \":\", no control character, and does not begin with \"#\"",
        );
    }
    if name.trim() != name {
        return Err("a user name does not begin or end with a space");
    }
    Ok(())
}

/// Every mistake in a password file, or why it cannot be read or written.
#[derive(Debug)]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// Line by line, or one for the file as a whole.
    pub mistakes: Vec<String>,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{}: {mistake}", self.path.display())?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Other(Box<str>),
    User(Arc<str>),
}

/// What a password file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords {
    lines: Vec<Line>,
    users: HashMap<Arc<str>, Arc<str>>,
}

impl Passwords {
    /// Reads a file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let error = |mistakes| Error {
            path: path.to_path_buf(),
            mistakes,
        };
        let cannot = |what: io::Error| error(vec![format!("cannot be read: {what}")]);
        let file = File::open(path).map_err(cannot)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(error(vec![format!(
                "is larger than {FILE_BYTES_MAX} bytes"
            )]));
        }
        Self::parse(&text).map_err(error)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Every mistake in it, with its line.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut read, mut mistakes) = (Self::default(), Vec::new());
        for (n, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                read.lines.push(Line::Other(line.into()));
                continue;
            }
            let mut wrong = |what: &str| mistakes.push(format!("line {}: {what}", n + 1));
            let Some((name, hash)) = line.split_once(':') else {
                wrong("should be a user name, \":\" and a hash");
                continue;
            };
            if let Err(what) = check_name(name) {
                wrong(what);
            } else if let Err(what) = check_hash(hash.trim_end()) {
                wrong(&what);
            } else if !read.set(name, hash.trim_end()) {
                wrong(&format!("the user {name:?} is there twice"));
            }
        }
        if mistakes.is_empty() {
            Ok(read)
        } else {
            Err(mistakes)
        }
    }

    /// Writes the file in place of the one before.
    ///
    /// # Errors
    /// When the file system refuses; the one before is then still there.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".new");
        let partial = PathBuf::from(partial);
        // What another writer left behind may have other permissions.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        // The umask may have taken more away than wanted.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        keep_owner(path, &file)?;
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(dir)?.sync_all()
    }

    /// The users, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            Line::User(name) => Some(&**name),
            Line::Other(_) => None,
        })
    }

    /// A user's hash.
    pub fn hash_of(&self, name: &str) -> Option<&Arc<str>> {
        self.users.get(name)
    }

    /// Sets a user's hash; whether the user is new.
    pub fn set(&mut self, name: &str, hash: &str) -> bool {
        let name: Arc<str> = Arc::from(name);
        let is_new = self
            .users
            .insert(Arc::clone(&name), Arc::from(hash))
            .is_none();
        if is_new {
            self.lines.push(Line::User(name));
        }
        is_new
    }

    /// Removes a user; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let line = |line: &Line| matches!(line, Line::User(user) if **user == *name);
        self.lines.retain(|one| !line(one));
        self.users.remove(name).is_some()
    }

    /// Somebody's hash, always the same for one `number`: what a check of an unknown
    /// user costs is what checks of known ones cost.
    pub(crate) fn any_hash(&self, number: u64) -> Option<&Arc<str>> {
        let count = u64::try_from(self.lines.len()).ok()?;
        let from = usize::try_from(number.checked_rem(count)?).ok()?;
        let turned = self.lines[from..].iter().chain(&self.lines[..from]);
        let name = turned.into_iter().find_map(|line| match line {
            Line::User(name) => Some(name),
            Line::Other(_) => None,
        })?;
        self.users.get(name)
    }
}

impl fmt::Display for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            match line {
                Line::Other(text) => writeln!(f, "{text}")?,
                Line::User(name) => {
                    let hash = self.users.get(name).map_or("", |hash| hash);
                    writeln!(f, "{name}:{hash}")?;
                }
            }
        }
        Ok(())
    }
}

/// The gateway that reads the file may be another user than the one who changes it.
fn keep_owner(old: &Path, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};

    let Ok(old) = fs::metadata(old) else {
        return Ok(()); // there is none yet
    };
    let own = new.metadata()?;
    if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost {
        memory_kib: 8,
        iterations: 1,
    };

    #[test]
    fn a_hash_is_of_its_password_only() {
        let one = hash(b"sesame", CHEAP).unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{one}");
        assert!(is_right(b"sesame", &one));
        assert!(!is_right(b"Sesame", &one));
        assert!(!is_right(b"", &one));
        assert_ne!(hash(b"sesame", CHEAP).unwrap(), one, "another salt");
        assert_eq!(hash(b"", CHEAP), Err(Unfit::Empty));
        assert_eq!(
            hash(&[b'x'; PASSWORD_BYTES_MAX + 1], CHEAP),
            Err(Unfit::TooLong)
        );
        for cost in [
            Cost {
                memory_kib: MEMORY_KIB_MAX + 1,
                ..CHEAP
            },
            Cost {
                iterations: ITERATIONS_MAX + 1,
                ..CHEAP
            },
            Cost {
                memory_kib: 1,
                ..CHEAP
            },
        ] {
            assert_eq!(hash(b"x", cost), Err(Unfit::Cost));
        }
    }

    #[test]
    fn a_file_keeps_its_comments_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwords");
        let (one, two) = (hash(b"1", CHEAP).unwrap(), hash(b"2", CHEAP).unwrap());
        let text = format!("# plant 7\nline-1:{one}\n\nline-2:{two}\n");
        fs::write(&path, &text).unwrap();
        let mut passwords = Passwords::load(&path).unwrap();
        assert!(passwords.set("line-3", &one));
        assert!(!passwords.set("line-2", &one));
        assert!(passwords.remove("line-1"));
        assert!(!passwords.remove("line-1"));
        passwords.save(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("# plant 7\n\nline-2:{one}\nline-3:{one}\n")
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Passwords::load(&path).unwrap(), passwords);
        assert_eq!(passwords.names().collect::<Vec<_>>(), ["line-2", "line-3"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_mistake_in_a_file_is_said_with_its_line() {
        let good = hash(b"1", CHEAP).unwrap();
        let dear = good.replace("m=8,", "m=99999999,");
        let other = good.replace("argon2id", "argon2i");
        let text = format!(
            "a:{good}\nno colon\nb:nonsense\na:{good}\n x:{good}\nc:{dear}\nd:{other}\n:{good}"
        );
        let mistakes = Passwords::parse(&text).unwrap_err();
        let lines: Vec<_> = mistakes
            .iter()
            .map(|mistake| mistake.split(':').next().unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                "line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8"
            ],
            "{mistakes:#?}"
        );
        assert!(mistakes.iter().all(|mistake| !mistake.contains(&good)));
    }

    #[test]
    fn an_unknown_user_costs_what_some_known_one_costs() {
        assert_eq!(Passwords::default().any_hash(7), None);
        let text = format!("# x\na:{}\n", hash(b"1", CHEAP).unwrap());
        let passwords = Passwords::parse(&text).unwrap();
        for number in [0, 1, 2, u64::MAX] {
            assert_eq!(passwords.any_hash(number), passwords.hash_of("a"));
        }
    }
}
