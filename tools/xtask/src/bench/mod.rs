//! `cargo xtask bench`: what the fuse costs, against stock Xen built from the
//! same source and configuration.
//!
//! All is counted in instructions: under `-icount shift=0` QEMU's clock goes on
//! by one nanosecond with each, so a figure repeats, and says nothing of
//! caches, TLBs or time on hardware.
//!
//! - [`figure`]: what is measured, and how much it may be
//! - [`guest`]: traps, hypercalls, interrupts, switches, as guests see them;
//!   [`mapping`]: pages mapped and allocated, as Xen sees them; [`boot`]: from reset to dom0; [`blow`]: the fuse itself; [`image`]: size of
//!   Xen; [`audit`]: the verifier's time; [`demo`]: the
//!   demonstration's; [`scale`]: the fuse on a simulated machine of a terabyte
//! - [`report`]: what was measured, kept from run to run; [`table`] prints it,
//!   [`plot`] draws it, [`document`] writes both into `docs/`

mod audit;
pub mod blow;
pub mod boot;
mod demo;
mod document;
pub mod figure;
pub mod guest;
mod image;
mod mapping;
mod plot;
mod report;
mod scale;
mod table;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use self::figure::Point;
use self::report::Report;
use crate::lab::images::Images;
use crate::lab::profile::Profile;
use crate::site::Site;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Measure only these parts; of the others the last results stay
    #[arg(long, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Write the tables and plots of docs/performance.md from the results
    #[arg(long)]
    write_docs: bool,
    /// Measure nothing; print the last results
    #[arg(long, conflicts_with = "only")]
    last: bool,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What guests see: five boots
    Guest,
    /// Mapping a page, and allocating one: three boots of Xens built for it
    Mapping,
    /// From reset to dom0: six boots
    Boot,
    /// The blow, over sizes and CPUs: fifteen boots
    Blow,
    /// Size of Xen
    Image,
    /// The verifier on a dump of 2 GiB
    Audit,
    /// The fuse on large simulated machines
    Scale,
    /// The demonstration, twice
    Demo,
}

/// Measures, keeps the results and prints them. A target that is missed is no
/// error: `cargo xtask test` has the gates.
pub fn run(site: &Site, options: &Options) -> Result<()> {
    let mut report = Report::read(site)?;
    if !options.last {
        measure(site, options, &mut report)?;
    }
    ensure!(!report.is_empty(), "nothing was measured yet");
    print!("{}", table::text(&report)?);
    println!("results: {}", Report::path(site).display());
    if options.write_docs {
        document::write(site, &report)?;
    }
    Ok(())
}

fn measure(site: &Site, options: &Options, report: &mut Report) -> Result<()> {
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    let base = Profile::read(site.root(), "test")?;
    let xens = [Point::Stock.xen(), Point::DirectmapNo.xen()];
    let images = Images::gather(site, xens)?;
    let lab = site.target().join("lab");
    report.built(&images)?;
    if wants(Part::Image) {
        for point in [Point::Stock, Point::DirectmapNo] {
            let sizes = image::measure(images.xen(point.xen())?)?;
            report.image.insert(point, sizes);
        }
        report.write(site)?;
    }
    if wants(Part::Guest) {
        for point in Point::ALL {
            println!("bench: guests: {}", point.name());
            for (id, value) in guest::measure(&images, &base, &lab, point)? {
                report.put(id, point, value);
            }
            report.write(site)?;
        }
    }
    if wants(Part::Mapping) {
        let images = mapping::images(site, &images)?;
        for point in mapping::POINTS {
            println!("bench: mapping: {}", point.name());
            let measured = mapping::measure(&images, &base, &lab, point)?;
            report.put(mapping::XENHEAP.0, point, measured.xenheap);
            for (id, cost) in measured.ways {
                let costs = report.mapping.entry(id.to_owned()).or_default();
                costs.insert(point, cost);
            }
            report.write(site)?;
        }
    }
    if wants(Part::Boot) {
        for (mib, _) in boot::SIZES {
            let values = boot::all(mib, |point| {
                println!("bench: boot: {mib} MiB, {}", point.name());
                boot::measure(&images, &base, &lab, point, mib)
            })?;
            report.figures.extend(values);
            report.write(site)?;
        }
    }
    if wants(Part::Blow) {
        for system in blow::System::all() {
            println!("bench: blow: {system:?}");
            report.put_blow(blow::measure(&images, &base, &lab, system)?);
            report.write(site)?;
        }
    }
    if wants(Part::Audit) {
        println!("bench: verifier");
        report.audit = Some(audit::measure(site, &images, &base, &lab)?);
        report.write(site)?;
    }
    if wants(Part::Scale) {
        println!("bench: large machines");
        report.scale = scale::measure(site)?;
        report.write(site)?;
    }
    if wants(Part::Demo) {
        println!("bench: demonstration");
        report.demo = Some(demo::measure(site)?);
        report.write(site)?;
    }
    Ok(())
}
