//! The safe API: one machine, its state, its domains.

use xen_vmf_abi as abi;

use crate::answer::{
    Counters, DomId, DomainStatus, Error, MachineStatus, Obstacle, Shared, State, Undecoded,
};
use crate::refusal::Refusal;
use crate::transport::{self, Transport};

/// No domain: the machine (public/xen.h).
const DOMID_INVALID: u64 = 0x7ff4;
/// The calling domain (public/xen.h).
const DOMID_SELF: u64 = 0x7ff0;

/// Most attempts at reading a value that changes while it is read.
const ATTEMPTS: usize = 8;

/// Version of the interface from which on pages can be shared.
const SHARING: u32 = 0x0001_0001;

/// A machine with a fuse.
pub struct Machine {
    transport: Box<dyn Transport>,
    version: u32,
}

impl Machine {
    /// Finds Xen, and checks that its fuse speaks this version.
    ///
    /// # Errors
    /// No way to Xen, no fuse, another version, no privilege.
    pub fn open() -> Result<Self, Error> {
        Self::with(transport::open()?)
    }

    /// As [`open`](Self::open), by a transport that is there already.
    ///
    /// # Errors
    /// No fuse, another version, no privilege.
    pub fn with(transport: Box<dyn Transport>) -> Result<Self, Error> {
        let mut machine = Self {
            transport,
            version: 0,
        };
        machine.version = machine.ask_version()?;
        if machine.version >> 16 != abi::XENVMF_INTERFACE_VERSION >> 16 {
            return Err(Error::Version(machine.version));
        }
        Ok(machine)
    }

    /// Which way hypercalls go.
    #[must_use]
    pub fn transport(&self) -> &'static str {
        self.transport.name()
    }

    fn call(&self, what: &dyn Fn() -> String, arguments: [u64; 4]) -> Result<u32, Error> {
        self.transport
            .vmf_op(arguments)
            .map_err(|errno| Error::Refused {
                what: what(),
                refusal: Refusal::from_errno(errno),
            })
    }

    /// Version of the interface: major in bits 30:16, minor in bits 15:0.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    fn ask_version(&self) -> Result<u32, Error> {
        let arguments = [abi::XENVMF_version.into(), DOMID_SELF, 0, 0];
        match self.call(&|| "version of the fuse".into(), arguments) {
            Err(Error::Refused {
                refusal: Refusal::Unknown,
                ..
            }) => Err(Error::NoVmf),
            other => other,
        }
    }

    /// How often `obstacle` stands in the way, of `domain` or of the machine.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn preflight(&self, domain: Option<DomId>, obstacle: Obstacle) -> Result<u32, Error> {
        let what = || match domain {
            Some(id) => format!("checking domain {id} for {}", obstacle.code()),
            None => format!("checking the machine for {}", obstacle.code()),
        };
        let target = target(domain);
        self.call(
            &what,
            [
                abi::XENVMF_preflight.into(),
                target,
                obstacle.number().into(),
                0,
            ],
        )
    }

    /// Takes the pages of `domain` out of the directmap, for ever.
    ///
    /// # Errors
    /// Those of the hypercall; nothing has changed then.
    pub fn protect(&self, domain: DomId) -> Result<(), Error> {
        let what = || format!("protecting domain {domain}");
        self.call(&what, [abi::XENVMF_protect.into(), domain.0.into(), 0, 0])?;
        Ok(())
    }

    /// Removes every mapping of a translation table, for ever.
    ///
    /// # Errors
    /// Those of the hypercall; nothing has changed then.
    pub fn lock(&self) -> Result<(), Error> {
        self.call(
            &|| "locking".into(),
            [abi::XENVMF_lock.into(), DOMID_INVALID, 0, 0],
        )?;
        Ok(())
    }

    /// Locks, and removes what could undo the lock. Firmware can still be
    /// called afterwards if `keep_firmware_calls`.
    ///
    /// # Errors
    /// Those of the hypercall; nothing has changed then.
    pub fn seal(&self, keep_firmware_calls: bool) -> Result<(), Error> {
        let flags = if keep_firmware_calls {
            abi::XENVMF_seal_keep_firmware_calls
        } else {
            0
        };
        let arguments = [abi::XENVMF_seal.into(), DOMID_INVALID, flags.into(), 0];
        self.call(&|| "sealing".into(), arguments)?;
        Ok(())
    }

    /// Reads a value of up to 64 bits in words of 31, again where it has
    /// changed meanwhile.
    fn wide(
        &self,
        what: &dyn Fn() -> String,
        cmd: u32,
        target: u64,
        item: u32,
    ) -> Result<u64, Error> {
        let word = |w: u64| -> Result<u64, Error> {
            let value = self.call(what, [cmd.into(), target, item.into(), w])?;
            Ok(u64::from(value))
        };
        let mut value = 0;
        for _ in 0..ATTEMPTS {
            let high = (word(2)?, word(1)?);
            value = (high.0 << 62) | (high.1 << 31) | word(0)?;
            if high == (word(2)?, word(1)?) {
                break;
            }
        }
        Ok(value)
    }

    fn item(&self, domain: Option<DomId>, item: u32, name: &str) -> Result<u64, Error> {
        let what = || match domain {
            Some(id) => format!("reading {name} of domain {id}"),
            None => format!("reading {name}"),
        };
        self.wide(&what, abi::XENVMF_status, target(domain), item)
    }

    fn state(&self, domain: Option<DomId>, item: u32) -> Result<State, Error> {
        let value = self.item(domain, item, "state")?;
        State::from_number(value).ok_or_else(|| Error::Unexpected {
            what: "reading the state".into(),
            value,
        })
    }

    /// The machine's status.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn status(&self) -> Result<MachineStatus, Error> {
        let features = self.item(None, abi::XENVMF_status_features, "features")?;
        let has = |bit: u32| features & u64::from(bit) != 0;
        Ok(MachineStatus {
            state: self.state(None, abi::XENVMF_status_state)?,
            directmap: has(abi::XENVMF_feature_directmap),
            debug: has(abi::XENVMF_feature_debug),
            firmware_calls: self.item(None, abi::XENVMF_status_firmware_calls, "firmware calls")?
                != 0,
            attack: has(abi::XENVMF_feature_attack),
            reset: has(abi::XENVMF_feature_reset),
            boot_failed: has(abi::XENVMF_feature_boot_failed),
            protected_domains: self.item(
                None,
                abi::XENVMF_status_protected_domains,
                "protected domains",
            )?,
            xenheap_start: self.item(None, abi::XENVMF_status_xenheap_start, "xenheap")?,
            xenheap_bytes: self.item(None, abi::XENVMF_status_xenheap_bytes, "xenheap")?,
            xenheap_free: self.item(None, abi::XENVMF_status_xenheap_free, "xenheap")?,
        })
    }

    /// The status of a domain.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn domain(&self, id: DomId) -> Result<DomainStatus, Error> {
        let item = |item, name| self.item(Some(id), item, name);
        Ok(DomainStatus {
            id,
            protected: item(abi::XENVMF_status_domain_protected, "protection")? != 0,
            state: self.state(Some(id), abi::XENVMF_status_domain_state)?,
            pages: item(abi::XENVMF_status_domain_pages, "pages")?,
            control: item(abi::XENVMF_status_domain_control, "role")? != 0,
            hardware: item(abi::XENVMF_status_domain_hardware, "role")? != 0,
        })
    }

    /// What the domain shares on purpose, by guest frame; none where this Xen
    /// knows no sharing (interface 1.0).
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn shares(&self, id: DomId) -> Result<Option<Vec<Shared>>, Error> {
        if self.version < SHARING {
            return Ok(None);
        }
        let item = |item, name| self.item(Some(id), item, name);
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let count = item(abi::XENVMF_status_domain_shares, "shared extents")?;
            if count > abi::XENVMF_shares_max.into() {
                return Err(Error::Unexpected {
                    what: format!("reading what domain {id} shares"),
                    value: count,
                });
            }
            let extents: Result<Vec<_>, Error> = (0..count as u32)
                .map(|index| {
                    let of = |number| item(number | (index << 16), "a shared extent");
                    Ok(Shared {
                        gfn: of(abi::XENVMF_status_share_gfn)?,
                        pages: of(abi::XENVMF_status_share_pages)?,
                    })
                })
                .collect();
            let mut extents = match extents {
                // Shorter than it was: read it again.
                Err(Error::Refused {
                    refusal: Refusal::Nothing,
                    ..
                }) => continue,
                other => other?,
            };
            last = item(abi::XENVMF_status_domain_shared_pages, "shared pages")?;
            if extents.iter().map(|e| e.pages).sum::<u64>() == last {
                extents.sort_by_key(|e| e.gfn);
                return Ok(Some(merged(extents)));
            }
        }
        Err(Error::Unexpected {
            what: format!("reading what domain {id} shares, as extents and as a number of pages"),
            value: last,
        })
    }

    /// Accesses of the domain that Xen could not decode; none where this Xen
    /// does not count them (interface 1.0).
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn undecoded(&self, id: DomId) -> Result<Option<Undecoded>, Error> {
        if self.version < SHARING {
            return Ok(None);
        }
        let item = |item, name| self.item(Some(id), item, name);
        Ok(Some(Undecoded {
            count: item(abi::XENVMF_status_domain_undecoded, "undecoded accesses")?,
            pc: item(abi::XENVMF_status_domain_undecoded_pc, "undecoded accesses")?,
        }))
    }

    /// Shares guest frames of `domain`, for ever; see `XENVMF_share`.
    ///
    /// # Errors
    /// Those of the hypercall; nothing has changed then.
    pub fn share(&self, domain: DomId, range: Shared) -> Result<(), Error> {
        let what = || {
            format!(
                "sharing pages of domain {domain}, {} from guest frame {:#x}",
                range.pages, range.gfn
            )
        };
        let command = abi::XENVMF_share.into();
        self.call(&what, [command, domain.0.into(), range.gfn, range.pages])?;
        Ok(())
    }

    /// All counters.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for (number, value) in counters.values.iter_mut().enumerate() {
            let what = || format!("reading counter {}", Counters::NAMES[number]);
            *value = self.wide(&what, abi::XENVMF_counters, DOMID_INVALID, number as u32)?;
        }
        Ok(counters)
    }

    /// Ids of all domains, in order.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn domains(&self) -> Result<Vec<DomId>, Error> {
        let mut ids = Vec::new();
        let mut from = 0;
        loop {
            let arguments = [abi::XENVMF_next_domain.into(), DOMID_INVALID, from, 0];
            match self.call(&|| "listing domains".into(), arguments) {
                Ok(value) => match DomId::new(value.into()).filter(|id| u64::from(id.0) >= from) {
                    Some(id) => {
                        ids.push(id);
                        from = u64::from(id.0) + 1;
                    }
                    None => {
                        return Err(Error::Unexpected {
                            what: "listing domains".into(),
                            value: value.into(),
                        });
                    }
                },
                Err(Error::Refused {
                    refusal: Refusal::Nothing,
                    ..
                }) => return Ok(ids),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Extents that follow one another, as one.
fn merged(sorted: Vec<Shared>) -> Vec<Shared> {
    let mut merged: Vec<Shared> = Vec::new();
    for next in sorted {
        match merged.last_mut() {
            Some(last) if last.gfn + last.pages == next.gfn => last.pages += next.pages,
            _ => merged.push(next),
        }
    }
    merged
}

fn target(domain: Option<DomId>) -> u64 {
    domain.map_or(DOMID_INVALID, |id| id.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::Recorded;

    fn machine(recording: &str) -> Result<Machine, Error> {
        Machine::with(Box::new(Recorded::parse(recording)))
    }

    const VERSION: &str = "0 32752 0 0 = 65536\n";

    #[test]
    fn no_fuse_other_version_and_no_privilege_are_told_apart() {
        assert!(matches!(machine("0 32752 0 0 = -38"), Err(Error::NoVmf)));
        assert!(matches!(
            machine("0 32752 0 0 = 131072"),
            Err(Error::Version(0x2_0000))
        ));
        assert!(machine("0 32752 0 0 = 65537").is_ok());
        let refused = machine("0 32752 0 0 = -1").err();
        assert!(matches!(
            refused,
            Some(Error::Refused {
                refusal: Refusal::NotControlDomain,
                ..
            })
        ));
    }

    #[test]
    fn domains_are_listed_until_there_are_no_more() {
        let m = machine(&format!(
            "{VERSION}6 32756 0 0 = 0\n6 32756 1 0 = 3\n6 32756 4 0 = -2\n"
        ))
        .unwrap();
        assert_eq!(
            m.domains()
                .unwrap()
                .iter()
                .map(|d| d.get())
                .collect::<Vec<_>>(),
            [0, 3]
        );
    }

    #[test]
    fn a_list_that_goes_backwards_is_an_error() {
        let m = machine(&format!("{VERSION}6 32756 0 0 = 1\n6 32756 2 0 = 1\n")).unwrap();
        assert!(matches!(
            m.domains(),
            Err(Error::Unexpected { value: 1, .. })
        ));
    }

    #[test]
    fn wide_values_are_put_together_and_read_again_when_they_change() {
        // Item 3: 2^62 + 2^31 + 5; its second word is different at first.
        let m = machine(&format!(
            "{VERSION}4 32756 3 0 = 5\n4 32756 3 1 = 0\n4 32756 3 1 = 1\n4 32756 3 2 = 1\n"
        ))
        .unwrap();
        let value = m.item(None, 3, "x").unwrap();
        assert_eq!(value, (1 << 62) + (1 << 31) + 5);
    }

    #[test]
    fn every_obstacle_and_counter_of_the_interface_is_known() {
        let mut numbers: Vec<u32> = Obstacle::DOMAIN
            .iter()
            .chain(&Obstacle::MACHINE)
            .map(|o| o.number())
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..abi::XENVMF_obstacle_end));
        let name = |n: u32| Counters::NAMES[n as usize];
        assert_eq!(name(abi::XENVMF_counter_lock_stopped_ns), "lock_stopped_ns");
        assert_eq!(name(abi::XENVMF_counter_window_tlbi), "window_tlbi");
        assert_eq!(name(abi::XENVMF_counter_leaked_pages), "leaked_pages");
    }

    const SHARES: &str = "0 32752 0 0 = 65537\n4 1 22 0 = 3\n4 1 22 1 = 0\n4 1 22 2 = 0\n";

    /// Answers for extent `index`.
    fn extent(index: u64, gfn: u64, pages: u64) -> String {
        let item = |item: u64, value: u64| {
            let item = item | (index << 16);
            format!("4 1 {item} 0 = {value}\n4 1 {item} 1 = 0\n4 1 {item} 2 = 0\n")
        };
        item(32, gfn) + &item(33, pages)
    }

    #[test]
    fn what_is_shared_is_sorted_and_merged() {
        let text = [
            SHARES.to_owned(),
            extent(0, 0x105, 1),
            extent(1, 0x200, 16),
            extent(2, 0x103, 2),
            "4 1 21 0 = 19\n4 1 21 1 = 0\n4 1 21 2 = 0\n".to_owned(),
        ];
        let m = machine(&text.concat()).unwrap();
        let list = m.shares(DomId(1)).unwrap().unwrap();
        let range = |gfn, pages| Shared { gfn, pages };
        assert_eq!(list, [range(0x103, 3), range(0x200, 16)]);
    }

    #[test]
    fn a_list_that_contradicts_itself_is_an_error() {
        let all = [extent(0, 1, 1), extent(1, 3, 1), extent(2, 5, 1)].concat();
        let sum = "4 1 21 0 = 4\n4 1 21 1 = 0\n4 1 21 2 = 0\n";
        let m = machine(&format!("{SHARES}{all}{sum}")).unwrap();
        assert!(matches!(
            m.shares(DomId(1)),
            Err(Error::Unexpected { value: 4, .. })
        ));
    }

    #[test]
    fn an_older_xen_is_not_asked_for_what_it_does_not_know() {
        // A call that is not in the recording would end the test.
        let m = machine(VERSION).unwrap();
        assert_eq!(m.shares(DomId(1)).unwrap(), None);
        assert_eq!(m.undecoded(DomId(1)).unwrap(), None);
    }

    #[test]
    fn reserved_ids_are_no_domains() {
        assert_eq!(DomId::new(0x7fef).map(DomId::get), Some(0x7fef));
        assert_eq!(DomId::new(0x7ff0), None);
        assert_eq!(DomId::new(0x1_0000), None);
    }
}
