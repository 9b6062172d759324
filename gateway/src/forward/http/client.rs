//! The client: certificates, proxy, timeouts. It is made anew when a file of
//! certificates has changed; one that cannot be read then leaves the old ones in use.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use reqwest::{Client, redirect::Policy};

use super::{Config, Error};
use crate::forward::Secret;

/// The way to the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proxy {
    /// As `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// Straight there.
    None,
    /// Through this one; the address may have a user and a password.
    At(Secret),
}

impl Proxy {
    /// Says what is wrong with the address, and never shows it: it may hold a password.
    ///
    /// # Errors
    /// When it is none.
    pub fn check(&self) -> Result<(), &'static str> {
        let Self::At(address) = self else {
            return Ok(());
        };
        let is_address = |address: &str| {
            let url = reqwest::Url::parse(address).ok();
            url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        match is_address(address.expose()) && reqwest::Proxy::all(address.expose()).is_ok() {
            true => Ok(()),
            false => Err("should be http://HOST:PORT, perhaps with USER:PASSWORD@, or \"none\""),
        }
    }
}

/// When the files of certificates were last written.
type Stamp = Vec<Option<SystemTime>>;

/// The client of today's files.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<Option<(Client, Stamp)>>);

impl Clients {
    /// The client. Looks at the files: blocking, for a moment.
    pub(super) fn get(&self, config: &Config) -> Result<Client, Error> {
        // Nothing that holds the lock panics, so a poisoned one is as good.
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp: Stamp = config.tls.paths().map(written).collect();
        match &mut *slot {
            Some((client, of)) if *of == stamp => Ok(client.clone()),
            Some((client, of)) => {
                match build(config) {
                    Ok(new) => {
                        *client = new;
                        tracing::info!(url_host = host(config), "certificates were read again");
                    }
                    Err(error) => tracing::warn!(
                        url_host = host(config),
                        %error,
                        "certificates have changed and cannot be used; the old ones stay in use"
                    ),
                }
                // Said once for each change.
                *of = stamp;
                Ok(client.clone())
            }
            None => {
                let client = build(config).map_err(Error::Misconfigured)?;
                *slot = Some((client.clone(), stamp));
                Ok(client)
            }
        }
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|file| file.modified())
        .ok()
}

fn host(config: &Config) -> Option<String> {
    let url = config.target().ok()?;
    url.host_str().map(ToOwned::to_owned)
}

fn build(config: &Config) -> Result<Client, String> {
    crate::tls::install_provider();
    let connections = match config.form.takes_one() {
        true => config.in_flight.max(1),
        false => 1,
    };
    let mut builder = Client::builder()
        .default_headers(config.header_map().map_err(|error| error.to_string())?)
        .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
        .timeout(config.timeout)
        .connect_timeout(config.connect_timeout)
        .redirect(Policy::none())
        .pool_max_idle_per_host(connections);
    if !config.tls.is_empty() {
        let mut tls = config.tls.client()?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        builder = builder.tls_backend_preconfigured(tls);
    }
    builder = match &config.proxy {
        Proxy::Environment => builder,
        Proxy::None => builder.no_proxy(),
        Proxy::At(address) => {
            let proxy = reqwest::Proxy::all(address.expose());
            builder.proxy(proxy.map_err(|_| "the proxy's address cannot be used")?)
        }
    };
    // Its own words may have an address with a password in them.
    let build = builder.build();
    build.map_err(|error| format!("http client: {}", error.without_url()))
}
