//! Worlds and frames, small enough that things happen in them.

use proptest::prelude::*;
use weft_switch::{Config, Policy, PortConfig, Role, VSwitchConfig, VSwitchId};
use weft_types::{MacAddr, PortId, Provenance};

/// Addresses by number: stations, and a few of every other kind.
pub(crate) fn mac(number: u8) -> MacAddr {
    match number {
        0 => MacAddr::ZERO,
        248 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x10]), // the first that is not reserved
        249 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x0f]), // the last that is
        250 => MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x00]),
        251..=253 => MacAddr::new([0x33, 0x33, 0, 0, 0, number]),
        254.. => MacAddr::BROADCAST,
        station => MacAddr::new([2, 0, 0, 0, 0, station]),
    }
}

/// A frame at a port.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) ingress: PortId,
    pub(crate) head: Vec<u8>,
    pub(crate) len: usize,
}

impl Frame {
    /// A short frame between two addresses of [`mac`].
    pub(crate) fn new(ingress: u32, src: u8, dst: u8, tag: Option<(u16, u16)>) -> Self {
        let mut head = [mac(dst).octets(), mac(src).octets()].concat();
        if let Some((kind, control)) = tag {
            head.extend(kind.to_be_bytes());
            head.extend(control.to_be_bytes());
        }
        head.extend([0x08, 0x00]);
        head.resize(60, 0);
        Self { ingress: PortId(ingress), len: head.len(), head }
    }
}

/// How many ports and vSwitches worlds have at most.
const PORTS: u32 = 12;
const VSWITCHES: u32 = 3;

prop_compose! {
    fn any_port(id: u32)(
        vswitch in 0..VSWITCHES,
        role in prop::sample::select(vec![Role::Vnic, Role::Vnic, Role::Gateway, Role::HostAdapter, Role::Uplink]),
        macs in prop::collection::btree_set(1u8..20, 0..3),
        forged_macs in prop::bool::weighted(0.3),
        promiscuous in prop::bool::weighted(0.2),
    ) -> PortConfig {
        PortConfig {
            id: PortId(id),
            name: format!("p{id}").parse().unwrap(),
            vswitch: VSwitchId(vswitch),
            role,
            macs: macs.into_iter().map(mac).collect(),
            policy: Policy { forged_macs, promiscuous },
            provenance: Provenance::file("lab.toml", id),
        }
    }
}

/// The vSwitches of all worlds.
pub(crate) fn vswitches() -> Vec<VSwitchConfig> {
    let vswitch = |id| VSwitchConfig {
        id: VSwitchId(id),
        name: format!("n{id}").parse().unwrap(),
        provenance: Provenance::file("lab.toml", 100 + id),
    };
    (0..VSWITCHES).map(vswitch).collect()
}

/// Ports as they come: two may have one address, or one vSwitch two uplinks.
pub(crate) fn any_ports() -> impl Strategy<Value = Vec<PortConfig>> {
    let ids = prop::sample::subsequence((0..PORTS).collect::<Vec<_>>(), 0..=PORTS as usize).prop_shuffle();
    ids.prop_flat_map(|ids| ids.into_iter().map(any_port).collect::<Vec<_>>())
}

/// Worlds that are right: of two ports that cannot both be, the second gives way.
pub(crate) fn any_config() -> impl Strategy<Value = Config> {
    any_ports().prop_map(|ports| {
        let mut config = Config { generation: 0, vswitches: vswitches(), ports: Vec::new() };
        for mut port in ports {
            let rivals = || config.ports.iter().filter(|rival| rival.vswitch == port.vswitch);
            let taken: Vec<_> = rivals().flat_map(|rival| rival.macs.clone()).collect();
            if port.role == Role::Uplink && rivals().any(|rival| rival.role == Role::Uplink) {
                port.role = Role::Vnic;
            }
            port.macs.retain(|mac| !taken.contains(mac));
            config.ports.push(port);
        }
        config
    })
}

prop_compose! {
    /// Mostly frames that could pass, and some of every kind that cannot.
    pub(crate) fn any_frame()(
        ingress in 0..=PORTS,
        src in prop_oneof![9 => 1u8..20, 1 => any::<u8>()],
        dst in prop_oneof![6 => 0u8..24, 2 => 248u8..],
        tag in prop::option::weighted(0.1, (prop::sample::select(vec![0x8100, 0x88a8]), any::<u16>())),
        cut in prop::option::weighted(0.05, 0usize..20),
        more in prop_oneof![8 => Just(0), 2 => 0usize..70_000],
    ) -> Frame {
        let mut frame = Frame::new(ingress, src, dst, tag);
        frame.head.truncate(cut.unwrap_or(usize::MAX));
        frame.len = frame.head.len() + more;
        frame
    }
}

/// A life: configurations, and the frames that come under each.
pub(crate) fn any_life() -> impl Strategy<Value = Vec<(Config, Vec<Frame>)>> {
    prop::collection::vec((any_config(), prop::collection::vec(any_frame(), 1..80)), 1..4)
}
