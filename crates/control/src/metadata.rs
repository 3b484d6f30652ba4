//! What machines are told of themselves by the network.

use std::collections::BTreeMap;

use weft_machine::Uuid;
use weft_model::Vm;
use weft_types::{MacAddr, Metadata, NetworkName, UserData, VmName};

use crate::desired::Desired;

/// The longest user data that are told over the network, in bytes: as long as EC2 takes them. Longer ones stand on the
/// seed disk alone.
const MAX_USER_DATA_BYTES: usize = 16 << 10;
/// All user data that are told over one network, in bytes.
const MAX_NETWORK_BYTES: usize = 1 << 20;

/// The machines on a network whose images may ask for it: all but those that Weft builds itself.
pub(crate) fn of_network(desired: &Desired, network: &NetworkName) -> BTreeMap<MacAddr, Metadata> {
    let mut room = MAX_NETWORK_BYTES;
    let mut all = BTreeMap::new();
    let present = desired.vms.iter().filter(|(_, vm)| !vm.removed() && desired.source(&vm.spec).is_some());
    for (name, object) in present {
        let stands_here = |nic: &&weft_model::Nic| nic.network == *network && nic.port.vlans.meets_services();
        for nic in object.spec.nics.iter().filter(stands_here) {
            all.insert(nic.mac, of_machine(name, &object.spec, &mut room));
        }
    }
    all
}

fn of_machine(name: &VmName, vm: &Vm, room: &mut usize) -> Metadata {
    let user_data = match &vm.user_data {
        None => UserData::None,
        Some(text) if text.len() <= MAX_USER_DATA_BYTES.min(*room) => {
            *room -= text.len();
            UserData::Text(text.clone())
        }
        Some(_) => UserData::OnDisk,
    };
    // Keys and user data are taken once for each instance: with others the machine is another one.
    let first = vm.nics.first().map(|nic| nic.mac.to_string());
    let said = format!("{:?}", (name.as_str(), first, &vm.ssh_key, &vm.user_data));
    Metadata { vm: name.clone(), instance_id: Uuid::derive(&said).to_string(), ssh_key: vm.ssh_key.clone(), user_data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::desired;

    const WORLD: &str = r#"
[network.office]
[network.backstage]
mode = "internal"
[image.own]
kernel = "/proc/self/exe"
[vm.web]
image = "own"
nics = ["office", { network = "backstage", vlan = 7 }]
[vm.db]
nics = ["office"]
"#;

    /// What the machines on a network are told, when `web` has these user data.
    fn told(network: &str, user_data: Option<&str>) -> Vec<Metadata> {
        let mut desired = desired(WORLD);
        let web = desired.vms.get_mut(&"web".parse().unwrap()).unwrap();
        web.spec.user_data = user_data.map(str::to_owned);
        of_network(&desired, &network.parse().unwrap()).into_values().collect()
    }

    #[test]
    fn machines_with_images_of_their_own_are_told_where_they_meet_the_gateway() {
        let all = told("office", None);
        assert_eq!(all.iter().map(|machine| machine.vm.as_str()).collect::<Vec<_>>(), ["web"]);
        assert!(told("backstage", None).is_empty());
    }

    #[test]
    fn other_user_data_make_another_instance_and_long_ones_stand_on_the_disk() {
        let with = |user_data: Option<&str>| told("office", user_data).remove(0);
        let long = format!("#!/bin/sh\n{}", "# long\n".repeat(3000));
        assert_eq!(with(None).user_data, UserData::None);
        assert_eq!(with(Some("#!/bin/sh\n")).user_data, UserData::Text("#!/bin/sh\n".to_owned()));
        assert_eq!(with(Some(&long)).user_data, UserData::OnDisk);
        let ids = [None, Some("#!/bin/sh\n"), Some(&*long)].map(|data| with(data).instance_id);
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        assert_eq!(with(None).instance_id, ids[0]);
    }
}
