//! From a pattern's text to its alternatives.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ALTERNATIVES_MAX, Alternative, FIELDS_MAX, Field, PATH_BYTES_MAX, Pattern, operator::terms,
};
use crate::rules::{
    json::{Error, Member, Node, Value},
    terms::Terms,
};

/// The name that makes alternatives.
const OR: &str = "$or";

/// Names that no field within `$or` has: with one of them it is a list of terms.
const RESERVED: [&str; 24] = [
    "exactly",
    "equals-ignore-case",
    "prefix",
    "suffix",
    "anything-but",
    "exists",
    "wildcard",
    "numeric",
    "cidr",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// An alternative that is being written: later terms of a path replace earlier ones.
type Draft = BTreeMap<Arc<str>, Arc<Terms>>;

/// A pattern in which `$or` cannot be meant as such may have a field of that name:
/// then it is a name everywhere. What is said to be wrong is what is wrong otherwise.
pub(super) fn compile(root: &Node<'_>) -> Result<Pattern, Error> {
    let meant = Compiler { or: true }.pattern(root);
    meant.or_else(|error| Compiler { or: false }.pattern(root).map_err(|_| error))
}

struct Compiler {
    /// Whether `$or` is more than a name.
    or: bool,
}

impl Compiler {
    fn pattern(&self, root: &Node<'_>) -> Result<Pattern, Error> {
        let Value::Object(members) = &root.value else {
            let what = format!("a pattern is an object, not {}", root.value.kind());
            return Err(Error::new(root.at, what));
        };
        let mut drafts = vec![Draft::new()];
        self.object(root.at, members, None, false, &mut drafts)?;
        Ok(Pattern {
            alternatives: drafts.into_iter().map(alternative).collect(),
        })
    }

    /// Adds the fields of an object to every draft.
    fn object(
        &self,
        at: usize,
        members: &[Member<'_>],
        path: Option<&str>,
        within_or: bool,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), Error> {
        if members.is_empty() {
            return Err(Error::new(
                at,
                "an empty object says nothing; name a field, such as {\"device\": [\"b7\"]}",
            ));
        }
        for Member { at, name, node } in members {
            if self.or && name == OR {
                self.alternatives(node, path, drafts)?;
                continue;
            }
            if within_or && RESERVED.contains(&&**name) {
                let what = format!("{name:?} is no field within \"$or\", but an operator's name");
                return Err(Error::new(*at, what));
            }
            let path = match path {
                None => name.to_string(),
                Some(path) => format!("{path}.{name}"),
            };
            if path.len() > PATH_BYTES_MAX {
                let what =
                    format!("the names that lead here have more than {PATH_BYTES_MAX} bytes");
                return Err(Error::new(*at, what));
            }
            match &node.value {
                Value::Object(members) => {
                    self.object(node.at, members, Some(&path), within_or, drafts)?;
                }
                Value::Array(items) => {
                    let terms = Arc::new(Terms::from(terms(node.at, items)?));
                    let path: Arc<str> = path.into();
                    for draft in &mut *drafts {
                        draft.insert(path.clone(), terms.clone());
                        if draft.len() > FIELDS_MAX {
                            let what = format!("more than {FIELDS_MAX} fields that must all fit");
                            return Err(Error::new(node.at, what));
                        }
                    }
                }
                other => {
                    let what = format!(
                        "{name:?} should be an object or an array of values, not {}",
                        other.kind()
                    );
                    return Err(Error::new(node.at, what));
                }
            }
        }
        Ok(())
    }

    /// Makes of every draft one for each member of `$or`.
    fn alternatives(
        &self,
        node: &Node<'_>,
        path: Option<&str>,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), Error> {
        let Value::Array(branches) = &node.value else {
            let what = format!("\"$or\" is an array of objects, not {}", node.value.kind());
            return Err(Error::new(node.at, what));
        };
        let before = std::mem::take(drafts);
        for branch in branches {
            let Value::Object(members) = &branch.value else {
                let what = format!("\"$or\" has objects in it, not {}", branch.value.kind());
                return Err(Error::new(branch.at, what));
            };
            let mut own = before.clone();
            self.object(branch.at, members, path, true, &mut own)?;
            drafts.append(&mut own);
            if drafts.len() > ALTERNATIVES_MAX {
                let what = format!(
                    "\"$or\" within and beside each other come to more than {ALTERNATIVES_MAX} alternatives"
                );
                return Err(Error::new(node.at, what));
            }
        }
        if branches.len() < 2 {
            return Err(Error::new(
                node.at,
                "\"$or\" has at least two objects in it",
            ));
        }
        Ok(())
    }
}

fn alternative(draft: Draft) -> Alternative {
    // What a draft shares with others stays shared.
    let mut fields: Vec<_> = draft
        .into_iter()
        .map(|(path, terms)| Field { path, terms })
        .collect();
    // The reference compares UTF-16 units, where characters beyond 16 bits come earlier.
    fields.sort_by(|a, b| a.path.encode_utf16().cmp(b.path.encode_utf16()));
    Alternative { fields }
}
