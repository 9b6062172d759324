//! Tags of answers, so that who asks again need not be sent the same again.
//!
//! The tag is a hash of the answer: whatever makes it, what differs has another one. It
//! saves the way, not the work. Every whole answer has one; streams have none.

use axum::{
    body::{Body, HttpBody as _, to_bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

/// Longer answers are sent as they are.
const BYTES_MAX: usize = 8 << 20;

/// The answer to a GET with its tag; 304 where who asks has it already, by the headers of
/// the request.
pub(super) async fn tagged(asked: Option<HeaderValue>, response: Response) -> Response {
    let size = response.body().size_hint().exact();
    let is_whole = size.is_some_and(|size| size <= BYTES_MAX as u64);
    // A tag that is there already is a version, to be changed over; more than what has the
    // version may be in the answer.
    let has_version = response.headers().contains_key(header::ETAG);
    if response.status() != StatusCode::OK || !is_whole || has_version {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, BYTES_MAX).await else {
        // A whole body is in memory.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
    tag_head(&mut head.headers, &tag);
    if asked.is_some_and(|asked| names(&asked, &tag)) {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(header::CONTENT_TYPE);
        head.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(bytes))
}

fn tag_head(headers: &mut HeaderMap, tag: &str) {
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    // To be kept by who asked, and asked for again each time.
    let cached = headers.entry(header::CACHE_CONTROL);
    cached.or_insert(HeaderValue::from_static("private, no-cache"));
}

/// Whether an `If-None-Match` has a tag.
fn names(asked: &HeaderValue, tag: &str) -> bool {
    let tags = asked.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|one| one.strip_prefix("W/").unwrap_or(one))
        .any(|one| one == "*" || one == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_among_others() {
        let check = |asked: &'static str, expect| {
            let asked = HeaderValue::from_static(asked);
            assert_eq!(names(&asked, "\"a\""), expect, "{asked:?}");
        };
        check("\"a\"", true);
        check("W/\"a\"", true);
        check("\"b\", \"a\"", true);
        check("*", true);
        check("\"b\"", false);
        check("a", false);
        check("", false);
    }
}
