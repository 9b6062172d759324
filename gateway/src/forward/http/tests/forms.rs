//! Forms of requests, and requests of one event each.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;

/// What a request was, as bytes.
#[derive(Debug, Clone)]
struct Got {
    headers: Headers,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// Answers each request with what `answer` says of it, and how many came before.
type Says = fn(&Got, usize) -> u16;

struct Endpoint {
    requests: Mutex<Vec<Got>>,
    /// Requests that were being answered at one time, at most, by device.
    open: Mutex<BTreeMap<String, usize>>,
    most_open: Mutex<usize>,
    says: Says,
}

impl Endpoint {
    async fn start(says: Says) -> (Arc<Self>, String) {
        let endpoint = Arc::new(Self {
            requests: Mutex::default(),
            open: Mutex::default(),
            most_open: Mutex::default(),
            says,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/events", post(take))
            .with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (endpoint, url)
    }

    fn requests(&self) -> Vec<Got> {
        self.requests.lock().unwrap().clone()
    }
}

async fn take(
    State(endpoint): State<Arc<Endpoint>>,
    headers: Headers,
    body: Payload,
) -> Response<Body> {
    let got = Got {
        headers,
        body: body.to_vec(),
    };
    let before = {
        let mut requests = endpoint.requests.lock().unwrap();
        requests.push(got.clone());
        requests.len() - 1
    };
    let device = got.headers.get("ce-device");
    let device = device.map(|device| device.to_str().unwrap().to_owned());
    if let Some(device) = &device {
        let mut open = endpoint.open.lock().unwrap();
        let of_device = open.entry(device.clone()).or_default();
        *of_device += 1;
        assert_eq!(*of_device, 1, "two requests of {device} at a time");
        let all = open.values().sum();
        let mut most = endpoint.most_open.lock().unwrap();
        *most = (*most).max(all);
    }
    // Others get the time to come.
    tokio::time::sleep(Duration::from_millis(2)).await;
    if let Some(device) = &device {
        *endpoint.open.lock().unwrap().get_mut(device).unwrap() -= 1;
    }
    Response::builder()
        .status((endpoint.says)(&got, before))
        .body("said".into())
        .unwrap()
}

fn in_form(url: &str, form: Form) -> Http {
    http_with(Config {
        form,
        gzip: false,
        ..Config::new(url)
    })
}

fn sequences(requests: &[Got], device: u64) -> Vec<u64> {
    let of = format!("device-{device}");
    requests
        .iter()
        .filter(|got| got.header("ce-device") == of)
        .map(|got| got.header("ce-sequence").parse().unwrap())
        .collect()
}

#[tokio::test]
async fn a_structured_event_is_a_request_of_its_own() {
    let (endpoint, url) = Endpoint::start(|_, _| 204).await;
    let http = in_form(&url, Form::Structured);
    assert_eq!(http.send(batch(1..=3)).await, acknowledged(3));
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 3);
    let first = &requests[0];
    assert_eq!(first.header("content-type"), "application/cloudevents+json");
    assert_eq!(first.json()["device"], "device-1");
    assert_eq!(
        first.json()["data"]["m"][0]["n"],
        first.json()["data"]["m"][0]["n"]
    );
    let keys: HashSet<_> = requests
        .iter()
        .map(|got| got.header("idempotency-key"))
        .collect();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn a_binary_event_has_its_attributes_in_headers_and_its_data_in_the_body() {
    let (endpoint, url) = Endpoint::start(|_, _| 204).await;
    let http = in_form(&url, Form::Binary);
    assert_eq!(http.send(batch([7])).await, acknowledged(1));
    let got = endpoint.requests()[0].clone();
    let structured = {
        let (other, url) = Endpoint::start(|_, _| 204).await;
        in_form(&url, Form::Structured)
            .send(batch([7]))
            .await
            .unwrap();
        other.requests()[0].json()
    };
    for (name, value) in structured.as_object().unwrap() {
        match name.as_str() {
            "data" => assert_eq!(got.json(), *value),
            "datacontenttype" => assert_eq!(got.header("content-type"), value),
            name => assert_eq!(got.header(&format!("ce-{name}")), value, "{name}"),
        }
    }
    let of_event = got
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("ce-"));
    assert_eq!(of_event.count(), structured.as_object().unwrap().len() - 2);
}

#[tokio::test]
async fn lines_are_one_event_each_and_one_request_together() {
    let (endpoint, url) = Endpoint::start(|_, _| 200).await;
    let http = in_form(&url, Form::Lines);
    assert_eq!(http.send(batch(1..=3)).await, acknowledged(3));
    let got = endpoint.requests()[0].clone();
    assert_eq!(got.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(got.body).unwrap();
    assert!(text.ends_with('\n'));
    let sequences: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["sequence"].clone())
        .collect();
    assert_eq!(sequences, [1, 2, 3].map(|n| json!(format!("{n:020}"))));
}

#[tokio::test]
async fn a_template_makes_bodies_for_receivers_of_their_own_kind() {
    let (endpoint, url) = Endpoint::start(|_, _| 200).await;
    let around = Between {
        begin: r#"{"rows":["#.to_owned(),
        between: Some(",".to_owned()),
        end: "]}".to_owned(),
    };
    let event = r#"{"d":{{device}},"n":"{{sequence:text}}"}"#;
    let template = Template::parse(event, around, "application/json").unwrap();
    let http = in_form(&url, Form::Template(Box::new(template)));
    assert_eq!(http.send(batch(1..=2)).await, acknowledged(2));
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 1);
    let row = |n: u64| json!({"d": "device-1", "n": format!("{n:020}")});
    assert_eq!(requests[0].json(), json!({"rows": [row(1), row(2)]}));
}

#[tokio::test]
async fn single_events_go_several_at_a_time_and_each_device_keeps_its_order() {
    let (endpoint, url) = Endpoint::start(|_, _| 204).await;
    let http = in_form(&url, Form::Binary);
    assert_eq!(http.send(mixed(1..=100, 5)).await, acknowledged(100));
    let requests = endpoint.requests();
    for device in 0..5 {
        let expect: Vec<_> = (1..=100).filter(|n| n % 5 == device).collect();
        assert_eq!(sequences(&requests, device), expect);
    }
    assert!(
        *endpoint.most_open.lock().unwrap() > 1,
        "one after the other"
    );
    // Of one device alone never two.
    assert_eq!(http.send(batch(101..=110)).await, acknowledged(10));
}

#[tokio::test]
async fn an_endpoint_that_goes_away_between_single_events_leaves_the_rest_unknown_and_in_order() {
    let (endpoint, url) = Endpoint::start(|got, before| {
        let away = got.header("ce-device") == "device-1" && before < 40;
        if away { 500 } else { 204 }
    })
    .await;
    let http = in_form(&url, Form::Binary);
    let outcomes = http.send(mixed(1..=30, 3)).await.unwrap();
    for (outcome, n) in outcomes.iter().zip(1u64..) {
        if n % 3 == 1 {
            assert!(matches!(outcome, Outcome::Unknown(_)), "{n}: {outcome:?}");
        }
    }
    // What was not acknowledged goes again, and nothing of a device before it.
    let taken = |device| {
        let known = outcomes.iter().zip(1u64..);
        let of_device = known.filter(move |(_, n)| n % 3 == device);
        of_device.map(|(outcome, _)| *outcome == Outcome::Acknowledged)
    };
    for device in 0..3 {
        assert!(
            taken(device).is_sorted_by(|a, b| a >= b),
            "a gap in {device}"
        );
    }
    assert!(endpoint.requests().len() < 30, "it went on");
}

#[tokio::test]
async fn single_events_that_are_refused_are_dead_letters_and_others_go_on() {
    let (_, url) = Endpoint::start(|got, _| {
        let bad = got.header("ce-sequence").ends_with("07");
        if bad { 422 } else { 204 }
    })
    .await;
    let outcomes = in_form(&url, Form::Binary)
        .send(mixed(1..=20, 4))
        .await
        .unwrap();
    for (outcome, n) in outcomes.iter().zip(1u64..) {
        let expect = match n {
            7 => Outcome::Permanent("422 Unprocessable Entity: said".to_owned()),
            _ => Outcome::Acknowledged,
        };
        assert_eq!(*outcome, expect, "{n}");
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_every_single_event_is_at_fault() {
    let (_, url) = Endpoint::start(|_, _| 422).await;
    let http = in_form(&url, Form::Binary);
    refusing(&http.send(mixed(1..=100, 10)).await);
    refusing(&http.send(mixed(1..=100, 10)).await);
}

#[tokio::test]
async fn headers_that_are_too_large_are_the_fault_of_their_event() {
    let (_, url) = Endpoint::start(|_, before| if before == 0 { 431 } else { 204 }).await;
    let outcomes = in_form(&url, Form::Binary)
        .send(batch(1..=2))
        .await
        .unwrap();
    assert!(matches!(outcomes[0], Outcome::Permanent(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Acknowledged);
}

#[tokio::test]
async fn statuses_mean_what_is_configured() {
    let outcomes = async |status: Says, rules: &[(&str, Meaning)]| {
        let (_, url) = Endpoint::start(status).await;
        let mut config = Config::new(url);
        for (status, meaning) in rules {
            config.answers.add(status, *meaning).unwrap();
        }
        http_with(config).send(batch(1..=2)).await
    };
    let taken = outcomes(|_, _| 409, &[("409", Meaning::Acknowledged)]).await;
    assert_eq!(taken, acknowledged(2));
    let refused = outcomes(|_, _| 404, &[("4xx", Meaning::Refused)]).await;
    assert_eq!(super::refused(&refused), 2);
    let throttled = outcomes(|_, _| 420, &[("420", Meaning::Throttled)])
        .await
        .unwrap();
    assert_eq!(throttled, vec![Outcome::Throttled { retry_after: None }; 2]);
    let away = outcomes(|_, _| 403, &[("403", Meaning::Unavailable)]).await;
    assert!(matches!(away, Err(Error::Unavailable { .. })), "{away:?}");
    let stopped = outcomes(|_, _| 202, &[("202", Meaning::Stop)]).await;
    assert!(
        matches!(stopped, Err(Error::Misconfigured(_))),
        "{stopped:?}"
    );
}

#[tokio::test]
async fn single_events_arrive_at_least_once_and_in_order_whatever_is_answered() {
    let (endpoint, url) = Endpoint::start(|_, before| match before % 7 {
        3 => 500,
        5 => 429,
        _ => 204,
    })
    .await;
    let model = Model::new();
    for position in 1..=300 {
        model.append(record(position, u8::try_from(position % 5).unwrap()));
    }
    let (engine, _) = engine(&model, Arc::new(in_form(&url, Form::Binary)), 20);
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    let everything = async {
        while model.backlog() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), everything)
        .await
        .unwrap();
    stop.cancel();
    task.await.unwrap().unwrap();
    let requests = endpoint.requests();
    for device in 0..5 {
        // First arrivals: later copies are known by their key.
        let mut seen = HashSet::new();
        let mut first = sequences(&requests, device);
        first.retain(|n| seen.insert(*n));
        let expect: Vec<_> = (1..=300).filter(|n| n % 5 == device).collect();
        assert_eq!(first, expect, "device {device}");
    }
}
