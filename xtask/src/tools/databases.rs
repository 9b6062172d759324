//! Servers of databases: PostgreSQL of the distribution, and OpenSearch as jars.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{debian, jars::Jars};

/// OpenSearch, which Java of any of today's distributions runs.
const OPENSEARCH: Jars = Jars {
    name: "opensearch-2.19.6",
    pom: "tests/clients/opensearch/pom.xml",
    pins: include_str!("../../pins/opensearch.txt"),
};

/// Where Debian has the programs of each version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// PostgreSQL; the tests start servers of their own.
pub(super) fn postgres() -> anyhow::Result<()> {
    let found = || {
        let versions = Path::new(POSTGRES).read_dir().into_iter().flatten();
        versions
            .filter_map(Result::ok)
            .any(|version| version.path().join("bin/postgres").is_file())
    };
    if !found() {
        debian(&["postgresql"]).context("postgres is needed")?;
        ensure!(found(), "Debian's postgresql is not in {POSTGRES}");
    }
    Ok(())
}

/// OpenSearch as jars, and Java.
pub(super) fn opensearch(repository: &Path) -> anyhow::Result<()> {
    OPENSEARCH.get(repository)
}
