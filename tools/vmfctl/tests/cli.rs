//! Snapshots of everything that `vmfctl` prints, over recorded answers.
//! `TRYCMD=overwrite cargo test -p vmfctl` writes them anew.

use std::path::PathBuf;

/// Cargo has built the example next to this test.
fn replay() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.parent().and_then(|deps| deps.parent());
    profile
        .expect("target/PROFILE/deps")
        .join("examples/replay")
}

#[test]
fn snapshots() {
    trycmd::TestCases::new()
        .register_bin("vmfctl", replay())
        .env("COLUMNS", "80")
        .case("tests/cmd/*.trycmd");
}
