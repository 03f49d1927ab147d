//! Parts of the program that a build may lack (Cargo's features), and what is said where one of them is asked for.

use crate::fault::Fault;

/// A part that this build lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this qonnx was built without {what}; build it with --features {feature}")]
pub struct NotBuilt {
    what: &'static str,
    feature: &'static str,
}

impl NotBuilt {
    pub const HUB: NotBuilt = NotBuilt { what: "the hub's client", feature: "hub" };
    pub const PARQUET: NotBuilt = NotBuilt { what: "a reader of parquet files", feature: "parquet" };
    pub const REPORT: NotBuilt = NotBuilt { what: "reports", feature: "report" };

    /// Nothing is wrong with what was asked for.
    pub fn fault(&self) -> Fault {
        Fault::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_a_feature_that_there_is() {
        let said = "this qonnx was built without reports; build it with --features report";
        assert_eq!(NotBuilt::REPORT.to_string(), said);
        let manifest: toml::Table = include_str!("../Cargo.toml").parse().expect("TOML");
        let features = manifest["features"].as_table().expect("a table");
        for part in [NotBuilt::HUB, NotBuilt::PARQUET, NotBuilt::REPORT] {
            assert!(features.contains_key(part.feature), "{part}");
            assert_eq!(part.fault().exit_code(), 1, "{part}");
        }
        assert_eq!(features.len(), 4, "the three and `default`");
    }
}
