//! Who may ask for what: every operation of the document, by each role and by nobody.

use penstock::http::{Role, Token};
use serde_json::Value;

use crate::gateway::Gateway;

fn token(role: &str) -> String {
    format!("a token for a {role}")
}

async fn with_roles() -> Gateway {
    Gateway::start_with(|config| {
        let tokens = Role::WORDS.map(|(word, role)| Token {
            name: format!("the {word}"),
            role,
            secret: token(word).into(),
        });
        config.http.tokens = tokens.into();
    })
    .await
}

/// Every operation: its method, a path with something in the place of parameters, and the
/// least role that it says may ask; `None` where everybody may.
async fn operations(gateway: &Gateway) -> Vec<(String, String, Option<usize>)> {
    let document = gateway
        .with_token("GET", "/api/v1/openapi.json", &token("viewer"))
        .await
        .json();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let security = &operation["security"][0];
            let role = security["token"][0].as_str().map(|word| {
                let place = Role::WORDS.iter().position(|(known, _)| *known == word);
                place.expect("a role that is known")
            });
            assert!(
                role.is_some() || security.as_object().is_some_and(|one| one.is_empty()),
                "{method} {path}"
            );
            let required = operation["parameters"].as_array().into_iter().flatten();
            let question: Vec<String> = required
                .filter(|one| one["in"] == "query" && one["required"] == true)
                .map(|one| format!("{}=x", one["name"].as_str().expect("a name")))
                .collect();
            let mut path: String = path.replace(['{', '}'], "");
            if !question.is_empty() {
                path = format!("{path}?{}", question.join("&"));
            }
            // What has no end is asked for its head.
            let method = match path.ends_with("/stream") {
                true => "HEAD".to_owned(),
                false => method.to_uppercase(),
            };
            all.push((method, path, role));
        }
    }
    assert!(all.len() > 25, "{all:?}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_for_the_roles_that_the_document_says() {
    let gateway = with_roles().await;
    for (method, path, role) in operations(&gateway).await {
        let nobody = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        );
        let status = gateway.ask(&nobody).await.status;
        assert_eq!(status == 401, role.is_some(), "{method} {path}: {status}");
        let wrong = gateway
            .with_token(&method, &path, "a token of nobody's")
            .await;
        assert_eq!(wrong.status == 401, role.is_some(), "{method} {path}");
        for (n, (word, _)) in Role::WORDS.into_iter().enumerate() {
            let answer = gateway.with_token(&method, &path, &token(word)).await;
            let may = role.is_none_or(|least| n >= least);
            assert_eq!(
                answer.status == 403,
                !may,
                "{method} {path} as {word}: {}",
                answer.status
            );
            assert_ne!(answer.status, 401, "{method} {path} as {word}");
            // The read side is off, and nothing is there: what comes is an answer or a problem.
            assert!(
                answer.status < 500 || [503].contains(&answer.status),
                "{method} {path} as {word}: {} {}",
                answer.status,
                answer.body
            );
            if answer.status >= 400 && path != "/readyz" && method != "HEAD" {
                assert!(
                    answer
                        .head
                        .contains("content-type: application/problem+json"),
                    "{method} {path}: {}",
                    answer.head
                );
                assert_eq!(answer.json()["status"], answer.status, "{method} {path}");
            }
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_only_to_those_who_are_known() {
    let gateway = with_roles().await;
    let viewer = token("viewer");
    for (method, path, known, unknown) in [
        ("GET", "/api/v1/nothing", 404, 401),
        ("PATCH", "/api/v1/status", 405, 401),
        ("OPTIONS", "/api/v1/dead-letters/1", 405, 401),
        ("GET", "/api/v1/dead-letters/one", 400, 401),
        ("GET", "/api/v1/dead-letters?limit=-1", 400, 401),
        ("GET", "/api/v1/instance", 400, 400),
        ("POST", "/healthz", 405, 405),
    ] {
        let answer = gateway.with_token(method, path, &viewer).await;
        assert_eq!(answer.status, known, "{method} {path}: {}", answer.body);
        let problem: Value = answer.json();
        assert_eq!(problem["status"], known, "{method} {path}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        if known == 405 {
            assert!(answer.head.contains("allow: "), "{}", answer.head);
        }
        let answer = gateway.with_token(method, path, "nobody's").await;
        assert_eq!(answer.status, unknown, "{method} {path}: {}", answer.body);
    }
    let head = gateway.with_token("HEAD", "/api/v1/status", &viewer).await;
    assert_eq!((head.status, &*head.body), (200, ""));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_session_takes_more_than_ending_its_connection() {
    let gateway = with_roles().await;
    let path = "/api/v1/broker/clients/nobody?session=true";
    let operator = gateway.with_token("DELETE", path, &token("operator")).await;
    assert_eq!(operator.status, 403);
    let admin = gateway.with_token("DELETE", path, &token("admin")).await;
    assert_eq!(admin.status, 404);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_knows_a_password_is_not_made_to_change_anything_by_a_page() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let gateway = with_roles().await;
    let basic = STANDARD.encode(format!("me:{}", token("admin")));
    let ask = |kind: &str| {
        format!(
            "POST /api/v1/quarantine/1/retry HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {basic}\r\nContent-Type: {kind}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    assert_eq!(gateway.ask(&ask("text/plain")).await.status, 415);
    assert_eq!(gateway.ask(&ask("application/json")).await.status, 404);
    gateway.stop().await;
}
