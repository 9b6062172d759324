use super::{
    super::condition::{ELEMENT_NAMES, MEASURED_NAMES},
    *,
};
use crate::event::Measurement;
use crate::normalise::{
    Node,
    decode::{self, Format},
};

fn evaluated(source: &str, payload: &[u8]) -> Result<Option<Value>, Reject> {
    let node = decode::decode(Format::Json, payload).unwrap();
    let given = Given {
        element: &node,
        whole: &Whole::new(&node),
        topic: "a/b",
        device: None,
        measured: &[],
    };
    let expression = Expression::parse(source, &ELEMENT_NAMES).unwrap();
    expression.evaluate(&given, &mut Budget::default())
}

fn refused(source: &str) -> String {
    Expression::parse(source, &ELEMENT_NAMES)
        .unwrap_err()
        .to_string()
}

#[test]
fn expressions_are_numbers_texts_true_or_false() {
    let payload = br#"{"w":1500,"x":2.5,"s":"ok","l":[1,2,3],"n":null,"o":{"a":7},"big":18446744073709551615}"#;
    for (source, expect) in [
        ("double(p.w) / 1000.0", Value::Float(1.5)),
        ("p.w + 1", Value::Int(1501)),
        ("p.x * 2.0", Value::Float(5.0)),
        ("p.s == 'ok' && topic == 'a/b'", Value::Bool(true)),
        ("p.s + '!'", Value::Text("ok!".into())),
        ("size(p.l)", Value::Int(3)),
        ("p.l.exists(x, x > 2)", Value::Bool(true)),
        ("p.l.map(x, x * 2)[2]", Value::Int(6)),
        ("p.l.filter(x, x != 2).size()", Value::Int(2)),
        ("has(p.q) ? 1 : 0", Value::Int(0)),
        ("payload.o.a", Value::Int(7)),
        ("p['o']['a']", Value::Int(7)),
        ("math.round(p.x)", Value::Float(3.0)),
        ("math.greatest(p.w, 3)", Value::Int(1500)),
        ("p.big", Value::UInt(u64::MAX)),
        ("p.l[0] in p.l", Value::Bool(true)),
        ("1.0 / 0.0", Value::Null),
    ] {
        assert_eq!(
            evaluated(source, payload).unwrap(),
            Some(expect),
            "{source}"
        );
    }
    for absent in ["p.q", "p.o.b + 1", "p.l[7]", "p.n"] {
        assert_eq!(evaluated(absent, payload).unwrap(), None, "{absent}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_said_without_the_payload() {
    let payload = br#"{"w":1500,"s":"secret","max":9223372036854775807,"l":[1]}"#;
    for (source, expect) in [
        ("p.w / 0", "it divides by zero"),
        ("p.w % 0", "it divides by zero"),
        ("p.max + 1", "a number becomes too large"),
        ("p.max * 2", "a number becomes too large"),
        ("-(-p.max - 1)", "a number becomes too large"),
        ("p.s + 1", "the kinds of values do not go together"),
        ("p.w * 0.5", "the kinds of values do not go together"),
        ("p.s > 1", "the kinds of values do not go together"),
        ("int(p.s)", "\": "),
        ("p.l", "it should be a number, a text, true or false"),
        ("p", "it should be a number, a text, true or false"),
        ("p.s()", "\": "),
    ] {
        let Ok(expression) = Expression::parse(source, &ELEMENT_NAMES) else {
            assert_eq!(source, "p.s()");
            continue;
        };
        let reject = evaluated(source, payload).unwrap_err();
        assert_eq!(reject.class, Class::Expression, "{expression}");
        assert!(reject.reason.contains(expect), "{source}: {reject}");
        assert!(!reject.reason.contains("secret"), "{reject}");
    }
}

#[test]
fn what_is_no_expression_is_refused_with_its_position() {
    for (source, expect) in [
        ("p.a >", "line 1, column "),
        (
            "p.a ==\n  q.b",
            "line 2, column 3: there is no \"q\" here; known are p, payload, topic",
        ),
        (
            "frob(p.a)",
            "line 1, column 5: there is no function \"frob\" here",
        ),
        ("p.matches('a')", "there is no function \"matches\" here"),
        ("v.temperature", "there is no \"v\" here"),
        ("math", "there is no \"math\" here"),
        ("Thing{a: 1}", "there are no types to make values of"),
        (" ", "an expression is empty"),
        ("'open", "line 1, column "),
        ("p.map(p.x, 1)", "line 1, column "),
    ] {
        let said = refused(source);
        assert!(said.contains(expect), "{source}: {said}");
    }
}

/// Whatever the stack of the thread that reads the configuration.
#[test]
fn expressions_that_are_long_deep_or_large_are_refused() {
    let thread = std::thread::Builder::new().stack_size(512 * 1024);
    let tried = thread.spawn(|| {
        for source in [
            format!("{}1{}", "(".repeat(900), ")".repeat(900)),
            format!("1{}", "+1".repeat(900)),
            format!("{}1{}", "[".repeat(900), "]".repeat(900)),
            format!("p{}", ".a".repeat(900)),
            format!("p{}", "[0]".repeat(600)),
            format!("true{}", "?true:true".repeat(200)),
            format!("'{}'", "a".repeat(SOURCE_BYTES_MAX)),
            format!("[{}]", "1,".repeat(900)),
        ] {
            let said = refused(&source);
            assert!(said.len() < 300, "{said}");
        }
    });
    tried.unwrap().join().unwrap();
}

/// Each of these would take more than the memory of a machine, or an hour.
#[test]
fn what_would_cost_too_much_is_not_begun() {
    let numbers = format!(
        "{{\"l\":[{}1],\"s\":\"{}\"}}",
        "1,".repeat(5_000),
        "x".repeat(1_000)
    );
    let doubling = format!("['xxxx']{}[0]", ".map(x, x + x)".repeat(25));
    let doubling_payload = format!("[p.s]{}[0]", ".map(x, x + x)".repeat(25));
    for source in [
        "p.l.map(a, p.l.map(b, p.l.map(c, a + b + c)))[0][0][0]",
        "p.l.all(a, p.l.all(b, p.l.all(c, a == b || b == c || true)))",
        "p.l.exists(a, p.l.exists(b, a != b))",
        "p.l.map(x, string(x) + p.s)[0]",
        "size(p.l.map(x, p.l + p.l))",
        &doubling,
        &doubling_payload,
    ] {
        let reject = evaluated(source, numbers.as_bytes()).unwrap_err();
        assert_eq!(reject.class, Class::Limit, "{source}: {reject}");
    }
}

#[test]
fn lists_that_were_measured_cost_what_they_hold() {
    let list = |items: usize| {
        vec![Measurement {
            name: "vib".into(),
            value: Value::Array(vec![Value::Int(1); items]),
            unit: None,
            quality: crate::event::Quality::Good,
            time: None,
        }]
    };
    let node = decode::decode(Format::Json, b"{}").unwrap();
    let source = "v.vib.filter(x, v.vib.exists(y, y > x)).size()";
    let expression = Expression::parse(source, &MEASURED_NAMES).unwrap();
    let evaluate = |measured: &[Measurement]| {
        let given = Given {
            element: &node,
            whole: &Whole::new(&node),
            topic: "a/b",
            device: None,
            measured,
        };
        expression.evaluate(&given, &mut Budget::default())
    };
    assert_eq!(evaluate(&list(10)).unwrap(), Some(Value::Int(0)));
    let reject = evaluate(&list(10_000)).unwrap_err();
    assert_eq!(reject.class, Class::Limit, "{reject}");
}

#[test]
fn what_devices_send_is_not_too_large() {
    let numbers = format!(
        "{{\"l\":[{}1],\"s\":\"{}\"}}",
        "1,".repeat(5_000),
        "x".repeat(100_000)
    );
    for source in [
        "p.l.map(x, x + 1)[0]",
        "p.l.filter(x, x > 0).size()",
        "p.l.all(x, x == 1)",
        "p.s + '!'",
        "p.s.contains('y') || p.s.startsWith('x')",
    ] {
        assert!(evaluated(source, numbers.as_bytes()).is_ok(), "{source}");
    }
}

#[test]
fn the_expressions_of_one_message_share_what_they_may_cost() {
    let numbers = format!("[{}1]", "1,".repeat(5_000));
    let node = decode::decode(Format::Json, numbers.as_bytes()).unwrap();
    let given = Given {
        element: &node,
        whole: &Whole::new(&node),
        topic: "t",
        device: None,
        measured: &[],
    };
    let expression = Expression::parse("p.all(x, x + 1 > 0)", &ELEMENT_NAMES).unwrap();
    let mut budget = Budget::default();
    let fine = (0..10_000)
        .take_while(|_| expression.holds(&given, &mut budget).is_ok())
        .count();
    assert!((1..10_000).contains(&fine), "{fine}");
}

#[test]
fn what_is_made_of_the_payload_is_paid_for_once_and_what_is_copied_each_time() {
    let payload = format!("{{\"n\":1,\"s\":\"{}\"}}", "x".repeat(100_000));
    let node = decode::decode(Format::Json, payload.as_bytes()).unwrap();
    let times = |source: &str| {
        let whole = Whole::new(&node);
        let given = Given {
            element: &Node::Null,
            whole: &whole,
            topic: "t",
            device: None,
            measured: &[],
        };
        let expression = Expression::parse(source, &ELEMENT_NAMES).unwrap();
        let mut budget = Budget::default();
        (0..10_000)
            .take_while(|_| expression.evaluate(&given, &mut budget).is_ok())
            .count()
    };
    for source in [
        "payload.n == 1",
        "payload['n'] + 1",
        "has(payload.s)",
        "size(payload)",
        "topic == 't' || payload.n > 7",
    ] {
        assert_eq!(times(source), 10_000, "{source}");
    }
    for source in [
        "payload.s == payload.s",
        "size([payload]) == 1",
        "size({'a': payload}) == 1",
        "payload.s",
        "[payload.s].exists(s, s == '')",
    ] {
        assert!((1..1_000).contains(&times(source)), "{source}");
    }
}

#[test]
fn every_function_that_is_taken_is_there() {
    for source in [
        "size('a')",
        "'a'.contains('a')",
        "'a'.startsWith('a')",
        "'a'.endsWith('a')",
        "string(1)",
        "size(bytes('a'))",
        "double(1)",
        "int(1.0)",
        "uint(1)",
        "bool('true')",
        "dyn(1)",
        "math.ceil(1.0)",
        "math.floor(1.0)",
        "math.round(1.0)",
        "math.trunc(1.0)",
        "math.isInf(1.0)",
        "math.isNaN(1.0)",
        "math.isFinite(1.0)",
        "math.abs(1)",
        "math.sign(1)",
        "math.sqrt(4)",
        "math.bitAnd(1, 1)",
        "math.bitOr(1, 1)",
        "math.bitXor(1, 1)",
        "math.bitNot(1)",
        "math.bitShiftLeft(1, 1)",
        "math.bitShiftRight(1, 1)",
        "math.least(1, 2, 3)",
        "math.greatest(1, 2)",
    ] {
        match Expression::parse(source, &ELEMENT_NAMES) {
            Ok(_) => assert!(evaluated(source, b"1").unwrap().is_some(), "{source}"),
            Err(error) => panic!("{source}: {error}"),
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_an_expression_or_a_reason_and_is_evaluated_or_refused(source in "[pv.()\\[\\]a-c0-9+*/<>=!&|?:,' -]{0,40}") {
        if Expression::parse(&source, &ELEMENT_NAMES).is_ok() {
            let _either = evaluated(&source, br#"{"a":1,"b":[1,2],"c":"x"}"#);
        }
    }
}
