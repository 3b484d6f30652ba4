/// What a port may do beyond the ordinary; everything is denied by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Whether it may send from MAC addresses that are not registered for it.
    pub forged_macs: bool,
    /// Whether its guest may register other MAC addresses than the configured ones.
    pub mac_changes: bool,
    /// Whether it also hears the unicast frames that are forwarded to others. Where the receive filter is known, its
    /// guest must have asked for it too.
    pub promiscuous: bool,
}
