//! What device trees can get wrong: Xen names node and property, and starts
//! nobody, or everybody unprotected, as it was told.

use std::path::Path;

use anyhow::{Result, ensure};

use super::boot::{ALONE, Own, nobody_runs, release, unfused};
use crate::lab::images::Images;
use crate::lab::profile::{Guest, Profile};
use crate::lab::session::{BOOT, Session};

/// The cases of this file.
pub const OWN: &[Own] = &[
    Own {
        name: "lab/boot-strict/properties-are-named",
        run: |images, base, lab| properties(images, base, lab, false),
        xens: release,
    },
    Own {
        name: "lab/boot-permissive/properties-are-named",
        run: |images, base, lab| properties(images, base, lab, true),
        xens: release,
    },
];

/// A real-time clock, as a device without DMA, to be given away.
const CLOCK: &str = "/dts-v1/;
/ {
	#address-cells = <2>;
	#size-cells = <2>;
	passthrough {
		compatible = \"simple-bus\";
		ranges;
		#address-cells = <2>;
		#size-cells = <2>;
		pl031@9010000 {
			compatible = \"arm,pl031\", \"arm,primecell\";
			reg = <0x0 0x9010000 0x0 0x1000>;
			xen,reg = <0x0 0x9010000 0x0 0x1000 0x0 0x9010000>;
			xen,force-assign-without-iommu;
		};
	};
};
";

/// One thing that is wrong.
struct Wrong {
    /// How it comes to be so.
    change: fn(&mut Profile),
    /// The node.
    node: &'static str,
    /// The property.
    property: &'static str,
    /// What Xen says of it.
    said: &'static str,
}

const WRONG: &[Wrong] = &[
    Wrong {
        change: |p| p.domains[0].share = vec![[0x4000_0800, 0x1000]],
        node: "/chosen/domU1:",
        property: "vmf-share",
        said: "does not begin and end with a page",
    },
    Wrong {
        change: |p| p.domains[0].share = vec![[0x1_0000_0000, 0x1000]],
        node: "/chosen/domU1:",
        property: "vmf-share",
        said: "not all of it is memory",
    },
    Wrong {
        change: |p| p.domains[0].share = vec![[0x4010_0000, 0x2000], [0x4010_1000, 0x1000]],
        node: "/chosen/domU1:",
        property: "vmf-share",
        said: "overlaps another range",
    },
    Wrong {
        change: |p| {
            p.overlay =
                "/ { chosen { domU1 { vmf-share = <0x0 0x40100000 0x0>; }; }; };".to_owned();
        },
        node: "/chosen/domU1:",
        property: "vmf-share",
        said: "not a list of addresses and sizes",
    },
    Wrong {
        change: |p| {
            p.domains[0].share = vec![[0x4010_0000, 0x1000]];
            p.domains[0].unprotected = true;
        },
        node: "/chosen/domU1:",
        property: "vmf-share",
        said: "vmf-unprotected",
    },
    Wrong {
        change: |p| p.domains[0].enhanced = true,
        node: "/chosen/domU1:",
        property: "xen,enhanced",
        said: "hypercalls of d1 would fail",
    },
    Wrong {
        change: |p| p.domains[0].devices = CLOCK.to_owned(),
        node: "/chosen/domU1:",
        property: "xen,reg",
        said: "d1 cannot be protected: it has a device",
    },
    Wrong {
        change: |p| p.overlay = "/ { chosen { vmf-unprotected; }; };".to_owned(),
        node: "/chosen:",
        property: "vmf-unprotected",
        said: "not the node of a domU",
    },
    Wrong {
        change: |p| {
            p.overlay =
                "/ { memory@40000000 { vmf-share = <0x0 0x40100000 0x0 0x1000>; }; };".to_owned();
        },
        node: "/memory@40000000:",
        property: "vmf-share",
        said: "not the node of a domU",
    },
];

fn properties(images: &Images, base: &Profile, lab: &Path, permissive: bool) -> Result<()> {
    for wrong in WRONG {
        let mut profile = base.clone();
        profile.device_tree = ALONE.to_owned();
        profile.domains.retain(|d| d.guest == Guest::Canary);
        (wrong.change)(&mut profile);
        let word = if permissive { "permissive" } else { "strict" };
        profile.name = format!("boot-properties-{word}");
        profile.xen_arguments = format!("vmf=lock,{word} conswitch=ax");
        let mut session = Session::boot(images, &profile, lab, false)?;
        let line = session.wait_xen(wrong.said, BOOT)?;
        ensure!(
            line.contains(wrong.node) && line.contains(wrong.property),
            "it does not name {} and {}: {line}",
            wrong.node,
            wrong.property
        );
        if permissive {
            unfused(&mut session, "unprotected")?;
        } else {
            nobody_runs(&mut session, wrong.said)?;
        }
        session.finish()?;
    }
    Ok(())
}
