//! Whom the operations of the API are for: what the [guard](super::guard) looks at. An
//! operation that is not here is not there.

use std::collections::{BTreeMap, HashMap};

use utoipa::openapi::HttpMethod;

use super::access::Role;

/// Whom an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Everybody,
    Role(Role),
}

/// Whom the operations are for, by the path as the router has it and the method.
#[derive(Debug, Default)]
pub(super) struct Operations(HashMap<String, BTreeMap<&'static str, For>>);

impl Operations {
    /// Adds one.
    pub(super) fn add(&mut self, path: &str, methods: &[HttpMethod], whom_for: For) {
        let known = self.0.entry(path.to_owned()).or_default();
        known.extend(methods.iter().map(|method| (name(method), whom_for)));
    }

    /// Whom one is for; `None` where there is none. HEAD is GET.
    pub(super) fn find(&self, path: &str, method: &str) -> Option<For> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.0.get(path)?.get(method).copied()
    }

    /// Whether everybody may ask for something there.
    pub(super) fn is_open(&self, path: &str) -> bool {
        let found = self.0.get(path);
        found.is_some_and(|methods| methods.values().any(|one| *one == For::Everybody))
    }

    /// The methods that a path has, for the header `Allow`.
    pub(super) fn methods(&self, path: &str) -> String {
        let methods = self.0.get(path).into_iter().flat_map(BTreeMap::keys);
        let mut methods: Vec<&str> = methods.copied().collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.join(", ")
    }
}

const fn name(method: &HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "GET",
        HttpMethod::Put => "PUT",
        HttpMethod::Post => "POST",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Options => "OPTIONS",
        HttpMethod::Head => "HEAD",
        HttpMethod::Patch => "PATCH",
        HttpMethod::Trace => "TRACE",
    }
}
