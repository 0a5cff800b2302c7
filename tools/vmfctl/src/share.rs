//! `vmfctl share`: pages of a domain that stay within Xen's reach on purpose.

use std::io::{self, IsTerminal};

use serde_json::json;
use xenctrl_ffi::{Error, Shared};

use crate::Context;
use crate::blow::ask;
use crate::failure::Failure;
use crate::select::{self, Domain};
use crate::status::domain_json;

/// A range of guest frames in words.
#[must_use]
pub fn words(range: &Shared) -> String {
    match range.pages {
        1 => format!("1 page, guest frame {:#x}", range.gfn),
        pages => format!(
            "{pages} pages, guest frames {:#x} to {:#x}",
            range.gfn,
            range.gfn + (pages - 1)
        ),
    }
}

/// What is to be said beside a level that holds, if protected domains share
/// pages.
#[must_use]
pub fn exception(domains: &[Domain]) -> Option<&'static str> {
    let shares = |d: &Domain| d.shared.as_ref().is_some_and(|list| !list.is_empty());
    domains
        .iter()
        .any(|d| d.status.protected && shares(d))
        .then_some("Not so for pages that they share on purpose: Xen goes on mapping those")
}

/// Prints what domains share.
pub fn print(domains: &[Domain]) {
    for domain in domains {
        for range in domain.shared.iter().flatten() {
            println!("{} shares on purpose: {}", domain.title(), words(range));
        }
    }
}

/// Whether all of `range` is in one of `list`, which is sorted and merged.
fn covers(list: &[Shared], range: &Shared) -> bool {
    let end = range.gfn.saturating_add(range.pages);
    list.iter()
        .any(|s| s.gfn <= range.gfn && end <= s.gfn.saturating_add(s.pages))
}

/// Runs the command.
///
/// # Errors
/// [`Failure::NotShared`] if Xen refuses, and what concerns the choice of the
/// domain.
pub fn run(context: &Context, word: &str, range: Shared) -> Result<(), Failure> {
    let words_given = [word.to_owned()];
    let [domain] = &select::select(context, &words_given)?[..] else {
        return Err(Failure::OneDomain(word.to_owned()));
    };
    let Some(shared) = &domain.shared else {
        return Err(Failure::NoSharing);
    };
    let already = covers(shared, &range);
    if !already {
        if !context.yes {
            confirm(domain, &range)?;
        }
        share(context, domain, range)?;
    }
    let now = Domain::read(context, domain.id())?;
    if !covers(now.shared.as_deref().unwrap_or_default(), &range) {
        return Err(Failure::NotTrue(format!(
            "{} does not share {}",
            now.title(),
            words(&range)
        )));
    }
    if context.json {
        println!(
            "{:#}",
            json!({ "ok": true, "already": already, "domain": domain_json(&now) })
        );
        return Ok(());
    }
    if already {
        println!("done already, nothing was changed");
    }
    print(&[now]);
    Ok(())
}

fn share(context: &Context, domain: &Domain, range: Shared) -> Result<(), Failure> {
    context
        .machine
        .share(domain.id(), range)
        .map_err(|error| match error {
            Error::Refused { what, refusal } => Failure::NotShared {
                what,
                refusal,
                protected: domain.status.protected,
            },
            other => other.into(),
        })
}

/// Says what it means, and asks for the word.
fn confirm(domain: &Domain, range: &Shared) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    eprintln!("{} will share {}:", domain.title(), words(range));
    eprintln!(
        "  - Xen, and whoever takes it over, can read and write them, whatever is blown later"
    );
    eprintln!("  - other domains that it gives grants to can have them mapped");
    eprintln!("  - it can no longer execute from them");
    ask("share", &mut io::stdin().lock())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_covered_by_one_that_has_all_of_it() {
        let range = |gfn, pages| Shared { gfn, pages };
        let list = [range(5, 3), range(10, 1)];
        for inside in [range(5, 3), range(6, 2), range(10, 1)] {
            assert!(covers(&list, &inside), "{inside:?}");
        }
        for outside in [range(4, 1), range(7, 2), range(9, 2), range(u64::MAX, 2)] {
            assert!(!covers(&list, &outside), "{outside:?}");
        }
    }
}
