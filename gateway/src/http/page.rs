//! The status page: three files in the binary, nothing fetched from elsewhere.

use axum::http::{HeaderName, header};

type Asset = ([(HeaderName, &'static str); 4], &'static str);

const fn asset(media_type: &'static str, text: &'static str) -> Asset {
    (
        [
            (header::CONTENT_TYPE, media_type),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'self'; img-src data:; frame-ancestors 'none'",
            ),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        text,
    )
}

/// The status page.
#[utoipa::path(
    get,
    path = "/",
    tag = "page",
    responses(
        (status = 200, description = "HTML", body = String, content_type = "text/html"),
    )
)]
pub(super) async fn html() -> Asset {
    asset("text/html; charset=utf-8", include_str!("page.html"))
}

/// Its script.
#[utoipa::path(
    get,
    path = "/page.js",
    tag = "page",
    responses(
        (status = 200, description = "JavaScript", body = String, content_type = "text/javascript"),
    )
)]
pub(super) async fn script() -> Asset {
    asset("text/javascript; charset=utf-8", include_str!("page.js"))
}

/// Its looks.
#[utoipa::path(
    get,
    path = "/page.css",
    tag = "page",
    responses(
        (status = 200, description = "CSS", body = String, content_type = "text/css"),
    )
)]
pub(super) async fn style() -> Asset {
    asset("text/css; charset=utf-8", include_str!("page.css"))
}
