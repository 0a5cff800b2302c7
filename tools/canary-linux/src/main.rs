//! canary-linux
fn main() {}
