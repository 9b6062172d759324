//! Mistakes about units, expressions and schemas, also in builds that have none.

use super::*;

#[test]
#[cfg(feature = "cel")]
fn mistakes_in_units_and_expressions_say_what_would_be_right() {
    assert_snapshot!(mistakes(
        r#"
        [units]
        temperature = "°C"
        pressure = "K"
        speeed = "m/s"
        power = "kW"

        [[mapping]]
        topic = "a/{device}"
        require = ["/t", "p.t >", "x"]
        drop = ["p.t == q.t", ""]
        values = [{ name = "t", unit = "degF", to = "hPa" }, { name = "u", unit = "Cel", to = "hPa" }, { name = "w", to = "K" }, { name = "r", unit = "rpm" }]
        derive = [{ name = "d", expr = "v.t + z" }, { expr = "1" }, { name = "e" }, { name = "d", expr = "frob(v.t)", unit = "{d}" }]
    "#
    ), @r#"
    configuration:3: units.temperature: "°C": "°C" is no UCUM unit that is known here; did you mean "Cel"?
    configuration:4: units.pressure: "K" does not measure pressure; a unit that does is "hPa"
    configuration:5: units.speeed: is not a key; did you mean "speed"?
    configuration:10: mapping[1].require: "p.t >": line 1, column 6: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
    configuration:10: mapping[1].require: "x": line 1, column 1: there is no "x" here; known are p, payload, topic; a pointer begins with "/"
    configuration:11: mapping[1].drop: "p.t == q.t": line 1, column 8: there is no "q" here; known are p, payload, topic
    configuration:12: mapping[1].values[1].unit: "degF": "degF" is no UCUM unit that is known here; did you mean "[degF]"?
    configuration:12: mapping[1].values[2].to: Cel measures temperature, so it cannot become hPa; such a unit is "Cel", "[degF]", "K"
    configuration:12: mapping[1].values[3].to: is of no use without unit, which says what the value is in
    configuration:12: mapping[1].values[4].unit: "rpm": "rpm" is no UCUM unit that is known here; did you mean "{rev}/min"?
    configuration:13: mapping[1].derive[1].expr: "v.t + z": line 1, column 7: there is no "z" here; known are p, payload, topic, device, v
    configuration:13: mapping[1].derive[2].name: is missing; for example name = "power"
    configuration:13: mapping[1].derive[3].expr: is missing; for example expr = "v.voltage * v.current"
    configuration:13: mapping[1].derive[4].expr: "frob(v.t)": line 1, column 5: there is no function "frob" here
    "#);
}

#[test]
fn a_unit_that_is_only_passed_on_may_be_anything_where_the_site_prefers_none() {
    let mapping = "[[mapping]]\ntopic = \"a\"\nvalues = [{ name = \"r\", unit = \"rpm\" }]";
    assert!(read(mapping).is_ok());
    let said = mistakes(&format!("[units]\npower = \"kW\"\n{mapping}"));
    assert!(said.contains("did you mean \"{rev}/min\"?"), "{said}");
}

#[test]
#[cfg(feature = "schema")]
fn mistakes_in_schemas_say_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, "{\"type\":\"numbr\"}").unwrap();
    let text = r#"
        [[schema]]
        type = "a.v1"
        file = "a.json"
        [[schema]]
        type = "b.v1"
        file = "not-there.json"
        [[schema]]
        type = "c.v1"
        schema = '{"$ref":"http://127.0.0.1:1/x.json"}'
        [[schema]]
        type = "d.v1"
        [[schema]]
        type = "d.v1"
        schema = "{}"
        [[schema]]
        type = "d.v1"
        schema = "{}"
        on_mismatch = "drop"
    "#;
    let said = Config::from_text(text, dir.path(), &env)
        .unwrap_err()
        .to_string();
    for part in [
        "configuration:4: schema[1].file: \"a.json\": is no JSON Schema: ",
        "configuration:7: schema[2].file: \"not-there.json\": cannot be read: ",
        "configuration:10: schema[3].schema: ",
        "nothing is fetched: put what $ref names into the file",
        "schema[4].file: is missing; for example file = ",
        "configuration:17: schema[6].type: there is another schema for \"d.v1\"",
        "configuration:19: schema[6].on_mismatch: \"drop\": should be one of quarantine, tag, pass",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
#[cfg(not(feature = "schema"))]
fn schemas_that_are_not_built_in_are_refused_in_words_that_say_so() {
    let said = mistakes(
        r#"
        [[schema]]
        type = "a.v1"
        file = "not-there.json"
        on_mismatch = "drop"
    "#,
    );
    let what = "is not in this program; build it with the feature schema";
    assert_eq!(said, format!("configuration:2: schema[1]: {what}"));
}

#[test]
#[cfg(not(feature = "cel"))]
fn expressions_that_are_not_built_in_are_refused_in_words_that_say_so() {
    let said = mistakes(
        r#"
        [[mapping]]
        topic = "a/{device}"
        require = ["/t", "p.t > 1"]
        drop = ["p.s == 'x'"]
        derive = [{ name = "d", expr = "v.t" }]
    "#,
    );
    let what = "expressions are not in this program; build it with the feature cel";
    for key in [
        "configuration:4: mapping[1].require: \"p.t > 1\": ",
        "configuration:5: mapping[1].drop: \"p.s == 'x'\": ",
        "configuration:6: mapping[1].derive[1].expr: \"v.t\": ",
    ] {
        assert!(said.contains(&format!("{key}{what}")), "{key}\n{said}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
    let pointers = "[[mapping]]\ntopic = \"a/{device}\"\nrequire = [\"/t\"]\ndrop = [\"/x\"]";
    assert!(read(pointers).is_ok(), "pointers need no feature");
}
