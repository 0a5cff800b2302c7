//! `vmfctl status`.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use xenctrl_ffi::{MachineStatus, State};

use crate::Context;
use crate::failure::Failure;
use crate::select::{self, Domain};
use crate::share;

/// What holds in a state, and what does not: never more than was blown.
#[must_use]
pub fn meaning(state: State) -> &'static str {
    match state {
        State::Open => "no level holds: Xen can reach the memory of every domain",
        State::Unmapped => {
            "level unmap holds: Xen maps no page of the protected domains.\n\
             The translation tables are still within its reach, so it could map them again; `vmfctl lock` ends that"
        }
        State::Locked => {
            "level lock holds: Xen maps no page of the protected domains, and no translation table.\n\
             Code that runs at EL2 could still load other tables; `vmfctl blow --seal`, after a reboot, ends that"
        }
        State::Sealed => {
            "level seal holds: Xen maps no page of the protected domains, no translation table,\n\
             and no instruction that could change what is translated, but for two gates that check what they load"
        }
    }
}

/// A domain as JSON.
#[must_use]
pub fn domain_json(domain: &Domain) -> Value {
    let mut value = json!({
        "id": domain.id().get(),
        "name": domain.name,
        "roles": domain.roles(),
        "pages": domain.status.pages,
        "protected": domain.status.protected,
        "state": domain.status.state.name(),
        "level": domain.status.state.level(),
    });
    if let Some(shared) = &domain.shared {
        value["shared"] = shared
            .iter()
            .map(|range| json!({ "gfn": format!("{:#x}", range.gfn), "pages": range.pages }))
            .collect();
    }
    value
}

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
    let status = context.machine.status()?;
    let counters = context.machine.counters()?;
    let version = context.machine.version();
    let interface = format!("{}.{}", version >> 16, version & 0xffff);

    if context.json {
        let counters: serde_json::Map<String, Value> = counters
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        println!(
            "{:#}",
            json!({
                "ok": true,
                "transport": context.machine.transport(),
                "interface": interface,
                "state": status.state.name(),
                "level": status.state.level(),
                "directmap": status.directmap,
                "debug": status.debug,
                "firmware_calls": status.firmware_calls,
                "attack_primitives": status.attack,
                "reset_register": status.reset,
                "boot_failed": status.boot_failed,
                "protected_domains": status.protected_domains,
                "xenheap": {
                    "start": format!("{:#x}", status.xenheap_start),
                    "bytes": status.xenheap_bytes,
                    "free": status.xenheap_free,
                },
                "counters": counters,
                "names": context.names.known(),
                "domains": domains.iter().map(domain_json).collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }

    println!(
        "fuse     {}: {}",
        status.state.name(),
        meaning(status.state)
    );
    if let Some(text) = share::exception(&domains) {
        println!("         {text}");
    }
    if let Some(text) = firmware(&status) {
        println!("         {text}");
    }
    print_machine(&status, &interface, context.machine.transport());
    if status.boot_failed {
        println!(
            "WARNING  the fuse was to be blown at boot (vmf=) and was not: guests have run unprotected.\n         \
             Xen's log (xl dmesg) says what was in the way."
        );
    }
    if status.attack {
        println!(
            "WARNING  attack primitives are built in (CONFIG_VMF_ATTACK): dom0 can read, write and call all of Xen.\n         \
             This build is for the tests of the fuse. Use one without the option."
        );
    }
    for (name, value) in counters.iter().filter(|(_, value)| *value != 0) {
        println!("         {value:>12} {name}");
    }
    if !context.names.known() {
        println!("names    none: xenstore does not answer, domains go by id");
    }
    println!("{}", table(&domains));
    share::print(&domains);
    Ok(())
}

/// What is to be said of firmware calls, once the machine is sealed.
#[must_use]
pub fn firmware(status: &MachineStatus) -> Option<&'static str> {
    (status.state == State::Sealed).then_some(if status.firmware_calls {
        "Firmware calls were kept: code at EL2 can have firmware start a CPU with its MMU off (vector V13 is open)"
    } else if status.reset {
        "Firmware calls are gone: Xen cannot switch the machine off, and resets it by the register of vmf-reset="
    } else {
        "Firmware calls are gone: Xen can neither reset the machine nor switch it off"
    })
}

fn print_machine(status: &MachineStatus, interface: &str, transport: &str) {
    let directmap = if status.directmap { "yes" } else { "no" };
    let build = if status.debug { "debug" } else { "release" };
    println!("xen      interface {interface} by {transport}, directmap={directmap}, {build} build");
    println!(
        "xenheap  {} MiB at {:#x}, {} MiB free",
        status.xenheap_bytes >> 20,
        status.xenheap_start,
        status.xenheap_free >> 20
    );
}

fn table(domains: &[Domain]) -> Table {
    let mut table = Table::new();
    // An older Xen knows no sharing, so nothing is said of it.
    let sharing = domains.iter().any(|d| d.shared.is_some());
    let mut header = vec!["domain", "name", "role", "MiB", "protected", "level"];
    if sharing {
        header.push("shared pages");
    }
    table.load_preset(presets::NOTHING).set_header(header);
    for domain in domains {
        let roles = domain.roles();
        let mut row = vec![
            domain.id().to_string(),
            domain.name.clone().unwrap_or_else(|| "-".into()),
            if roles.is_empty() {
                "guest".into()
            } else {
                roles.join(", ")
            },
            (domain.status.pages >> 8).to_string(),
            if domain.status.protected { "yes" } else { "no" }.into(),
            domain.status.state.level().unwrap_or("none").into(),
        ];
        if sharing {
            let pages = domain.shared.iter().flatten().map(|range| range.pages);
            row.push(pages.sum::<u64>().to_string());
        }
        table.add_row(row);
    }
    for number in [0, 3, 6] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
