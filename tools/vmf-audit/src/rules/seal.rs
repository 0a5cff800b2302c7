//! Which instructions there are: S1 to S6.

use crate::audit::Audit;
use crate::frames::Owner;
use crate::instructions::Effect;
use crate::judge::Findings;
use crate::scan::Place;

/// The two that stay, each behind its check, and once.
const VTTBR: &str = "MSR VTTBR_EL2";
const HCR: &str = "MSR HCR_EL2";

fn say(audit: &Audit, place: &Place, found: &mut Findings) {
    let at = place.at.as_deref().unwrap_or("code without a name");
    found.instruction(audit, place, format!("{} in {at}", place.instruction));
}

fn none_of(audit: &Audit, found: &mut Findings, wanted: impl Fn(&Place) -> bool) {
    for place in audit.executable_places().0.iter().filter(|p| wanted(p)) {
        say(audit, place, found);
    }
}

/// Exactly one: with none no guest could run, so a scan that finds none was of the wrong memory.
fn one_of(audit: &Audit, found: &mut Findings, name: &str) {
    let places = audit.executable_places().0;
    let gates: Vec<_> = places.iter().filter(|p| p.instruction == name).collect();
    match gates[..] {
        [] if audit.found.is_none() => {}
        [] => found.doubt(format!(
            "no {name} was found: the executable memory is not Xen's"
        )),
        [_] => {}
        _ => gates.iter().for_each(|place| say(audit, place, found)),
    }
}

pub(super) fn translation(audit: &Audit, found: &mut Findings) {
    none_of(audit, found, |p| {
        p.effect == Effect::Translation && p.instruction != VTTBR && p.instruction != HCR
    });
}

pub(super) fn firmware(audit: &Audit, found: &mut Findings) {
    none_of(audit, found, |p| p.effect == Effect::Firmware);
}

pub(super) fn implementation_defined(audit: &Audit, found: &mut Findings) {
    none_of(audit, found, |p| p.effect == Effect::ImplementationDefined);
}

pub(super) fn vttbr_gate(audit: &Audit, found: &mut Findings) {
    one_of(audit, found, VTTBR);
}

pub(super) fn hcr_gate(audit: &Audit, found: &mut Findings) {
    one_of(audit, found, HCR);
}

/// Nothing can be executed from but the image's text, at the address it is linked at.
pub(super) fn only_text(audit: &Audit, found: &mut Findings) {
    let Some(of_xen) = &audit.found else { return };
    for root in &audit.roots {
        for leaf in root.walk.leaves.iter().filter(|l| root.regime.executes(l)) {
            // Where it is no memory, L3 says so.
            let runs = audit
                .frames
                .runs(&audit.dump, leaf.pa, leaf.size(), |_, _| true);
            for run in runs {
                let va = leaf.va + (run.mfn << 12) - leaf.pa;
                let section = match run.owner {
                    Owner::Image(i) => of_xen.sections.get(usize::from(i)),
                    _ => None,
                };
                let text = section.filter(|s| s.region.executable);
                let linked = text.is_some_and(|s| {
                    va.wrapping_sub(s.region.va) == (run.mfn << 12).wrapping_sub(s.pa)
                });
                if !linked {
                    let what = "it can be executed from, and is not Xen's text at its own address";
                    found.el2(audit, root, leaf, &run, what.into());
                }
            }
        }
    }
}
