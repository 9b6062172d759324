//! Addresses, and a template before the first document.

use std::sync::Mutex;

use axum::{
    Router,
    extract::State,
    http::StatusCode as Answer,
    routing::{get, post},
};

use super::*;
use crate::{
    clock::SystemClock,
    forward::{destination::Outcome, testing::batch},
};

#[test]
fn addresses_are_below_the_clusters() {
    for base in ["https://h:9200/search", "https://h:9200/search/"] {
        let config = Config::new(base);
        let bulk = config.bulk().unwrap();
        assert_eq!(
            bulk.url,
            "https://h:9200/search/_bulk?filter_path=errors%2Citems.*.status%2Citems.*.error"
        );
        let template = config.below(&["_index_template", "a"]).unwrap();
        assert_eq!(template.as_str(), "https://h:9200/search/_index_template/a");
    }
    assert!(Config::new("https://h/?a=b").check().is_err());
    assert!(Config::new("ftp://h").check().is_err());
}

#[test]
fn a_data_stream_has_one_name() {
    let stream = |index| Config {
        data_stream: true,
        index: Index::parse(index).unwrap(),
        ..Config::new("http://h")
    };
    assert!(stream("telemetry-{yyyy}").check().is_err());
    let stream = stream("telemetry-plant");
    stream.check().unwrap();
    let template: serde_json::Value = serde_json::from_str(&stream.template()).unwrap();
    assert_eq!(template["index_patterns"], json!(["telemetry-plant"]));
    assert_eq!(template["data_stream"], json!({}));
    assert_eq!(stream.template_name(), "penstock-telemetry-plant-stream");
}

/// What a cluster does when it is asked for its template.
#[derive(Debug, Default)]
struct Cluster {
    asked: Mutex<Vec<String>>,
    /// Of each question in turn; then as if the template were there.
    answers: Mutex<Vec<Answer>>,
}

impl Cluster {
    fn answer(&self, what: &str) -> Answer {
        self.asked.lock().unwrap().push(what.to_owned());
        let mut answers = self.answers.lock().unwrap();
        match answers.is_empty() {
            true => Answer::OK,
            false => answers.remove(0),
        }
    }

    async fn start(answers: &[Answer]) -> (Arc<Self>, OpenSearch) {
        let cluster = Arc::new(Self {
            answers: Mutex::new(answers.to_vec()),
            ..Self::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let found = async |State(cluster): State<Arc<Self>>| cluster.answer("GET");
        let made = async |State(cluster): State<Arc<Self>>, body: String| {
            assert!(body.contains("\"telemetry-*\""), "{body}");
            cluster.answer("PUT")
        };
        let taken = async |State(cluster): State<Arc<Self>>| {
            cluster.asked.lock().unwrap().push("POST".to_owned());
            r#"{"errors":false,"items":[{"create":{"status":201}}]}"#
        };
        let app = Router::new()
            .route(
                "/_index_template/penstock-telemetry-yyyy.mm.dd",
                get(found).put(made),
            )
            .route("/_bulk", post(taken))
            .with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let config = Config::new(format!("http://{address}"));
        let opensearch = OpenSearch::new(config, Arc::new(SystemClock)).unwrap();
        (cluster, opensearch)
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().join(" ")
    }
}

#[tokio::test]
async fn a_template_is_made_once_and_before_the_first_document() {
    let (cluster, opensearch) = Cluster::start(&[Answer::NOT_FOUND, Answer::OK]).await;
    for _ in 0..2 {
        let outcomes = opensearch.send(batch([1])).await;
        assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged]));
    }
    assert_eq!(cluster.asked(), "GET PUT POST POST");
}

#[tokio::test]
async fn a_template_that_is_there_is_somebodys_and_stays() {
    let (cluster, opensearch) = Cluster::start(&[]).await;
    let outcomes = opensearch.send(batch([1])).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged]));
    assert_eq!(cluster.asked(), "GET POST");
}

#[tokio::test]
async fn no_document_goes_before_its_template() {
    let answers = [
        Answer::SERVICE_UNAVAILABLE,
        Answer::FORBIDDEN,
        Answer::NOT_FOUND,
        Answer::BAD_REQUEST,
    ];
    let (cluster, opensearch) = Cluster::start(&answers).await;
    let outcomes = opensearch.send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    for _ in 0..2 {
        let outcomes = opensearch.send(batch([1])).await;
        assert!(
            matches!(outcomes, Err(Error::Misconfigured(_))),
            "{outcomes:?}"
        );
    }
    assert_eq!(cluster.asked(), "GET GET GET PUT");
    let outcomes = opensearch.send(batch([1])).await;
    assert_eq!(outcomes, Ok(vec![Outcome::Acknowledged]));
}
