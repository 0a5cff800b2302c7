//! The `vmf-audit` command.

fn main() {}
