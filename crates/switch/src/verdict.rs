use weft_types::PortId;

use crate::DropReason;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A copy leaves by each of these ports; there is at least one.
    Forward(Egress<'a>),
    /// It goes no further; the reason has been counted on the port by which it came in.
    Drop(DropReason),
}

/// The ports that a frame leaves by, each once, and never the one by which it came.
///
/// They are parts of lists that all flows of a vSwitch share, so that a flood in a large vSwitch needs no list
/// of its own for every sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Egress<'a> {
    parts: [&'a [PortId]; 3],
}

impl<'a> Egress<'a> {
    pub(crate) fn new(parts: [&'a [PortId]; 3]) -> Self {
        Self { parts }
    }

    /// The ports.
    pub fn iter(&self) -> impl Iterator<Item = PortId> + use<'a> {
        let [a, b, c] = self.parts;
        a.iter().chain(b).chain(c).copied()
    }

    /// How many ports there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether nobody gets the frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
