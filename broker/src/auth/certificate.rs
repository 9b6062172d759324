//! Who a client is by its certificate.
//!
//! Reads a name out of a certificate that TLS has verified already; knows nothing
//! of signatures, chains or validity. A certificate that has the name twice, or a
//! name with a control character, names nobody; nor does a subject with anything in it
//! that cannot be read, as its reading could be another's. What is special in a
//! subject's text is escaped (RFC 4514), so that no value looks like two.

use std::fmt::Write as _;

use x509_parser::{
    asn1_rs::Tag,
    objects::{oid_registry, oid2abbrev},
    prelude::{AttributeTypeAndValue, FromDer as _, GeneralName, X509Certificate, X509Name},
};

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

impl Name {
    /// As it is written in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::CommonName => "common-name",
            Self::Subject => "subject",
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
        }
    }
}

/// The name of the client that has this certificate, in DER.
pub(super) fn name(der: &[u8], which: Name) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = match which {
        Name::CommonName => text(only(certificate.subject().iter_common_name())?)?.to_owned(),
        Name::Subject => written(certificate.subject())?,
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
    written(certificate.subject())
}

/// A subject in the order of the certificate, such as `CN=line-3, O=Plant 7`.
fn written(name: &X509Name<'_>) -> Option<String> {
    let mut all = String::new();
    for (n, part) in name.iter_rdn().enumerate() {
        all.push_str(if n == 0 { "" } else { ", " });
        for (n, attribute) in part.iter().enumerate() {
            all.push_str(if n == 0 { "" } else { "+" });
            match oid2abbrev(attribute.attr_type(), oid_registry()) {
                Ok(known) => all.push_str(known),
                Err(_) => write!(all, "{}", attribute.attr_type()).ok()?,
            }
            all.push('=');
            escape(text(attribute)?, &mut all);
        }
    }
    Some(all)
}

/// A value in an encoding that has one reading only.
fn text<'n>(attribute: &'n AttributeTypeAndValue<'_>) -> Option<&'n str> {
    let value = attribute.attr_value();
    let text = std::str::from_utf8(value.data).ok()?;
    match value.tag() {
        Tag::Utf8String => Some(text),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            text.is_ascii().then_some(text)
        }
        _ => None,
    }
}

fn escape(value: &str, all: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (n, character) in value.chars().enumerate() {
        let special = match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => true,
            ' ' => n == 0 || n == last,
            '#' => n == 0,
            _ => false,
        };
        if special {
            all.push('\\');
        }
        all.push(character);
    }
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
    fn no_subject_can_be_written_as_anothers() {
        let one = certificate("line-3, O=Plant 8", Vec::new());
        let said = name(&one, Name::Subject);
        assert_eq!(said.as_deref(), Some(r"O=Plant 7, CN=line-3\, O\=Plant 8"));
        assert_eq!(subject(&one), said);
        let spaces = certificate(r" #a\+ ", Vec::new());
        let said = name(&spaces, Name::Subject);
        assert_eq!(said.as_deref(), Some(r"O=Plant 7, CN=\ #a\\\+\ "));
    }

    #[test]
    fn a_subject_that_cannot_be_read_names_nobody() {
        use rcgen::DnValue;

        let with = |value: DnValue| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, value);
            let key = KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        for strange in [
            DnValue::BmpString("line".try_into().unwrap()),
            DnValue::TeletexString("line".try_into().unwrap()),
            DnValue::UniversalString("line".try_into().unwrap()),
        ] {
            let der = with(strange);
            assert_eq!(name(&der, Name::Subject), None);
            assert_eq!(name(&der, Name::CommonName), None);
            assert_eq!(subject(&der), None);
        }
        let plain = with(DnValue::PrintableString("line".try_into().unwrap()));
        assert_eq!(name(&plain, Name::Subject).as_deref(), Some("CN=line"));
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
