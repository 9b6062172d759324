//! Who we are, for the server: user and password, a token, an NKey, or a file with a JWT.

use std::path::PathBuf;

use async_nats::ConnectOptions;

use crate::forward::Secret;

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Login {
    /// Nobody in particular, or who the certificate says.
    #[default]
    None,
    /// User and password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// The seed of a user's NKey (`SU...`).
    Nkey(Secret),
    /// A file with a JWT and the seed that goes with it, as `nsc` writes it; read anew for
    /// each connection.
    Credentials(PathBuf),
}

impl Login {
    /// Says what cannot work, without touching anything outside, and never shows a seed.
    ///
    /// # Errors
    /// When the seed of an NKey is none of a user.
    pub fn check(&self) -> Result<(), &'static str> {
        let Self::Nkey(seed) = self else {
            return Ok(());
        };
        match nkeys::KeyPair::from_seed(seed.expose()) {
            Ok(pair) if pair.key_pair_type() == nkeys::KeyPairType::User => Ok(()),
            Ok(_) => Err("is the seed of something else than a user (SU...)"),
            Err(_) => Err("is not the seed of a user (SU...)"),
        }
    }

    /// The options of a connection with this in them. Reads the file: blocking, for a moment.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(super) fn add_to(&self, options: ConnectOptions) -> Result<ConnectOptions, String> {
        Ok(match self {
            Self::None => options,
            Self::User { user, password } => {
                options.user_and_password(user.clone(), password.expose().to_owned())
            }
            Self::Token(token) => options.token(token.expose().to_owned()),
            Self::Nkey(seed) => options.nkey(seed.expose().to_owned()),
            Self::Credentials(path) => {
                let wrong = |what: &str| format!("credentials {}: {what}", path.display());
                let text =
                    std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
                // What it says of the text may quote it.
                options
                    .credentials(&text)
                    .map_err(|_| wrong("no JWT with its seed is in it, as nsc writes them"))?
            }
        })
    }
}
