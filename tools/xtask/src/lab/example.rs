//! The examples of `dts/`, booted as they stand: behind a board's tree, with each
//! file where the example says that the boot loader puts it.
//!
//! What the lab adds is the board's: its memory, and its console. And a word for
//! Xen, so that it tells the guests' output apart (`conswitch=ax`: nobody has the
//! console's input), where there is no dom0 whose console that is.

use anyhow::{Context, Result, ensure};

use super::device_tree::memory_nodes;
use super::profile::Profile;

/// Whether a template is an example: it has no word for the lab to fill in.
pub fn is_one(template: &str) -> bool {
    !template.contains("@memory@")
}

/// Whether it has a dom0.
pub fn has_dom0(example: &str) -> bool {
    example.contains("xen,dom0-bootargs")
}

/// The addresses of its modules, in order.
pub fn modules(example: &str) -> Result<Vec<u64>> {
    let nodes = example.split("module@").skip(1);
    nodes
        .map(|rest| {
            let digits = rest.split_whitespace().next().unwrap_or_default();
            u64::from_str_radix(digits, 16).with_context(|| format!("module@{digits}"))
        })
        .collect()
}

/// The board's part and the example.
pub fn system(example: &str, profile: &Profile) -> Result<String> {
    let words = "console=dtuart";
    ensure!(
        example.matches(words).count() == 1,
        "the example has no {words}"
    );
    let example = if has_dom0(example) {
        example.to_owned()
    } else {
        example.replace(words, &format!("{words} conswitch=ax"))
    };
    Ok(format!(
        "/ {{\n\t#address-cells = <2>;\n\t#size-cells = <2>;\n{}\tchosen {{\n\t\tstdout-path = \"/pl011@9000000\";\n\t}};\n}};\n{example}",
        memory_nodes(&profile.banks)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_order() {
        let text = "a { module@4a000000 { }; };\n module@4c000000 {";
        assert_eq!(modules(text).unwrap(), [0x4a00_0000, 0x4c00_0000]);
        assert!(modules("module@x {").is_err());
    }
}
