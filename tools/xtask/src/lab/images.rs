//! What a run boots: gathered once, from the rooms of xtask that get and build
//! it, then placed into RAM for one profile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::attack_symbols;
use super::device_tree::{self, DomainFiles};
use super::example;
use super::initramfs::{self, Extra};
use super::layout::{self, Layout};
use super::machine::{Load, machine_arguments};
use super::profile::{Domain, Guest, Profile, Xen};
use super::stub::stub;
use super::toolstack;
use crate::fetch;
use crate::guests;
use crate::site::Site;
use crate::xen::{self, Built, Variant};

/// Programs of this project that dom0 gets.
const DOM0_PROGRAMS: [&str; 2] = ["vmfctl", "vmf-probe"];
/// Where dom0 has a guest that `xl` can start, if it has `xl`.
const TOOLS_GUEST: &str = "guests/canary";
/// What dom0 gets beside them where Xen has the attack primitives.
const ATTACK_PROGRAM: &str = "vmf-attack";

/// Everything that is booted, as files on the host.
#[derive(Clone)]
pub struct Images {
    root: PathBuf,
    kernel: PathBuf,
    dom0_ramdisk: PathBuf,
    attack_ramdisk: Option<PathBuf>,
    tools_ramdisk: Option<PathBuf>,
    hostile_ramdisk: PathBuf,
    domu_ramdisk: PathBuf,
    canary: PathBuf,
    fuzz: PathBuf,
    narrow: Option<PathBuf>,
    xens: HashMap<Xen, Built>,
}

impl Images {
    /// Gets and builds what the guests need, and these variants of Xen.
    pub fn gather(site: &Site, xens: impl IntoIterator<Item = Xen>) -> Result<Self> {
        let kernel = fetch::kernel(site)?;
        let busybox = fetch::busybox(site)?;
        let folder = site.target().join("lab").join("images");
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot create", folder.display()))?;

        let programs = dom0_programs(site)?;
        let programs = borrowed(&programs);
        let dom0_ramdisk = folder.join("dom0.cpio");
        let bytes = initramfs::dom0(&busybox, &kernel.modules, &programs, None)?;
        write(&dom0_ramdisk, &bytes)?;

        let domu_ramdisk = folder.join("domu.cpio");
        let canary_linux = guests::linux(site, "canary-linux")?;
        write(&domu_ramdisk, &initramfs::domu(&busybox, &canary_linux)?)?;

        let hostile_ramdisk = folder.join("hostile.cpio");
        let bytes = initramfs::hostile(&busybox, &kernel.modules, &programs)?;
        write(&hostile_ramdisk, &bytes)?;

        let mut images = Self {
            root: site.root().to_owned(),
            kernel: kernel.image,
            dom0_ramdisk,
            attack_ramdisk: None,
            tools_ramdisk: None,
            hostile_ramdisk,
            domu_ramdisk,
            canary: guests::bare_metal(site, "canary")?,
            fuzz: guests::bare_metal(site, "fuzz")?,
            narrow: None,
            xens: HashMap::new(),
        };
        for wanted in xens {
            if let Entry::Vacant(place) = images.xens.entry(wanted) {
                place.insert(xen::build_with(site, &variant(wanted), further(wanted))?);
            }
        }
        let attacked = images.xens.iter().find(|(xen, _)| xen.attack);
        if let Some((_, built)) = attacked {
            let symbols = attack_symbols::lines(&built.syms)?;
            let attack = guests::linux(site, ATTACK_PROGRAM)?;
            let mut programs = programs.clone();
            programs.push((ATTACK_PROGRAM, &attack));
            let bytes = initramfs::dom0(&busybox, &kernel.modules, &programs, Some(&symbols))?;
            let path = folder.join("dom0-attack.cpio");
            write(&path, &bytes)?;
            images.attack_ramdisk = Some(path);
        }
        Ok(images)
    }

    /// Gets what only some systems have, if this one does: Xen's own tools in
    /// dom0, a guest of 32 bits.
    pub fn add_extras(&mut self, site: &Site, profile: &Profile) -> Result<()> {
        if profile.dom0.tools && self.tools_ramdisk.is_none() {
            self.add_tools(site)?;
        }
        let narrow = |domain: &Domain| domain.guest == Guest::Narrow;
        if self.narrow.is_none() && profile.domains.iter().any(narrow) {
            self.narrow = Some(guests::narrow(site)?);
        }
        Ok(())
    }

    fn narrow(&self) -> Result<&PathBuf> {
        let narrow = self.narrow.as_ref();
        narrow.context("the guest of 32 bits was not built for this run")
    }

    fn add_tools(&mut self, site: &Site) -> Result<()> {
        let mut extras = toolstack::files(&fetch::toolstack(site)?)?;
        extras.push(Extra {
            name: TOOLS_GUEST.to_owned(),
            path: self.canary.clone(),
        });
        let programs = dom0_programs(site)?;
        let bytes = initramfs::dom0_with_tools(
            &fetch::busybox(site)?,
            &fetch::kernel(site)?.modules,
            &borrowed(&programs),
            &extras,
        )?;
        let path = site.target().join("lab/images/dom0-tools.cpio");
        write(&path, &bytes)?;
        self.tools_ramdisk = Some(path);
        Ok(())
    }

    /// From now on `wanted` is this build.
    pub fn replace_xen(&mut self, wanted: Xen, built: Built) {
        self.xens.insert(wanted, built);
    }

    /// The Xen of this profile.
    pub fn xen(&self, wanted: Xen) -> Result<&Built> {
        self.xens
            .get(&wanted)
            .with_context(|| format!("{wanted:?} was not built for this run"))
    }

    /// Places everything for `profile` into RAM, and writes the device tree
    /// and the boot stub into `folder`, with Xen's symbols beside them.
    pub fn place(&self, profile: &Profile, folder: &Path) -> Result<Vec<Load>> {
        let xen = self.xen(profile.xen)?;
        let mut places = Places {
            layout: Layout::new(&profile.banks[0]),
            loads: vec![Load {
                path: xen.image.clone(),
                address: layout::XEN,
            }],
        };
        let template = self.template(&profile.device_tree)?;
        let system = if example::is_one(&template) {
            self.example(&template, profile, &mut places)?
        } else {
            self.system(&template, profile, folder, &mut places)?
        };
        let described = machine_arguments(profile, profile.cpus + profile.dead_cpus);
        let machine = device_tree::machine_source(&described, folder)?;
        let source = folder.join("system.dts");
        let text = format!("{machine}\n{system}\n{}", profile.overlay);
        write(&source, text.as_bytes())?;
        let blob = folder.join("system.dtb");
        device_tree::compile(&source, &blob)?;
        let size = fs::metadata(&blob).context("system.dtb")?.len();
        ensure!(
            size <= layout::DEVICE_TREE_MAX,
            "the device tree has {size} bytes, {} fit",
            layout::DEVICE_TREE_MAX
        );
        let boot = folder.join("stub.bin");
        write(&boot, &stub(layout::DEVICE_TREE, layout::XEN))?;
        let syms = folder.join("xen-syms");
        if fs::hard_link(&xen.syms, &syms).is_err() {
            fs::copy(&xen.syms, &syms).context("xen-syms: cannot copy")?;
        }

        let mut loads = places.loads;
        loads.push(Load {
            path: blob,
            address: layout::DEVICE_TREE,
        });
        loads.push(Load {
            path: boot,
            address: layout::STUB,
        });
        Ok(loads)
    }

    /// What is laid over the machine's tree, from a template.
    fn system(
        &self,
        template: &str,
        profile: &Profile,
        folder: &Path,
        places: &mut Places,
    ) -> Result<String> {
        let dom0 = DomainFiles {
            kernel: match profile.dom0.guest {
                Guest::Fuzz => places.add("the fuzzer", &self.fuzz)?,
                Guest::Canary => places.add("the canary", &self.canary)?,
                _ => places.add("dom0's kernel", &self.kernel)?,
            },
            ramdisk: Some(places.add("dom0's ramdisk", self.dom0_ramdisk(profile))?),
            devices: None,
        };
        let mut nodes = String::new();
        for (index, domain) in profile.domains.iter().enumerate() {
            let name = format!("domU{}", index + 1);
            let (kernel, ramdisk) = match domain.guest {
                Guest::Linux => (&self.kernel, Some(&self.domu_ramdisk)),
                Guest::Hostile => (&self.kernel, Some(&self.hostile_ramdisk)),
                Guest::Canary => (&self.canary, None),
                Guest::Fuzz => (&self.fuzz, None),
                Guest::Narrow => (self.narrow()?, None),
            };
            let mut files = DomainFiles {
                kernel: places.add(&name, kernel)?,
                ramdisk: None,
                devices: None,
            };
            if let Some(ramdisk) = ramdisk {
                files.ramdisk = Some(places.add(&name, ramdisk)?);
            }
            if !domain.devices.is_empty() {
                let source = folder.join(format!("{name}-devices.dts"));
                write(&source, domain.devices.as_bytes())?;
                let blob = source.with_extension("dtb");
                device_tree::compile(&source, &blob)?;
                files.devices = Some(places.add(&name, &blob)?);
            }
            let template = self.template(&domain.device_tree)?;
            nodes += &device_tree::domain_node(&template, &name, domain, &files)
                .with_context(|| domain.device_tree.clone())?;
        }
        let arguments = match profile.dom0.guest {
            Guest::Fuzz | Guest::Canary => profile.dom0.arguments.clone(),
            _ => format!("console=hvc0 {}", profile.dom0.arguments),
        };
        device_tree::system(template, profile, &dom0, arguments.trim_end(), &nodes)
            .with_context(|| profile.device_tree.clone())
    }

    /// The same from an example, with its files where it wants them.
    fn example(&self, text: &str, profile: &Profile, places: &mut Places) -> Result<String> {
        let dom0 = example::has_dom0(text)
            .then_some([&self.kernel, self.dom0_ramdisk(profile)])
            .into_iter()
            .flatten();
        let domains = profile.domains.iter().map(|domain| match domain.guest {
            Guest::Canary => Ok(&self.canary),
            Guest::Fuzz => Ok(&self.fuzz),
            Guest::Narrow => self.narrow(),
            Guest::Linux | Guest::Hostile => Ok(&self.kernel),
        });
        let files: Vec<&PathBuf> = dom0.map(Ok).chain(domains).collect::<Result<_>>()?;
        let modules = example::modules(text)?;
        ensure!(
            files.len() == modules.len(),
            "{}: {} modules, not {}",
            profile.device_tree,
            modules.len(),
            files.len()
        );
        for (path, address) in files.into_iter().zip(modules) {
            let path = path.clone();
            places.loads.push(Load { path, address });
        }
        example::system(text, profile)
    }

    fn dom0_ramdisk(&self, profile: &Profile) -> &PathBuf {
        match (&self.attack_ramdisk, &self.tools_ramdisk) {
            (Some(ramdisk), _) if profile.xen.attack => ramdisk,
            (_, Some(ramdisk)) if profile.dom0.tools => ramdisk,
            _ => &self.dom0_ramdisk,
        }
    }

    fn template(&self, name: &str) -> Result<String> {
        let path = self.root.join(name);
        fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))
    }
}

/// Hands out addresses and remembers what goes there.
struct Places {
    layout: Layout,
    loads: Vec<Load>,
}

impl Places {
    fn add(&mut self, what: &str, path: &Path) -> Result<layout::Placed> {
        let size = fs::metadata(path)
            .with_context(|| format!("{}: cannot read", path.display()))?
            .len();
        let placed = self.layout.place(what, size)?;
        self.loads.push(Load {
            path: path.to_owned(),
            address: placed.address,
        });
        Ok(placed)
    }
}

/// The programs of this project that every dom0 gets.
fn dom0_programs(site: &Site) -> Result<Vec<(&'static str, PathBuf)>> {
    let programs = DOM0_PROGRAMS.iter();
    programs
        .map(|name| Ok((*name, guests::linux(site, name)?)))
        .collect()
}

fn borrowed<'a>(programs: &'a [(&'static str, PathBuf)]) -> Vec<(&'static str, &'a Path)> {
    let programs = programs.iter();
    programs
        .map(|(name, path)| (*name, path.as_path()))
        .collect()
}

/// The build that a profile's words mean.
fn variant(xen: Xen) -> Variant {
    Variant {
        patched: xen.fuse,
        vmf: xen.fuse,
        debug: xen.debug,
        attack: xen.attack,
    }
}

/// The further configuration that they mean.
fn further(xen: Xen) -> &'static [&'static str] {
    if xen.its || xen.shm {
        // One build for both: neither is in the way of the other.
        &[
            "CONFIG_HAS_ITS=y",
            "CONFIG_STATIC_MEMORY=y",
            "CONFIG_STATIC_SHM=y",
        ]
    } else {
        &[]
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{}: cannot write", path.display()))
}
