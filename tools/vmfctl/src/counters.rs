//! `vmfctl counters`: what Xen has counted since boot, zeros as well.

use serde_json::{Map, Value, json};

use crate::Context;
use crate::failure::Failure;
use crate::select;

/// Runs the command.
///
/// # Errors
/// A domain that is not there, or Xen's.
pub fn run(context: &Context, words: &[String]) -> Result<(), Failure> {
    let domains = if words.is_empty() {
        select::every(context)?
    } else {
        select::select(context, words)?
    };
    let counters = context.machine.counters()?;
    let mut undecoded = Vec::new();
    for domain in &domains {
        // An older Xen does not count these, so nothing is said of them.
        if let Some(seen) = context.machine.undecoded(domain.id())? {
            undecoded.push((domain, seen));
        }
    }

    if context.json {
        let counters: Map<String, Value> = counters
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let domains: Vec<Value> = undecoded
            .iter()
            .map(|(domain, seen)| {
                json!({
                    "id": domain.id().get(),
                    "name": domain.name,
                    "undecoded": seen.count,
                    "undecoded_pc": (seen.count != 0).then(|| format!("{:#x}", seen.pc)),
                })
            })
            .collect();
        println!(
            "{:#}",
            json!({ "ok": true, "counters": counters, "domains": domains })
        );
        return Ok(());
    }

    for (name, value) in counters.iter() {
        println!("{value:>12} {name}");
    }
    for (domain, seen) in undecoded {
        let last = match seen.count {
            0 => String::new(),
            _ => format!(", the last one at guest PC {:#x}", seen.pc),
        };
        println!(
            "{}: {} undecoded accesses to emulated devices{last}",
            domain.title(),
            seen.count
        );
    }
    Ok(())
}
