//! Which domains are meant. One bad word, and none is.

use xenctrl_ffi::{DomId, DomainStatus, Shared};

use crate::Context;
use crate::failure::Failure;

/// A domain with its name.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its status.
    pub status: DomainStatus,
    /// Its name, where xenstore knows one.
    pub name: Option<String>,
    /// What it shares on purpose; none where Xen knows no sharing.
    pub shared: Option<Vec<Shared>>,
}

impl Domain {
    /// As Xen has it now.
    ///
    /// # Errors
    /// Those of the hypercall.
    pub fn read(context: &Context, id: DomId) -> Result<Self, Failure> {
        Ok(Self {
            status: context.machine.domain(id)?,
            name: context.names.get(id),
            shared: context.machine.shares(id)?,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.status.id
    }

    /// `domain 1 (guest)`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("domain {} ({name})", self.id()),
            None => format!("domain {}", self.id()),
        }
    }

    /// True for a domain that is neither control nor hardware domain.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        !self.status.control && !self.status.hardware
    }

    /// What it is, besides a guest.
    #[must_use]
    pub fn roles(&self) -> Vec<&'static str> {
        let mut roles = Vec::new();
        if self.status.control {
            roles.push("control");
        }
        if self.status.hardware {
            roles.push("hardware");
        }
        roles
    }
}

/// Every domain, by id.
///
/// # Errors
/// Those of the hypercall.
pub fn every(context: &Context) -> Result<Vec<Domain>, Failure> {
    let ids = context.machine.domains()?;
    ids.into_iter()
        .map(|id| Domain::read(context, id))
        .collect()
}

/// The domains that `words` name, each once, in the order of their ids.
///
/// # Errors
/// A word that names none, or several; `all` with no guest.
pub fn select(context: &Context, words: &[String]) -> Result<Vec<Domain>, Failure> {
    let every = every(context)?;
    let mut chosen = vec![false; every.len()];
    for word in words {
        if word == "all" {
            if !every.iter().any(Domain::is_guest) {
                return Err(Failure::NoGuests);
            }
            for (domain, chosen) in every.iter().zip(&mut chosen) {
                *chosen |= domain.is_guest();
            }
        } else {
            chosen[find(&every, word, context.names.known())?] = true;
        }
    }
    let chosen = every.into_iter().zip(chosen).filter(|(_, c)| *c);
    Ok(chosen.map(|(domain, _)| domain).collect())
}

fn find(every: &[Domain], word: &str, names: bool) -> Result<usize, Failure> {
    let unknown = |hint| Failure::NoSuchDomain {
        word: word.into(),
        hint,
    };
    if let Ok(number) = word.parse::<u64>() {
        let id = DomId::new(number).ok_or_else(|| unknown(" (ids go from 0 to 32751)"))?;
        return every
            .iter()
            .position(|d| d.id() == id)
            .ok_or_else(|| unknown(""));
    }
    if !names {
        return Err(unknown(
            " (xenstore does not answer, so domains go by id only)",
        ));
    }
    let mut found = every
        .iter()
        .enumerate()
        .filter(|(_, d)| d.name.as_deref() == Some(word))
        .map(|(index, _)| index);
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => Err(Failure::Ambiguous(word.into())),
        (None, _) => Err(unknown("")),
    }
}
