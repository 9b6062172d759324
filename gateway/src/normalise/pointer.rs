//! JSON Pointer (RFC 6901), compiled once.

use std::fmt;

use super::decode::Node;

/// Names one place in a payload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

/// Text that is not a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin with a slash.
    #[error("a pointer begins with \"/\"")]
    Slash,
    /// A tilde that is followed by neither 0 nor 1.
    #[error("\"~\" in a pointer is written \"~0\", and \"/\" in a name \"~1\"")]
    Tilde,
}

impl Pointer {
    /// Reads a pointer. The empty one is the whole payload.
    ///
    /// # Errors
    /// When `text` is not a pointer.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let tokens = match text.strip_prefix('/') {
            None if text.is_empty() => Box::default(),
            None => return Err(Error::Slash),
            Some(rest) => rest.split('/').map(token).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            text: text.into(),
            tokens,
        })
    }

    /// The value at this place.
    pub fn find<'n, 'a>(&self, root: &'n Node<'a>) -> Option<&'n Node<'a>> {
        self.tokens
            .iter()
            .try_fold(root, |node, token| node.child(token))
    }

    /// The member of the whole payload that this is, where it is one.
    pub fn member(&self) -> Option<&str> {
        match &*self.tokens {
            [name] => Some(name),
            _ => None,
        }
    }

    /// Whether this is the whole payload.
    pub fn is_root(&self) -> bool {
        self.tokens.is_empty()
    }
}

fn token(escaped: &str) -> Result<Box<str>, Error> {
    let mut rest = escaped.split('~');
    let mut token = String::from(rest.next().unwrap_or_default());
    for part in rest {
        let (character, part) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(Error::Tilde),
        };
        token.push(character);
        token.push_str(part);
    }
    Ok(token.into())
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::decode, *};

    #[test]
    fn finds_what_rfc_6901_says() {
        let payload = br#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"m~n":8,"01":9}"#;
        let root = decode::decode(decode::Format::Json, payload).unwrap();
        for (pointer, expect) in [
            ("/foo/0", Some(Node::Text("bar".into()))),
            ("/foo/1", Some(Node::Text("baz".into()))),
            ("/", Some(Node::Int(0))),
            ("/a~1b", Some(Node::Int(1))),
            ("/c%d", Some(Node::Int(2))),
            ("/m~0n", Some(Node::Int(8))),
            ("/01", Some(Node::Int(9))),
            ("/foo/2", None),
            ("/foo/01", None),
            ("/foo/+1", None),
            ("/foo/-", None),
            ("/foo/0/x", None),
            ("/nothing", None),
        ] {
            assert_eq!(
                Pointer::parse(pointer).unwrap().find(&root),
                expect.as_ref(),
                "{pointer}"
            );
        }
        assert_eq!(Pointer::parse("").unwrap().find(&root), Some(&root));
    }

    #[test]
    fn refuses_what_is_no_pointer() {
        assert_eq!(Pointer::parse("ts"), Err(Error::Slash));
        assert_eq!(Pointer::parse("/a~b"), Err(Error::Tilde));
        assert_eq!(Pointer::parse("/a~"), Err(Error::Tilde));
        assert_eq!(Pointer::parse("/~01").unwrap().tokens[0].as_ref(), "~1");
    }
}
