//! What cloud-init is told, as a NoCloud volume: a small FAT file system with the label CIDATA
//! (cloud-init's documentation, "NoCloud").

use std::io::{self, Cursor, Write as _};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};

use crate::spec::{NicSetup, Seed, Uuid};

/// The smallest volume, in bytes.
const MIN_BYTES: usize = 512 * 1024;
/// What file system and folder take at most beside the files, in bytes.
const OVERHEAD_BYTES: usize = 64 * 1024;

/// The volume's bytes.
///
/// The files are YAML, of which JSON is a part: written as JSON there is nothing in a name or a key that could be taken
/// for syntax. What the user says goes in as it is, and wins over what Weft says, which is the vendor's data.
pub(super) fn volume(seed: &Seed, uuid: Uuid) -> io::Result<Vec<u8>> {
    let files = [
        ("meta-data", meta_data(seed, uuid).to_string()),
        ("user-data", seed.user_data.clone().unwrap_or_else(|| "#cloud-config\n{}\n".to_owned())),
        ("vendor-data", format!("#cloud-config\n{}\n", vendor_data(seed))),
        ("network-config", network_config(seed).to_string()),
    ];
    let bytes = files.iter().map(|(_, text)| text.len()).sum::<usize>() + OVERHEAD_BYTES;
    let mut disk = Cursor::new(vec![0; bytes.next_multiple_of(4096).max(MIN_BYTES)]);
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().volume_label(*b"CIDATA     "))?;
    {
        let volume = FileSystem::new(&mut disk, FsOptions::new())?;
        for (name, text) in files {
            volume.root_dir().create_file(name)?.write_all(text.as_bytes())?;
        }
        volume.unmount()?;
    }
    Ok(disk.into_inner())
}

/// Who the machine is, and whose key it takes.
///
/// cloud-init takes keys and user data once for each instance: with others the machine is another one to it, on the disk
/// that it has.
fn meta_data(seed: &Seed, uuid: Uuid) -> Value {
    let said = json!([uuid.to_string(), seed.ssh_key, seed.user_data]);
    let mut data =
        json!({ "instance-id": Uuid::derive(&said.to_string()).to_string(), "local-hostname": seed.hostname });
    if let Some(key) = &seed.ssh_key {
        data["public-keys"] = json!([key.trim()]);
    }
    data
}

/// What Weft says as long as the user says nothing else: a key is root's too, and the adapters are set up at each boot,
/// because there may be others than at the last.
fn vendor_data(seed: &Seed) -> Value {
    json!({
        "disable_root": seed.ssh_key.is_none(),
        "updates": { "network": { "when": ["boot-new-instance", "boot"] } },
    })
}

/// Network configuration version 2. Each adapter is known by its MAC address; it is given a name because only netplan
/// can do without, and is one of several programs that read this.
fn network_config(seed: &Seed) -> Value {
    let adapters = seed.nics.iter().enumerate().map(|(index, nic)| {
        let name = format!("eth{index}");
        let mut adapter = json!({
            "match": { "macaddress": nic.mac.to_string() }, "set-name": name, "mtu": nic.mtu,
            "dhcp4": nic.setup == NicSetup::Dhcp,
        });
        match &nic.setup {
            // networkd takes no search domain from a server that it is not told to trust.
            NicSetup::Dhcp => adapter["dhcp4-overrides"] = json!({ "use-domains": true }),
            NicSetup::Static { address, prefix_len, router, dns } => {
                adapter["addresses"] = json!([format!("{address}/{prefix_len}")]);
                if let Some(router) = router {
                    adapter["routes"] = json!([{ "to": "0.0.0.0/0", "via": router }]);
                }
                if let Some((server, domain)) = dns {
                    adapter["nameservers"] = json!({ "addresses": [server], "search": [domain] });
                }
            }
            NicSetup::Nothing => {}
        }
        (name, adapter)
    });
    json!({ "version": 2, "ethernets": adapters.collect::<serde_json::Map<_, _>>() })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use expect_test::expect;

    use super::*;
    use crate::spec::SeedNic;

    fn seed() -> Seed {
        Seed {
            hostname: "web".to_owned(),
            ssh_key: Some("ssh-ed25519 AAAA me@\"home\"\n".to_owned()),
            user_data: None,
            nics: vec![
                SeedNic { mac: "02:00:00:00:00:01".parse().unwrap(), setup: NicSetup::Dhcp, mtu: 1500 },
                SeedNic {
                    mac: "02:00:00:00:00:02".parse().unwrap(),
                    setup: NicSetup::Static {
                        address: "10.0.0.2".parse().unwrap(),
                        prefix_len: 24,
                        router: Some("10.0.0.1".parse().unwrap()),
                        dns: Some(("10.0.0.1".parse().unwrap(), "office.weft".to_owned())),
                    },
                    mtu: 9000,
                },
                SeedNic { mac: "02:00:00:00:00:03".parse().unwrap(), setup: NicSetup::Nothing, mtu: 1500 },
            ],
        }
    }

    fn files(volume: Vec<u8>) -> String {
        let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let mut all = String::new();
        for name in ["meta-data", "user-data", "vendor-data", "network-config"] {
            all += &format!("== {name}\n");
            volume.root_dir().open_file(name).unwrap().read_to_string(&mut all).unwrap();
            all += "\n";
        }
        all
    }

    #[test]
    fn what_is_said_of_the_machine() {
        let uuid = Uuid::derive("web");
        expect![[r#"
            == meta-data
            {"instance-id":"69b25520-56d4-8abb-8cde-f75057121c4e","local-hostname":"web","public-keys":["ssh-ed25519 AAAA me@\"home\""]}
            == user-data
            #cloud-config
            {}

            == vendor-data
            #cloud-config
            {"disable_root":false,"updates":{"network":{"when":["boot-new-instance","boot"]}}}

            == network-config
            {"ethernets":{"eth0":{"dhcp4":true,"dhcp4-overrides":{"use-domains":true},"match":{"macaddress":"02:00:00:00:00:01"},"mtu":1500,"set-name":"eth0"},"eth1":{"addresses":["10.0.0.2/24"],"dhcp4":false,"match":{"macaddress":"02:00:00:00:00:02"},"mtu":9000,"nameservers":{"addresses":["10.0.0.1"],"search":["office.weft"]},"routes":[{"to":"0.0.0.0/0","via":"10.0.0.1"}],"set-name":"eth1"},"eth2":{"dhcp4":false,"match":{"macaddress":"02:00:00:00:00:03"},"mtu":1500,"set-name":"eth2"}},"version":2}
        "#]].assert_eq(&files(volume(&seed(), uuid).unwrap()));
    }

    #[test]
    fn keys_and_user_data_make_another_instance_and_adapters_do_not() {
        let id = |seed: &Seed| meta_data(seed, Uuid::derive("web"))["instance-id"].clone();
        let first = id(&seed());
        assert_eq!(id(&Seed { nics: Vec::new(), ..seed() }), first);
        assert_ne!(id(&Seed { ssh_key: None, ..seed() }), first);
        assert_ne!(id(&Seed { user_data: Some("#!/bin/sh\n".to_owned()), ..seed() }), first);
        assert_ne!(meta_data(&seed(), Uuid::derive("db"))["instance-id"], first);
    }

    #[test]
    fn a_users_own_data_of_any_size_go_in_as_they_are() {
        let text = format!("#!/bin/sh\n{}", "# long\n".repeat(200_000));
        let seed = Seed { user_data: Some(text.clone()), ..seed() };
        assert!(files(volume(&seed, Uuid::derive("web")).unwrap()).contains(&text));
    }
}
