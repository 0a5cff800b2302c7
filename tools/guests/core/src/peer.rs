//! What a canary does together with another domain: event channels and grants.
//!
//! Lines of the console as in [`crate::script`]: `name[:argument...]`.

/// Something that takes two domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Allocates a port that this domain may bind.
    Port(u16),
    /// Binds a port of that domain.
    Bind(u16, u32),
    /// Sends an event through a port.
    Notify(u32),
    /// Waits for an event of a port, for so many seconds at most.
    Wait(u32, u64),
    /// Has Xen map its grant table.
    Table,
    /// Grants that domain a page: one that can be shared, by its index, or the
    /// one behind them.
    Permit(u16, u64),
    /// Says the first word of the page that others are granted, and writes one
    /// there if it is given.
    Word(Option<u64>),
    /// Copies a word from what that domain grants by this reference.
    Fetch(u16, u32),
    /// Copies a word to it.
    Put(u16, u32, u64),
    /// Maps it.
    Map(u16, u32),
    /// Says the first word of what is mapped, and writes one there if it is
    /// given.
    Mapped(Option<u64>),
    /// Ends the mapping.
    Unmap,
}

/// Longest wait, in seconds.
const LONGEST: u64 = 60;

impl Peer {
    /// The name it is called by, and printed with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Port(_) => "port",
            Self::Bind(..) => "bind",
            Self::Notify(_) => "notify",
            Self::Wait(..) => "wait",
            Self::Table => "table",
            Self::Permit(..) => "permit",
            Self::Word(_) => "word",
            Self::Fetch(..) => "fetch",
            Self::Put(..) => "put",
            Self::Map(..) => "map",
            Self::Mapped(_) => "mapped",
            Self::Unmap => "unmap",
        }
    }

    /// From a name and its arguments, none of them behind one that is missing.
    #[must_use]
    pub fn parse(name: &str, arguments: [Option<u64>; 4]) -> Option<Self> {
        let given = arguments.iter().flatten().count();
        let domain = || u16::try_from(arguments[0]?).ok();
        let first = || u32::try_from(arguments[0]?).ok();
        let second = || u32::try_from(arguments[1]?).ok();
        let (counts, peer) = match name {
            "port" => (1..=1, Self::Port(domain()?)),
            "bind" => (2..=2, Self::Bind(domain()?, second()?)),
            "notify" => (1..=1, Self::Notify(first()?)),
            "wait" => (1..=2, Self::Wait(first()?, arguments[1].unwrap_or(20))),
            "table" => (0..=0, Self::Table),
            "permit" => (2..=2, Self::Permit(domain()?, arguments[1]?)),
            "word" => (0..=1, Self::Word(arguments[0])),
            "fetch" => (2..=2, Self::Fetch(domain()?, second()?)),
            "put" => (3..=3, Self::Put(domain()?, second()?, arguments[2]?)),
            "map" => (2..=2, Self::Map(domain()?, second()?)),
            "mapped" => (0..=1, Self::Mapped(arguments[0])),
            "unmap" => (0..=0, Self::Unmap),
            _ => return None,
        };
        let patient = !matches!(peer, Self::Wait(_, seconds) if seconds > LONGEST);
        (counts.contains(&given) && patient).then_some(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Action;

    #[test]
    fn each_has_the_name_it_is_called_by() {
        for line in [
            "port:2",
            "bind:2:1",
            "notify:1",
            "wait:1",
            "table",
            "permit:2:1",
            "word",
            "fetch:2:17",
            "put:2:17:5",
            "map:2:17",
            "mapped",
            "unmap",
        ] {
            let action = Action::parse(line).unwrap();
            assert_eq!(Some(action.name()), line.split(':').next());
            assert!(matches!(action, Action::Peer(_)), "{line}");
        }
    }

    #[test]
    fn arguments_are_counted_and_fit() {
        let peer = |line| match Action::parse(line) {
            Some(Action::Peer(peer)) => Some(peer),
            _ => None,
        };
        assert_eq!(peer("wait:3"), Some(Peer::Wait(3, 20)));
        assert_eq!(peer("wait:3:1"), Some(Peer::Wait(3, 1)));
        assert_eq!(peer("word:0x10"), Some(Peer::Word(Some(16))));
        assert_eq!(peer("put:1:17:9"), Some(Peer::Put(1, 17, 9)));
        for line in [
            "port",
            "port:70000",
            "bind:2",
            "wait:3:61",
            "table:1",
            "put:1:17",
            "fetch:1:0x100000000",
            "permit:1:2:3",
        ] {
            assert_eq!(peer(line), None, "{line}");
        }
    }
}
