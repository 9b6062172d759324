//! TLS for MQTT: the files of any connection, and the protocols to ask for.

use std::sync::Arc;

use rustls::ClientConfig;

use super::Tls;
use crate::tls::Files;

/// Reads the files and puts them together, or says which of them cannot be used.
/// Blocking, for a moment.
pub(super) fn client(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let files = Files {
        ca: tls.ca.clone(),
        identity: tls.identity.clone(),
    };
    let mut config = files.client()?;
    config.alpn_protocols = tls
        .alpn
        .iter()
        .map(|name| name.clone().into_bytes())
        .collect();
    Ok(Arc::new(config))
}
