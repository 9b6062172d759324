//! `cargo xtask features`: that a small box can have a small binary.

use anyhow::Context as _;
use serde_json::Value;

use crate::step;

/// What features have in common, and what is nothing by itself.
const PARTS: [&str; 3] = ["default", "aws", "aws-requests"];

/// Runs the chore: no feature, then each by itself. `Ok(false)` when one does not build.
pub(crate) fn run() -> anyhow::Result<bool> {
    let mut broken = Vec::new();
    for feature in [String::new()].into_iter().chain(features()?) {
        let name = if feature.is_empty() { "none" } else { &feature };
        step(&format!("features: {name}"));
        let status = crate::cargo()?
            .args([
                "check",
                "--locked",
                "--package",
                "penstock",
                "--lib",
                "--bins",
            ])
            .args(["--no-default-features", "--features", &feature])
            .status()
            .context("run cargo")?;
        if !status.success() {
            broken.push(name.to_owned());
        }
    }
    match broken.is_empty() {
        true => println!("every feature builds by itself"),
        false => println!("FAILED: {}", broken.join(", ")),
    }
    Ok(broken.is_empty())
}

/// The features of the gateway.
fn features() -> anyhow::Result<Vec<String>> {
    let output = crate::cargo()?
        .args(["metadata", "--no-deps", "--locked", "--format-version", "1"])
        .output()
        .context("run cargo")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo's metadata")?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let gateway = packages.find(|package| package["name"] == "penstock");
    let features = gateway.and_then(|gateway| gateway["features"].as_object());
    let features = features.context("the gateway has no features")?;
    Ok(features
        .keys()
        .filter(|name| !PARTS.contains(&name.as_str()))
        .cloned()
        .collect())
}
