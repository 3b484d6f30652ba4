//! What cloud-init is told, as a NoCloud volume: a small FAT file system with the label CIDATA
//! (cloud-init's documentation, "NoCloud").

use std::io::{self, Cursor, Write as _};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};

use crate::spec::{Seed, Uuid};

/// The smallest volume, in bytes.
const MIN_BYTES: usize = 512 * 1024;
/// What file system and folder take at most beside the files, in bytes.
const OVERHEAD_BYTES: usize = 64 * 1024;

/// The volume's bytes.
///
/// The files are YAML, of which JSON is a part: written as JSON there is nothing in a name or a key that could be taken
/// for syntax.
pub(super) fn volume(seed: &Seed, uuid: Uuid) -> io::Result<Vec<u8>> {
    let files = [
        ("meta-data", meta_data(seed, uuid).to_string()),
        ("user-data", user_data(seed)),
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

/// Who the machine is, and whose key it takes. A new id would tell cloud-init that it is another machine, and to begin
/// from scratch.
fn meta_data(seed: &Seed, uuid: Uuid) -> Value {
    let mut data = json!({ "instance-id": uuid.to_string(), "local-hostname": seed.hostname });
    if let Some(key) = &seed.ssh_key {
        data["public-keys"] = json!([key.trim()]);
    }
    data
}

/// The user's own words if there are any, else what Weft has to say.
fn user_data(seed: &Seed) -> String {
    match &seed.user_data {
        Some(text) => text.clone(),
        None => {
            let config = json!({ "hostname": seed.hostname, "disable_root": seed.ssh_key.is_none() });
            format!("#cloud-config\n{config}\n")
        }
    }
}

/// Network configuration version 2: each adapter is known by its MAC address.
fn network_config(seed: &Seed) -> Value {
    let adapters = seed.nics.iter().enumerate().map(|(index, nic)| {
        let mut adapter = json!({ "match": { "macaddress": nic.mac.to_string() }, "dhcp4": nic.dhcp, "mtu": nic.mtu });
        if let Some((address, prefix)) = nic.address {
            adapter["addresses"] = json!([format!("{address}/{prefix}")]);
        }
        (format!("nic{index}"), adapter)
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
                SeedNic { mac: "02:00:00:00:00:01".parse().unwrap(), dhcp: true, address: None, mtu: 1500 },
                SeedNic {
                    mac: "02:00:00:00:00:02".parse().unwrap(),
                    dhcp: false,
                    address: Some(("10.0.0.2".parse().unwrap(), 24)),
                    mtu: 9000,
                },
            ],
        }
    }

    fn files(volume: Vec<u8>) -> String {
        let volume = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let mut all = String::new();
        for name in ["meta-data", "user-data", "network-config"] {
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
            {"instance-id":"4b5e57f6-eb2f-82b9-839b-3d1e13929295","local-hostname":"web","public-keys":["ssh-ed25519 AAAA me@\"home\""]}
            == user-data
            #cloud-config
            {"disable_root":false,"hostname":"web"}

            == network-config
            {"ethernets":{"nic0":{"dhcp4":true,"match":{"macaddress":"02:00:00:00:00:01"},"mtu":1500},"nic1":{"addresses":["10.0.0.2/24"],"dhcp4":false,"match":{"macaddress":"02:00:00:00:00:02"},"mtu":9000}},"version":2}
        "#]].assert_eq(&files(volume(&seed(), uuid).unwrap()));
    }

    #[test]
    fn a_users_own_data_of_any_size_go_in_as_they_are() {
        let text = format!("#!/bin/sh\n{}", "# long\n".repeat(200_000));
        let seed = Seed { user_data: Some(text.clone()), ..seed() };
        assert!(files(volume(&seed, Uuid::derive("web")).unwrap()).contains(&text));
    }
}
