//! What the configuration asks of classes of events and can never happen: most likely a rule
//! is missing, and the operator would learn it when room is short or the link is shut. No
//! mistake, because rules come over the API too.

use super::Config;
use crate::class::{Class, Classes};

impl Config {
    /// What works of classes and is probably not what is wanted; `said` is what rules say.
    pub(crate) fn class_warnings(&self, said: Classes) -> Vec<String> {
        // What no rule says anything else of.
        let said = said.with(Class::Normal);
        let file = match &self.file {
            Some(path) => path.display().to_string(),
            None => "configuration".to_owned(),
        };
        let mut warnings = Vec::new();
        for (n, shed) in self.store.shed.iter().enumerate() {
            if !said.contains(shed.class) {
                warnings.push(format!(
                    "{file}: store.shed[{}].class: no rule has class = {:?}, so nothing is given \
                     up by it; give the class to a [[rule]], or take the table out",
                    n + 1,
                    shed.class.as_str()
                ));
            }
        }
        let own = self.destinations.iter().filter(|d| d.lane_of.is_none());
        for destination in own {
            let unsaid =
                |class: &Class| destination.urgent.contains(*class) && !said.contains(*class);
            for class in Class::ALL.into_iter().filter(unsaid) {
                warnings.push(format!(
                    "{file}: destination {:?}: urgent: no rule has class = {:?}, so nothing of it \
                     goes by the lane; give the class to a [[rule]], or take it out",
                    &*destination.name,
                    class.as_str()
                ));
            }
            if !self.store.shed.is_empty() && destination.sends_originals() {
                warnings.push(format!(
                    "{file}: destination {:?}: payload: with \"original\" it is told of no gap, so \
                     what goes there is never given up by [[store.shed]]",
                    &*destination.name
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SHED: &str = "[[store.shed]]\nclass = \"low\"\nabove = \"60%\"\nkeep = \"none\"\n\
        [[store.shed]]\nclass = \"normal\"\nabove = \"70%\"\nkeep = \"none\"\n";

    fn said(text: &str, by_rules: Classes) -> Vec<String> {
        let config = Config::from_text(text, Path::new("/nowhere"), &|_| None).unwrap();
        config.class_warnings(by_rules)
    }

    #[test]
    fn what_no_rule_says_is_told_with_its_key_and_what_some_rule_says_is_not() {
        let http = "[[destination]]\nname = \"lake\"\ntype = \"http\"\nurl = \"http://h/\"\n\
            urgent = [\"high\", \"critical\"]\n";
        let text = format!("{SHED}{http}");
        let complained = said(&text, Classes::NONE.with(Class::High));
        assert_eq!(
            complained,
            [
                "configuration: store.shed[1].class: no rule has class = \"low\", so nothing is \
                 given up by it; give the class to a [[rule]], or take the table out",
                "configuration: destination \"lake\": urgent: no rule has class = \"critical\", \
                 so nothing of it goes by the lane; give the class to a [[rule]], or take it out",
            ]
        );
        let all = Class::ALL.into_iter().fold(Classes::NONE, Classes::with);
        assert_eq!(said(&text, all), [""; 0]);
    }

    #[cfg(feature = "mqtt")]
    #[test]
    fn who_is_told_of_no_gap_has_nothing_given_up_and_the_operator_hears_it() {
        let raw = "[ingest]\nraw = \"always\"\n[[destination]]\nname = \"raw\"\ntype = \"mqtt\"\nserver = \"mqtt://h\"\n\
            payload = \"original\"\n";
        let all = Class::ALL.into_iter().fold(Classes::NONE, Classes::with);
        let complained = said(&format!("{SHED}{raw}"), all);
        assert_eq!(complained.len(), 1, "{complained:?}");
        assert!(
            complained[0].starts_with("configuration: destination \"raw\": payload: "),
            "{complained:?}"
        );
        assert_eq!(said(raw, all), [""; 0]);
    }
}
