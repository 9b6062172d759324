//! The handshake of a WebSocket: which requests get one.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        Error,
        handshake::server::{Callback, ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header},
        protocol::WebSocketConfig,
    },
};

use super::config::WebSocket;

/// What MQTT is called there (MQTT 5, section 6).
const SUBPROTOCOL: &str = "mqtt";

/// Answers the request and gives the stream back; what follows on it are frames.
pub(crate) async fn accept<S>(config: &WebSocket, stream: S) -> Result<S, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The frames are ours to read, so the buffers would never be used.
    let buffers = WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_write_buffer_size(1024);
    let socket = accept_hdr_async_with_config(stream, Gate(config), Some(buffers)).await?;
    Ok(socket.into_inner())
}

struct Gate<'c>(&'c WebSocket);

impl Callback for Gate<'_> {
    fn on_request(
        self,
        request: &Request,
        mut response: Response,
    ) -> Result<Response, ErrorResponse> {
        if request.uri().path() != self.0.path {
            return Err(refuse(StatusCode::NOT_FOUND, "MQTT is at another path"));
        }
        let value = |name| {
            let values = request.headers().get_all(name).into_iter();
            values.filter_map(|value: &HeaderValue| value.to_str().ok())
        };
        if let Some(origins) = &self.0.origins
            && let Some(origin) = value(header::ORIGIN).next()
            && !origins.iter().any(|one| one.eq_ignore_ascii_case(origin))
        {
            return Err(refuse(StatusCode::FORBIDDEN, "this origin may not connect"));
        }
        let offers = value(header::SEC_WEBSOCKET_PROTOCOL)
            .flat_map(|list| list.split(','))
            .any(|one| one.trim() == SUBPROTOCOL);
        if !offers {
            let what = "the subprotocol is mqtt";
            return Err(refuse(StatusCode::BAD_REQUEST, what));
        }
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
        Ok(response)
    }
}

fn refuse(status: StatusCode, what: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(what.to_owned()));
    *response.status_mut() = status;
    response
}
