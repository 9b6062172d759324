//! The service's half is a socket that says what the test wants said.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

/// Answers one question, and gives back what was asked.
async fn service(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mqtt", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..count]);
            if request.ends_with(b"}") || count == 0 {
                break;
            }
        }
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(reply.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, asked)
}

fn question() -> Question {
    Question {
        client_id: Arc::from("c1"),
        username: Some(Arc::from("line-3")),
        password: Some(Box::from(&b"sesame"[..])),
        address: [10, 0, 0, 1].into(),
        listener: Arc::from("plant"),
        certificate: None,
    }
}

fn client(url: &str) -> AuthService {
    AuthService::new(&Config {
        url: url.into(),
        timeout: Duration::from_secs(5),
        headers: vec![("x-key".to_owned(), "secret-key".into())],
    })
    .unwrap()
}

#[tokio::test]
async fn the_service_hears_all_and_its_answer_is_taken_as_it_is() {
    let answer = r#"{"allow": true, "user": "u", "device": "press", "cache_secs": 60,
        "acl": [{"publish": ["a/{device}"]}], "more": 1}"#;
    let (url, asked) = service("200 OK", answer).await;
    let answer = client(&url).ask(&question()).await.unwrap();
    assert_eq!(answer.remember, Duration::from_secs(60));
    let allowed = answer.allowed.unwrap();
    assert_eq!(allowed.user.as_deref(), Some("u"));
    assert_eq!(allowed.device.as_deref(), Some("press"));
    assert_eq!(allowed.rules.unwrap().0.len(), 1);
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("POST /mqtt HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("x-key: secret-key"), "{asked}");
    let body = asked.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(body).unwrap(),
        serde_json::json!({
            "client_id": "c1", "username": "line-3", "password": "sesame",
            "address": "10.0.0.1", "listener": "plant", "certificate_subject": null,
        })
    );
}

#[tokio::test]
async fn a_no_is_a_no() {
    for (status, body) in [
        ("200 OK", r#"{"allow": false}"#),
        ("401 Unauthorized", ""),
        ("403 Forbidden", "x"),
    ] {
        let (url, _) = service(status, body).await;
        let answer = client(&url).ask(&question()).await.unwrap();
        assert!(answer.allowed.is_none(), "{status}");
    }
}

#[tokio::test]
async fn whatever_else_is_no_answer() {
    for (status, body) in [
        ("200 OK", ""),
        ("200 OK", r#"{"allow": "yes"}"#),
        ("200 OK", r#"{"allow": true, "user": ""}"#),
        (
            "200 OK",
            r##"{"allow": true, "acl": [{"publish": ["#/a"]}]}"##,
        ),
        ("204 No Content", ""),
        ("302 Found", ""),
        ("500 Internal Server Error", r#"{"allow": true}"#),
    ] {
        let (url, _) = service(status, body).await;
        let answer = client(&url).ask(&question()).await;
        assert!(answer.is_err(), "{status} {body}: {answer:?}");
    }
    let nobody = client("http://127.0.0.1:1/").ask(&question()).await;
    assert_eq!(nobody.unwrap_err(), "it cannot be reached");
}

#[test]
fn what_is_secret_about_the_service_is_in_no_debug_output() {
    let service = client("http://me:word-of-mine@127.0.0.1:1/mqtt?key=key-of-mine");
    let said = format!("{service:?}");
    assert!(said.contains("127.0.0.1"), "{said}");
    for secret in ["word-of-mine", "key-of-mine", "secret-key"] {
        assert!(!said.contains(secret), "{said}");
    }
}
