/// What a port may do beyond the ordinary; everything is denied by default. Gateways and uplinks are trusted: of these
/// only [`promiscuous`](Self::promiscuous) means something to an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Whether it may send from MAC addresses that are not registered for it.
    pub forged_macs: bool,
    /// Whether it may send from IP addresses that are not its own.
    pub forged_ips: bool,
    /// Whether it may say in ARP that it has what is not its own.
    pub forged_arp: bool,
    /// Whether it may say in neighbour discovery that it has what is not its own.
    pub forged_neighbours: bool,
    /// Whether its guest may register other MAC addresses than the configured ones.
    pub mac_changes: bool,
    /// Whether it also hears the unicast frames that are forwarded to others. Where the receive filter is known, its
    /// guest must have asked for it too.
    pub promiscuous: bool,
    /// Whether it may be a DHCP server or relay.
    pub dhcp_server: bool,
    /// Whether it may be a router that advertises itself.
    pub router_advertisements: bool,
}
