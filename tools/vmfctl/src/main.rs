//! vmfctl
fn main() {}
