//! Why an event fits a pattern or does not, clause by clause.

use serde::Serialize;

use super::{
    Pattern, TooMuch,
    fields::Fields,
    flatten, json,
    matcher::{Asked, Join, NotMatched, arranged, first_unfit, fits},
    paths::{PathId, Paths},
    pattern::Alternative,
    term::{Scalar, Term},
    terms::Terms,
    written::List,
};

/// Values shown of one clause, at most.
const VALUES_MAX: usize = 20;

/// What comes of a pattern and an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The event fits.
    pub fits: bool,
    /// It was not found out, because there would be too much to compare: the gateway
    /// quarantines a message of which that is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub too_much: bool,
    /// The ways in which it may; several where the pattern has `$or`, none where there is
    /// too much to compare.
    pub alternatives: Vec<Way>,
}

/// Clauses that must all fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// They do, together.
    pub fits: bool,
    /// In the order of their paths; none where it takes too long to say which of them
    /// does not fit.
    pub clauses: Vec<Clause>,
}

/// A field and what may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// The names that lead to it, with dots between them.
    pub path: String,
    /// Its terms, as JSON.
    pub clause: String,
    /// What is there, at most 20 of it; those that fit first.
    pub values: Vec<Seen>,
    /// How many values are there.
    pub count: usize,
    /// Whether that fits, and if not, why.
    pub verdict: Verdict,
}

/// A value of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// As JSON.
    pub value: String,
    /// The numbers of the array elements that it stands in, from 0, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<u32>,
    /// One of the terms takes it.
    pub fits: bool,
}

/// What is to be said of one clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It fits.
    Fits,
    /// The field is not there, and should be.
    Missing,
    /// The field is there, and should not be.
    Present,
    /// No term takes any value that is there.
    NoValueFits,
    /// It fits by itself, but not in the array elements that the clauses before it
    /// have settled on.
    OtherElement,
}

impl Verdict {
    /// The same for a person.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Missing => "the field is not there",
            Self::Present => "the field is there, and should not be",
            Self::NoValueFits => "no value fits",
            Self::OtherElement => {
                "fits by itself, but not in the array element in which the clauses before it fit"
            }
        }
    }
}

/// Explains a pattern on the text of an event as patterns see it; see [`super::seen`].
///
/// # Errors
/// When the text is not an event.
pub fn explain(pattern: &Pattern, event: &str) -> Result<Explained, NotMatched> {
    let mut paths = Paths::default();
    let alternatives: Vec<_> = pattern
        .alternatives
        .iter()
        .map(|alternative| {
            let asked = alternative.fields.iter();
            let asked = asked.map(|field| (paths.add(&field.path), field.terms.clone()));
            (alternative, asked.collect::<Vec<Asked>>())
        })
        .collect();
    let mut fields = Fields::default().renewed(&paths);
    flatten::flatten(event, &paths, &mut fields).map_err(|json::Error { at, what }| {
        NotMatched::Malformed {
            at,
            what: what.into(),
        }
    })?;
    let mut join = Join::default();
    let ways = alternatives
        .iter()
        .map(|(alternative, asked)| way(alternative, asked, &fields, &mut join))
        .collect::<Result<Vec<_>, TooMuch>>();
    Ok(Explained {
        too_much: ways.is_err(),
        fits: ways.iter().flatten().any(|way| way.fits),
        alternatives: ways.unwrap_or_default(),
    })
}

fn way(
    alternative: &Alternative,
    asked: &[Asked],
    fields: &Fields<'_>,
    join: &mut Join,
) -> Result<Way, TooMuch> {
    // As the gateway asks, whose order decides what is too much.
    let fits = fits(&arranged(asked.to_vec()), fields, join)?;
    let mut clauses = Vec::with_capacity(asked.len());
    join.begin_alternative();
    let Ok(unfit) = first_unfit(asked, fields, join) else {
        return Ok(Way { fits, clauses });
    };
    for (n, field) in alternative.fields.iter().enumerate() {
        join.begin_alternative();
        let (path, terms) = &asked[n];
        let alone = first_unfit(&asked[n..=n], fields, join)?.is_none();
        let (values, count) = values(*path, terms, fields);
        // A field that should be absent is absent from the element that the clauses
        // before it settled on, though perhaps not from all.
        let passed = unfit.is_none_or(|unfit| n < unfit);
        let verdict = match (alone, unfit == Some(n)) {
            _ if passed => Verdict::Fits,
            (true, false) => Verdict::Fits,
            (true, true) => Verdict::OtherElement,
            (false, _) if count == 0 => Verdict::Missing,
            (false, _) if terms.iter().all(|term| *term == Term::Absent) => Verdict::Present,
            (false, _) => Verdict::NoValueFits,
        };
        clauses.push(Clause {
            path: field.path.to_string(),
            clause: List(terms).to_string(),
            values,
            count,
            verdict,
        });
    }
    Ok(Way { fits, clauses })
}

/// What is at a path, those that fit first, and how many there are.
fn values(path: PathId, terms: &Terms, fields: &Fields<'_>) -> (Vec<Seen>, usize) {
    let seen = |(value, elements): (&Scalar<'_>, &[(u32, u32)])| Seen {
        value: value.to_string(),
        elements: elements.iter().map(|(_, index)| *index).collect(),
        fits: terms.takes(value),
    };
    let fits = |wanted: bool| {
        let values = fields.values(path);
        values.filter(move |(value, _)| terms.takes(value) == wanted)
    };
    let shown = fits(true).chain(fits(false)).take(VALUES_MAX).map(seen);
    (shown.collect(), fields.values(path).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(pattern: &str, event: &str) -> (bool, Vec<Verdict>) {
        let pattern = Pattern::parse(pattern).unwrap();
        let explained = explain(&pattern, event).unwrap();
        let clauses = explained.alternatives.iter().flat_map(|way| &way.clauses);
        (
            explained.fits,
            clauses.map(|clause| clause.verdict).collect(),
        )
    }

    #[test]
    fn each_clause_has_its_own_reason() {
        use Verdict::{Fits, Missing, NoValueFits, OtherElement, Present};
        let event = r#"{"a":"x","n":5,"m":[{"n":"t","v":1},{"n":"p","v":90,"w":1}]}"#;
        for (pattern, fits, expect) in [
            (r#"{"a":["x"],"n":[5.0]}"#, true, vec![Fits, Fits]),
            (
                r#"{"a":["y"],"b":[1],"n":[{"exists":false}]}"#,
                false,
                vec![NoValueFits, Missing, Present],
            ),
            // Each is in some element, and not in the same one.
            (
                r#"{"m":{"n":["t"],"v":[{"numeric":[">",80]}]}}"#,
                false,
                vec![Fits, OtherElement],
            ),
            (
                r#"{"m":{"n":["p"],"v":[{"numeric":[">",80]}]}}"#,
                true,
                vec![Fits, Fits],
            ),
            // Absent from the element that has the name before it.
            (
                r#"{"m":{"n":["t"],"w":[{"exists":false}]}}"#,
                true,
                vec![Fits, Fits],
            ),
            (
                r#"{"$or":[{"a":["y"]},{"n":[{"anything-but":6}]}]}"#,
                true,
                vec![NoValueFits, Fits],
            ),
        ] {
            assert_eq!(verdicts(pattern, event), (fits, expect), "{pattern}");
        }
    }

    #[test]
    fn what_is_too_much_to_compare_is_said_and_not_guessed() {
        let elements = vec![r#"{"x":1,"z":1}"#; 2_000].join(",");
        let event = format!(r#"{{"a":[{elements}],"a":[{elements}]}}"#);
        let pattern = r#"{"a":{"x":[1],"y":[{"exists":false}],"z":[{"anything-but":2}]}}"#;
        let explained = explain(&Pattern::parse(pattern).unwrap(), &event).unwrap();
        assert!(explained.too_much && !explained.fits && explained.alternatives.is_empty());
    }

    #[test]
    fn what_is_there_is_shown_with_its_place_and_those_that_fit_first() {
        let pattern = Pattern::parse(r#"{"m":{"v":[{"numeric":[">",80]}]}}"#).unwrap();
        let event = r#"{"m":[{"v":1e0},{"v":90},{"v":9007199254740993}]}"#;
        let explained = explain(&pattern, event).unwrap();
        let clause = &explained.alternatives[0].clauses[0];
        assert_eq!(clause.path, "m.v");
        assert_eq!(clause.clause, r#"[{"numeric":[">",80]}]"#);
        let shown: Vec<_> = clause
            .values
            .iter()
            .map(|seen| (seen.value.as_str(), seen.elements[0], seen.fits))
            .collect();
        assert_eq!(
            shown,
            [
                ("90", 1, true),
                ("9007199254740993", 2, true),
                ("1", 0, false)
            ]
        );
    }
}
