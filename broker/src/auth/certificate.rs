//! Who a client is by its certificate.
//!
//! Reads a name out of a certificate that TLS has verified already; knows nothing
//! of signatures, chains or validity. A certificate that has the name twice, or a
//! name with a control character, names nobody.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Which name of a certificate is the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The subject's common name.
    CommonName,
    /// The whole subject, such as `CN=line-3, O=Plant 7`.
    Subject,
    /// The subject alternative name that is a DNS name.
    Dns,
    /// The subject alternative name that is a URI.
    Uri,
    /// The subject alternative name that is a mail address.
    Email,
}

/// The name of the client that has this certificate, in DER.
pub(super) fn name(der: &[u8], which: Name) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = match which {
        Name::CommonName => only(certificate.subject().iter_common_name())?
            .as_str()
            .ok()?
            .to_owned(),
        Name::Subject => certificate.subject().to_string(),
        Name::Dns | Name::Uri | Name::Email => {
            let names = certificate.subject_alternative_name().ok()??;
            only(
                names
                    .value
                    .general_names
                    .iter()
                    .filter_map(|name| match (which, name) {
                        (Name::Dns, GeneralName::DNSName(name))
                        | (Name::Uri, GeneralName::URI(name))
                        | (Name::Email, GeneralName::RFC822Name(name)) => Some((*name).to_owned()),
                        _ => None,
                    }),
            )?
        }
    };
    let fit = !name.is_empty() && !name.contains(char::is_control);
    fit.then_some(name)
}

/// The subject, to tell somebody else.
pub(super) fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}

fn only<T>(mut names: impl Iterator<Item = T>) -> Option<T> {
    let first = names.next()?;
    names.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Plant 7");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn each_name_is_where_it_is_said_to_be() {
        let der = certificate(
            "line-3",
            vec![
                SanType::DnsName("line-3.plant7.example".try_into().unwrap()),
                SanType::URI("urn:device:line-3".try_into().unwrap()),
                SanType::Rfc822Name("line-3@plant7.example".try_into().unwrap()),
            ],
        );
        for (which, expect) in [
            (Name::CommonName, "line-3"),
            (Name::Subject, "O=Plant 7, CN=line-3"),
            (Name::Dns, "line-3.plant7.example"),
            (Name::Uri, "urn:device:line-3"),
            (Name::Email, "line-3@plant7.example"),
        ] {
            assert_eq!(name(&der, which).as_deref(), Some(expect), "{which:?}");
        }
        assert_eq!(subject(&der).as_deref(), Some("O=Plant 7, CN=line-3"));
    }

    #[test]
    fn what_is_missing_twice_or_strange_names_nobody() {
        let bare = certificate("line-3", Vec::new());
        for which in [Name::Dns, Name::Uri, Name::Email] {
            assert_eq!(name(&bare, which), None, "{which:?}");
        }
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let twice = certificate("line-3", vec![dns("a.example"), dns("b.example")]);
        assert_eq!(name(&twice, Name::Dns), None);
        assert_eq!(
            name(&certificate("a\0b", Vec::new()), Name::CommonName),
            None
        );
        assert_eq!(name(b"no certificate", Name::Subject), None);
    }
}
