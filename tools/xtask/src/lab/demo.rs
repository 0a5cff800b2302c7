//! `cargo xtask demo`: the experiment, shown.

use std::fmt::Write as _;

use anyhow::Result;
use vmf_audit::report::Summary;

use super::DemoOptions;
use super::audit;
use super::experiment::{self, Claim, Outcome, arguments, domus};
use super::images::Images;
use super::profile::Profile;
use super::session::{Pulse, Session};
use crate::site::Site;

/// Builds, boots, blows, and shows before and after; true if all claims hold.
pub fn demo(site: &Site, options: &DemoOptions) -> Result<bool> {
    let profile = Profile::read(site.root(), &options.profile)?;
    println!("== building what the system needs");
    let images = Images::gather(site, [profile.xen])?;
    println!("== booting: {}", profile.description);
    println!(
        "   {} {} CPUs, {} MiB, {}",
        profile.cpus,
        profile.cpu,
        profile.ram_mib(),
        profile.xen_command_line()
    );
    let lab = site.target().join("lab");
    let mut session = Session::boot(&images, &profile, &lab, true)?;
    session.wait_dom0()?;

    println!("== blowing the fuse from dom0");
    let ids = arguments(&domus(&session));
    show(&mut session, "vmfctl status")?;
    show(&mut session, &format!("vmfctl check {ids}"))?;
    let outcome = experiment::experiment(&mut session)?;
    show(&mut session, "vmfctl status")?;

    println!("== before and after");
    print!("{}", table(&outcome));
    let claims = outcome.claims(profile.directmap);
    println!();
    for claim in &claims {
        println!("{}", line(claim));
        session
            .report
            .verdict(&claim.text, claim.held, &claim.seen)?;
    }
    let report = session.finish()?;
    let picture = audit::picture(report.folder(), ["before", "after"])?;
    println!("map of EL2, before and after: {}", picture.display());
    println!("evidence: {}", report.folder().display());
    let held = claims.iter().all(|claim| claim.held);
    if !held {
        println!("NOT all claims hold");
    }
    Ok(held)
}

/// Runs a command in dom0 and shows what it says.
fn show(session: &mut Session, command: &str) -> Result<()> {
    let output = session.run(command)?;
    for line in output.text.lines() {
        println!("        {line}");
    }
    if output.code != 0 {
        println!("        (exit code {})", output.code);
    }
    Ok(())
}

fn line(claim: &Claim) -> String {
    let verdict = if claim.held { "holds " } else { "BROKEN" };
    format!("{verdict}  {}: {}", claim.text, claim.seen)
}

/// Before and after, side by side.
fn table(outcome: &Outcome) -> String {
    let mut out = String::new();
    let mut row = |what: &str, before: String, after: String| {
        let _ = writeln!(out, "  {what:<42} {before:>22} {after:>22}");
    };
    row("", "before".to_owned(), "after".to_owned());
    let (before, after) = (&outcome.before, &outcome.after);
    let mut count = |what: &str, of: fn(&Summary) -> String| {
        row(what, of(&before.report.summary), of(&after.report.summary));
    };
    count("protected frames mapped at EL2", |s| {
        format!("{} of {}", s.protected_frames_mapped, s.protected_frames)
    });
    count("table frames mapped at EL2", |s| {
        format!("{} of {}", s.table_frames_mapped, s.table_frames)
    });
    count("EL2 leaves of 1 GiB", |s| s.leaves.blocks_1g.to_string());
    count("EL2 leaves of 2 MiB", |s| s.leaves.blocks_2m.to_string());
    count("EL2 leaves of 4 KiB", |s| s.leaves.pages.to_string());
    count("writable and executable leaves", |s| {
        s.wx_leaves_effective.to_string()
    });
    count("writable and executable frames", |s| {
        s.executable_frames_writable.to_string()
    });
    for ((id, first), (_, second)) in before.pulses.iter().zip(&after.pulses) {
        row(
            &format!("d{id}'s canary: heartbeat, pattern"),
            pulse(first),
            pulse(second),
        );
    }
    row(
        "dom0's hypercalls answered",
        before.hypercalls.to_string(),
        after.hypercalls.to_string(),
    );
    let _ = writeln!(
        out,
        "  {:<42} {:>45}",
        "time that Xen took to blow",
        format!(
            "{:.1} ms, all CPUs stopped for {:.1} ms",
            outcome.blow.as_secs_f64() * 1e3,
            outcome.stopped.as_secs_f64() * 1e3
        )
    );
    out
}

fn pulse(pulse: &Pulse) -> String {
    format!(
        "{} {}",
        pulse.last,
        if pulse.pattern { "intact" } else { "BROKEN" }
    )
}
