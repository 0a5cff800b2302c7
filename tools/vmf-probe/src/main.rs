//! vmf-probe
fn main() {}
