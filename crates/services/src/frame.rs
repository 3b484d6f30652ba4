use weft_wire::Offload;

/// A frame from a gateway to a machine on its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFrame {
    /// The bytes, from the destination MAC on.
    pub bytes: Vec<u8>,
    /// What the receiver still has to do to it.
    pub offload: Offload,
}
