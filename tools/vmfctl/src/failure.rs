//! What went wrong, in words, as JSON, and as an exit code (`cli.rs` lists
//! them for people).

use serde_json::{Value, json};
use xenctrl_ffi::{DomId, Error, OpenError, Refusal};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Xen, or the way to it.
    #[error(transparent)]
    Xen(#[from] Error),
    /// A word that names no domain.
    #[error(
        "there is no domain \"{word}\"{hint}; nothing was done. `vmfctl status` lists the domains"
    )]
    NoSuchDomain {
        /// What was given.
        word: String,
        /// Why a name may not be known.
        hint: &'static str,
    },
    /// Two domains have the name.
    #[error("several domains are named \"{0}\"; give the id. Nothing was done")]
    Ambiguous(String),
    /// `all`, and there is none.
    #[error("there is no domain to protect but the control and hardware domains; nothing was done")]
    NoGuests,
    /// Obstacles, which have been printed.
    #[error("something stands in the way, see above; nothing was done")]
    Obstacles,
    /// Locked, with other domains.
    #[error(
        "the machine is locked already, and domain {} is not protected: no further domain can be, until the next boot. \
         Nothing was done",
        list(.0)
    )]
    LockedWithoutThese(Vec<DomId>),
    /// Locked, and to be sealed.
    #[error(
        "the machine is {0} already, and what that has left cannot be removed any more: \
         its tables are out of reach. Boot again, and use `vmfctl blow --seal`. Nothing was done"
    )]
    TooLateToSeal(&'static str),
    /// Nobody has confirmed, nor said `--yes`.
    #[error(
        "this cannot be undone and nobody is there to confirm it (no terminal); use --yes. Nothing was done"
    )]
    NoTerminal,
    /// Asked, and not confirmed.
    #[error("not confirmed; nothing was done")]
    NotConfirmed,
    /// More than one domain, where one is needed.
    #[error("\"{0}\" is more than one domain; pages are shared domain by domain. Nothing was done")]
    OneDomain(String),
    /// This Xen has no `XENVMF_share`.
    #[error(
        "this Xen cannot share pages of a protected domain (interface 1.0); use one that is built from a newer series. \
         Nothing was done"
    )]
    NoSharing,
    /// Xen refused to share pages.
    #[error("{what}: {}. Nothing was done", remedy(*.refusal, *.protected))]
    NotShared {
        /// What was asked.
        what: String,
        /// Xen's answer.
        refusal: Refusal,
        /// The domain is protected.
        protected: bool,
    },
    /// Xen refused half-way; what is done stays done.
    #[error("{error}. Done before, and not undone: {done}")]
    HalfWay {
        /// What Xen said.
        error: Error,
        /// What has been done.
        done: String,
    },
    /// Xen reports success, its status does not.
    #[error("Xen reported success, but {0}; do not rely on the fuse")]
    NotTrue(String),
}

/// Why pages cannot be shared, and what to do about it.
fn remedy(refusal: Refusal, protected: bool) -> String {
    match refusal {
        Refusal::NotControlDomain if protected => "the domain is protected, and only it can give up what it was promised; \
             let it share the pages itself, or start it anew and share them before `vmfctl protect`",
        Refusal::NotRam => "a guest frame of these is not RAM that the domain owns and may write; \
             name frames of its own memory (guest physical address / 4096)",
        Refusal::NoSpace => "that makes more than 32 runs of adjacent machine frames; \
             name fewer pages that lie together, or start the domain anew",
        Refusal::Already => "a page of these is shared already; name the others (`vmfctl status` lists what is shared)",
        Refusal::Locked => "the machine is locked; boot again, and share before `vmfctl lock`, `seal` or `blow`",
        Refusal::CpusOffline => "the domain's memory has changed meanwhile; try again",
        Refusal::ControlDomain => "the control and hardware domains are never protected, so all of them is in Xen's reach anyway; \
             name another domain",
        Refusal::NoMemory => "there is no memory for the domain's page tables; give it a larger p2m pool (dom0less: xen,domain-p2m-mem-mb), \
             or share pages that lie together",
        other => return other.to_string(),
    }
    .to_owned()
}

/// Ids between commas.
#[must_use]
pub fn list(ids: &[DomId]) -> String {
    let words: Vec<String> = ids.iter().map(ToString::to_string).collect();
    words.join(", ")
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            Self::Xen(error) | Self::HalfWay { error, .. } => exit_of(error),
            Self::NoSharing => 4,
            Self::NotShared {
                refusal: Refusal::NotControlDomain,
                protected: true,
                ..
            } => 1,
            Self::NotShared { refusal, .. } => exit_of_refusal(*refusal),
            Self::NoSuchDomain { .. }
            | Self::OneDomain(_)
            | Self::Ambiguous(_)
            | Self::NoGuests
            | Self::Obstacles
            | Self::LockedWithoutThese(_)
            | Self::TooLateToSeal(_)
            | Self::NoTerminal
            | Self::NotConfirmed => 1,
            Self::NotTrue(_) => 6,
        }
    }

    /// A word for programs, stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Xen(error) | Self::HalfWay { error, .. } => match error {
                Error::Open(OpenError::NoXen) => "no-xen",
                Error::Open(OpenError::NoPrivcmd) => "no-privcmd",
                Error::Open(OpenError::NotPermitted) => "not-permitted",
                Error::Open(OpenError::Io(_)) => "io",
                Error::NoVmf => "no-vmf",
                Error::Version(_) => "version",
                Error::Refused { refusal, .. } => refusal.code(),
                Error::Unexpected { .. } => "unexpected",
            },
            Self::NoSharing => "no-sharing",
            Self::NotShared {
                refusal: Refusal::NotControlDomain,
                protected: true,
                ..
            } => "protected",
            Self::NotShared { refusal, .. } => refusal.code(),
            Self::OneDomain(_) => "one-domain",
            Self::NoSuchDomain { .. } => "no-such-domain",
            Self::Ambiguous(_) => "ambiguous",
            Self::NoGuests => "no-guests",
            Self::Obstacles => "obstacles",
            Self::LockedWithoutThese(_) | Self::TooLateToSeal(_) => "locked",
            Self::NoTerminal => "no-terminal",
            Self::NotConfirmed => "not-confirmed",
            Self::NotTrue(_) => "not-true",
        }
    }

    /// True if the command has printed its JSON, which says it all.
    #[must_use]
    pub fn printed(&self) -> bool {
        matches!(self, Self::Obstacles)
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut error = json!({
            "code": self.code(), "message": self.to_string(), "exit": self.exit(),
        });
        if let Self::Xen(Error::Refused { refusal, .. })
        | Self::HalfWay {
            error: Error::Refused { refusal, .. },
            ..
        }
        | Self::NotShared { refusal, .. } = self
        {
            error["errno"] = refusal.errno().into();
        }
        json!({ "ok": false, "error": error })
    }
}

fn exit_of(error: &Error) -> u8 {
    match error {
        Error::Open(OpenError::NoXen | OpenError::NoPrivcmd) => 3,
        Error::Open(OpenError::NotPermitted) => 5,
        Error::Open(OpenError::Io(_)) => 3,
        Error::NoVmf | Error::Version(_) => 4,
        Error::Unexpected { .. } => 6,
        Error::Refused { refusal, .. } => exit_of_refusal(*refusal),
    }
}

fn exit_of_refusal(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Unknown => 4,
        Refusal::NotControlDomain => 5,
        Refusal::Invalid | Refusal::NoMemory | Refusal::PlanRejected | Refusal::Other(_) => 6,
        Refusal::NoSuchDomain
        | Refusal::Dying
        | Refusal::Unfinished
        | Refusal::ControlDomain
        | Refusal::Already
        | Refusal::Locked
        | Refusal::Nothing
        | Refusal::CpusOffline
        | Refusal::SharedPages
        | Refusal::PvPages
        | Refusal::Its
        | Refusal::Iommu
        | Refusal::TraceUnits
        | Refusal::TooManyDomains
        | Refusal::NeedsFirmware
        | Refusal::UnlikeCpus
        | Refusal::NotRam
        | Refusal::NoSpace
        | Refusal::Devices => 1,
    }
}
