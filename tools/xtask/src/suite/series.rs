//! The series as patches: that `git am` takes it, that each patch builds in
//! order with the fuse and without, and that without it Xen's code is what it
//! was, but for what is mended. What has passed once is not built again until it
//! changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cases::Cases;
use crate::headers;
use crate::process;
use crate::series::{Patch, Series};
use crate::site::Site;
use crate::stamp::{self, Inputs};
use crate::suite::object;
use crate::tree::{self, Tree};
use crate::xen::{self, Variant};

/// Name of the case about the lab's own patch.
const ATTACK_OPTION: &str =
    "series: attack primitives need a patch of their own, EXPERT and UNSUPPORTED";

/// The first patches mend Xen as it is, whether the fuse is built or not. Without
/// the fuse the rest of the series changes no code.
const MENDS: usize = 6;

/// All cases of the series.
pub fn run(site: &Site, stock: &Tree, cases: &mut Cases) -> Result<()> {
    let series = Series::read(site)?;
    let needed = [
        "series: stock Xen builds",
        "series: git am",
        "series: its headers are the generated ones",
        "series: code unchanged without the fuse",
        ATTACK_OPTION,
    ];
    if !needed.iter().any(|name| cases.wants(name))
        && series.0.iter().all(|patch| !cases.wants(&patch.name))
    {
        return Ok(());
    }
    // The first prefix begins with a copy of it.
    cases.case("series: stock Xen builds", || {
        xen::build(site, &Variant::STOCK).map(drop)
    });
    cases.case("series: git am takes every patch", || {
        git_am(site, stock, &series)
    });
    // Before the patch that adds the symbol there is nothing to switch on.
    let symbol = series.0.iter().position(adds_symbol);
    let symbol = symbol.context("no patch of the series adds CONFIG_VMF to Kconfig")?;
    for count in 1..=series.0.len() {
        let on = (count > symbol).then_some((Variant::VMF, "on"));
        for (variant, word) in std::iter::once((Variant::OFF, "off")).chain(on) {
            let name = format!(
                "series: {} builds with CONFIG_VMF {word}",
                series.0[count - 1].name
            );
            cases.case(&name, || {
                prefix_builds(site, stock, &series.first(count), variant, word)
            });
        }
    }
    cases.case("series: its headers are the generated ones", || {
        same_headers(site, &tree::patched(site, stock, &series, "patched")?)
    });
    cases.case(
        "series: code unchanged without the fuse (.text only)",
        || {
            let mended = mended(site, stock, &series)?;
            let other = xen::build(site, &Variant::OFF)?;
            object::same_text(&mended, &other.syms)
        },
    );
    cases.case(ATTACK_OPTION, || attack_option(site, &series));
    Ok(())
}

/// The option is in no tree that is patched for use, and Xen's configuration
/// takes it only together with what marks a build as not for use.
fn attack_option(site: &Site, series: &Series) -> Result<()> {
    const WANTED: [&str; 4] = [
        "CONFIG_EXPERT=y",
        "CONFIG_UNSUPPORTED=y",
        "CONFIG_VMF=y",
        "CONFIG_VMF_ATTACK=y",
    ];
    if series
        .0
        .iter()
        .any(|patch| patch.text.contains("VMF_ATTACK_"))
    {
        bail!("a patch of the series has the attack primitives");
    }
    if xen::accepts(site, &Variant::VMF, &WANTED)? {
        bail!("Xen with the series alone knows CONFIG_VMF_ATTACK");
    }
    if !xen::accepts(site, &Variant::ATTACK, &WANTED)? {
        bail!("Xen with the lab's patch does not accept CONFIG_VMF_ATTACK");
    }
    for without in &WANTED[..3] {
        // Switched off, not left out: one may be the default of another.
        let off = format!("# {} is not set", without.trim_end_matches("=y"));
        let lines = WANTED.map(|line| if line == *without { off.as_str() } else { line });
        if xen::accepts(site, &Variant::ATTACK, &lines)? {
            bail!("Xen accepts CONFIG_VMF_ATTACK without {without}");
        }
    }
    Ok(())
}

/// Applies the series as a maintainer would, to a git tree.
fn git_am(site: &Site, stock: &Tree, series: &Series) -> Result<()> {
    let mark = site.xen_work().join("git-am.stamp");
    let digest = Inputs::new()
        .add("source", &stock.digest)
        .add("series", series.digest())
        .digest();
    if stamp::is_current(&mark, &digest) {
        return Ok(());
    }
    let scratch = site.xen_work().join("git-am");
    let _ = fs::remove_dir_all(&scratch);
    process::output(
        process::command("cp")
            .arg("-a")
            .arg(&stock.path)
            .arg(&scratch),
    )?;
    let git = |arguments: &[&str]| git(&scratch, arguments);
    process::output(git(&["init", "--quiet"]).arg("."))?;
    process::output(&mut git(&["add", "--all", "--force"]))?;
    process::output(&mut git(&["commit", "--quiet", "--message", "stock"]))?;
    for patch in &series.0 {
        process::output(git(&["am", "--quiet"]).arg(&patch.path))
            .with_context(|| format!("git am {}", patch.name))?;
    }
    fs::remove_dir_all(&scratch)?;
    stamp::write(&mark, &digest)
}

/// git in a scratch repository, independent of the user's configuration.
fn git(tree: &Path, arguments: &[&str]) -> Command {
    let mut git = process::command("git");
    git.current_dir(tree)
        .env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree))
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "xtask")
            .env(format!("GIT_{who}_EMAIL"), "xtask@localhost");
    }
    git.args(arguments);
    git
}

/// Builds Xen with the first patches of the series, where the next prefix goes
/// on, so that only what a patch changes is compiled; with the last of them that
/// is the variant's own build.
fn prefix_builds(
    site: &Site,
    stock: &Tree,
    prefix: &Series,
    variant: Variant,
    word: &str,
) -> Result<()> {
    let Some(last) = prefix.0.last() else {
        bail!("the series is empty");
    };
    let tree = tree::patched(site, stock, prefix, "series")?;
    let mark = site
        .xen_work()
        .join(format!("series-{word}-{}.stamp", last.name));
    let digest = Inputs::new()
        .add("source", &tree.digest)
        .add(
            "crate",
            if variant.vmf && xen::has_crate(&tree) {
                xen::crate_digest(site)?
            } else {
                String::new()
            },
        )
        .digest();
    let kept = (prefix.0.len() == MENDS && !variant.vmf).then(|| mended_syms(site));
    if stamp::is_current(&mark, &digest) && kept.as_ref().is_none_or(|kept| kept.exists()) {
        return Ok(());
    }
    let built = xen::build_patched(site, &tree, &variant)?;
    if let Some(kept) = kept {
        fs::copy(&built.syms, &kept)
            .with_context(|| format!("cannot copy {}", built.syms.display()))?;
    }
    stamp::write(&mark, &digest)
}

/// Xen's symbols and code with the patches that mend it, and no other.
fn mended(site: &Site, stock: &Tree, series: &Series) -> Result<PathBuf> {
    let mends = series.first(MENDS);
    if let Some(patch) = mends.0.iter().find(|patch| mentions_fuse(patch)) {
        bail!("{} is among the patches that mend Xen as it is", patch.name);
    }
    prefix_builds(site, stock, &mends, Variant::OFF, "off")?;
    Ok(mended_syms(site))
}

fn mentions_fuse(patch: &Patch) -> bool {
    patch.text.to_ascii_lowercase().contains("vmf")
}

/// Where [`prefix_builds`] keeps that: the tree goes on to the next prefix.
fn mended_syms(site: &Site) -> PathBuf {
    site.xen_work().join("mended-xen-syms")
}

/// Whether a patch adds the symbol VMF to Xen's Kconfig.
fn adds_symbol(patch: &Patch) -> bool {
    patch.text.lines().any(|line| line == "+config VMF")
}

/// Compares the headers that the series adds with those made from Rust.
fn same_headers(site: &Site, tree: &Tree) -> Result<()> {
    for (header, place) in headers::IN_XEN {
        let generated = stamp::read(&site.root().join(headers::DIRECTORY).join(header))?;
        if stamp::read(&tree.path.join(place))? != generated {
            bail!(
                "{place} of the series is not {}/{header}",
                headers::DIRECTORY
            );
        }
    }
    Ok(())
}
