//! A bucket in this process that speaks enough of the protocol.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Response, Uri},
    routing::any,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use md5::{Digest as _, Md5};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

/// How the next put is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Fine,
    /// It gets this status and code.
    Answers(u16, &'static str),
    /// Keeps the object, and breaks off before it says so.
    DropsTheConnection,
    /// Says nothing any more, and tells the test; whether it keeps the object first.
    Stops(bool),
}

#[derive(Debug, Default)]
struct State {
    moods: VecDeque<Mood>,
    objects: BTreeMap<String, Vec<u8>>,
    puts: Vec<String>,
    heads: Vec<String>,
    headers: Vec<HeaderMap>,
    says_of_asking: Option<&'static str>,
}

/// What is kept over any number of lives of the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(Arc<Mutex<State>>);

/// A server for the place: listens as long as its runtime lives.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    /// It has stopped.
    pub(super) stopped: watch::Receiver<bool>,
}

impl Place {
    pub(super) async fn serve(&self, moods: impl IntoIterator<Item = Mood>) -> Server {
        self.lock().moods = moods.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (stops, stopped) = watch::channel(false);
        let place = self.clone();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (place, stops) = (place.clone(), stops.clone());
            async move { place.answer(&method, &uri, headers, &body, &stops).await }
        };
        let router = Router::new().fallback(any(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server {
            url: format!("http://{address}"),
            stopped,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Questions whether an object is there are answered so.
    pub(super) fn says_of_asking(&self, code: Option<&'static str>) {
        self.lock().says_of_asking = code;
    }

    /// Names of objects, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    pub(super) fn puts(&self) -> Vec<String> {
        self.lock().puts.clone()
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.lock().heads.clone()
    }

    pub(super) fn last_headers(&self) -> HeaderMap {
        self.lock().headers.last().unwrap().clone()
    }

    /// The events of an object, in order.
    pub(super) fn events_of(&self, name: &str) -> Vec<Value> {
        let body = self.lock().objects[name].clone();
        let lines = match name.rsplit('.').next().unwrap() {
            "gz" => {
                let mut lines = Vec::new();
                GzDecoder::new(&*body).read_to_end(&mut lines).unwrap();
                lines
            }
            "zst" => {
                let mut lines = Vec::with_capacity(1 << 20);
                zstd_safe::decompress(&mut lines, &body).unwrap();
                lines
            }
            _ => body,
        };
        let lines = String::from_utf8(lines).unwrap();
        let events = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        events.collect()
    }

    /// The positions of all events, object after object.
    pub(super) fn positions(&self) -> Vec<u64> {
        let names = self.names();
        let events = names.iter().flat_map(|name| self.events_of(name));
        let position = |event: Value| event["position"].as_str().unwrap().parse().unwrap();
        events.map(position).collect()
    }

    async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: HeaderMap,
        body: &[u8],
        stops: &watch::Sender<bool>,
    ) -> Response<Body> {
        assert!(headers.contains_key("authorization"), "it is signed");
        let name = uri.path().strip_prefix("/lake/").unwrap().to_owned();
        if method == Method::HEAD {
            let mut state = self.lock();
            state.heads.push(name.clone());
            let status = match state.objects.contains_key(&name) {
                _ if state.says_of_asking.is_some() => 403,
                true => 200,
                false => 404,
            };
            return reply(status, "");
        }
        if method == Method::GET {
            let state = self.lock();
            return match (state.says_of_asking, state.objects.contains_key(&name)) {
                (Some(code), _) => reply(403, code),
                (None, true) => reply(206, ""),
                (None, false) => reply(404, "NoSuchKey"),
            };
        }
        assert_eq!(method, Method::PUT);
        let digest = BASE64_STANDARD.encode(Md5::digest(body));
        assert_eq!(headers["content-md5"], *digest);
        assert_eq!(headers["x-amz-content-sha256"].len(), 64);
        let mood = {
            let mut state = self.lock();
            let mood = state.moods.pop_front().unwrap_or(Mood::Fine);
            state.puts.push(name.clone());
            state.headers.push(headers);
            if !matches!(mood, Mood::Answers(..) | Mood::Stops(false)) {
                state.objects.insert(name, body.to_vec());
            }
            mood
        };
        match mood {
            Mood::Fine => reply(200, ""),
            Mood::Answers(status, code) => reply(status, code),
            Mood::DropsTheConnection => {
                let broken = futures_util::stream::iter([
                    Ok(Bytes::from_static(b"<")),
                    Err(std::io::Error::other("dropped")),
                ]);
                let mut reply = Response::new(Body::from_stream(broken));
                *reply.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                reply
            }
            Mood::Stops(_) => {
                stops.send_replace(true);
                std::future::pending().await
            }
        }
    }
}

fn reply(status: u16, code: &str) -> Response<Body> {
    let body = match code {
        "" => String::new(),
        code => format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>"),
    };
    Response::builder()
        .status(status)
        .body(Body::from(body))
        .unwrap()
}
