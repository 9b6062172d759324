//! Who we are, for the endpoint: basic, bearer, or a token of OAuth 2.0 (RFC 6749,
//! section 4.4, client credentials).
//!
//! A token is kept until shortly before it runs out. An endpoint that refuses it (401)
//! is asked once more with a new one, and no more than that.

mod oauth2;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, header::HeaderValue};
use tokio::{sync::Mutex, time::Instant};

use super::{Error, config::sensitive};
use crate::{clock::Clock, forward::Secret};

pub use oauth2::Oauth2;

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// Nobody in particular, or what `headers` say.
    #[default]
    None,
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that does not change while the gateway runs.
    Bearer(Secret),
    /// Tokens that a service gives out.
    Oauth2(Oauth2),
}

impl Auth {
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Basic { user, .. } if user.contains(':') => {
                Err("user: a user of basic authentication has no \":\"".to_owned())
            }
            Self::Bearer(token) if bearer(token.expose()).is_none() => {
                Err("token has characters that a header cannot have".to_owned())
            }
            Self::Oauth2(oauth2) => oauth2.check(),
            _ => Ok(()),
        }
    }

    /// What must not be shown.
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Basic { user, password } => {
                vec![password.expose().to_owned(), basic(user, password.expose())]
            }
            Self::Bearer(token) => vec![token.expose().to_owned()],
            Self::Oauth2(oauth2) => vec![oauth2.client_secret.expose().to_owned()],
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// A token and how long it is good.
struct Token {
    header: HeaderValue,
    word: String,
    until: Instant,
}

/// Makes the `Authorization` header.
pub(super) struct Authorizer {
    auth: Auth,
    token: Mutex<Option<Token>>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authorizer").field(&self.auth).finish()
    }
}

impl Authorizer {
    pub(super) fn new(auth: Auth) -> Self {
        Self {
            auth,
            token: Mutex::default(),
        }
    }

    /// The header; asks for a token where there is none that is good. Requests that come
    /// meanwhile wait for the same one.
    pub(super) async fn header(
        &self,
        client: &Client,
        clock: &dyn Clock,
    ) -> Result<Option<HeaderValue>, Error> {
        let oauth2 = match &self.auth {
            Auth::None => return Ok(None),
            Auth::Basic { user, password } => {
                let header = sensitive(&format!("Basic {}", basic(user, password.expose())));
                return Ok(header);
            }
            Auth::Bearer(token) => return Ok(bearer(token.expose())),
            Auth::Oauth2(oauth2) => oauth2,
        };
        let mut slot = self.token.lock().await;
        if let Some(token) = slot.as_ref()
            && Instant::now() < token.until
        {
            return Ok(Some(token.header.clone()));
        }
        let token = oauth2.ask(client, clock.now()).await?;
        let header = token.header.clone();
        *slot = Some(token);
        Ok(Some(header))
    }

    /// The endpoint refused a request that had this header. Whether another one may help.
    pub(super) async fn is_refused(&self, used: Option<&HeaderValue>) -> bool {
        if !matches!(self.auth, Auth::Oauth2(_)) {
            return false;
        }
        // Another request may have brought a new one already.
        self.token
            .lock()
            .await
            .take_if(|token| Some(&token.header) == used);
        true
    }

    /// Takes the token of today out of a text that came from outside.
    pub(super) async fn conceal(&self, text: String) -> String {
        match &*self.token.lock().await {
            Some(token) => text.replace(&token.word, "***"),
            None => text,
        }
    }
}
