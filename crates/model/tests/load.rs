//! What a file may say, and every sentence about what it may not.

use std::collections::BTreeMap;
use std::path::Path;

use expect_test::{Expect, expect};
use weft_model::{Arch, Firmware, HostFacts, ImageSource, Mode, Ready, World, parse_world};
use weft_types::ByteSize;

const FACTS: HostFacts = HostFacts { memory: Some(ByteSize::from_mib(8192)), images: BTreeMap::new() };

fn load(source: &str) -> Result<World, String> {
    parse_world(source, Path::new("/lab/lab.toml"), "lab.toml", &FACTS).map_err(|report| report.to_string())
}

fn check(source: &str, expected: Expect) {
    match load(source) {
        Ok(world) => panic!("nothing was wrong: {world:#?}"),
        Err(report) => expected.assert_eq(&report),
    }
}

#[test]
fn the_quickstart_is_a_good_world() {
    let world = load(include_str!("../../../examples/quickstart.toml")).unwrap();
    let office = &world.networks[&"office".parse().unwrap()];
    assert_eq!((office.mode, office.gateway.to_string()), (Mode::Nat, "10.20.0.1".to_owned()));
    assert!(office.host_access && office.dns && office.dhcp.is_some());
    let web = &world.vms[&"web".parse().unwrap()];
    assert_eq!((web.nics.len(), web.memory.mib(), web.ready), (2, 256, Ready::Agent));
    assert_eq!(web.provenance.to_string(), "/lab/lab.toml:12");
    assert_ne!(web.nics[0].mac, web.nics[1].mac);
}

#[test]
fn short_forms() {
    let world = load("[network.a]\n[network.b]\n[vm.x]\nnics = ['a', 'b']\n").unwrap();
    let subnet = |name: &str| world.networks[&name.parse().unwrap()].subnet.to_string();
    assert_eq!((subnet("a"), subnet("b")), ("10.20.0.0/24".to_owned(), "10.20.1.0/24".to_owned()));
    assert_eq!(world.networks[&"b".parse().unwrap()].gateway.to_string(), "10.20.1.1");
    assert_eq!(world.vms.values().next().unwrap().image.as_str(), "micro");
    assert_eq!(load("").unwrap(), World::default());
    // `nat` is there without a block, and is what its block says where there is one.
    let implied = load("[network.a]\n[vm.x]\n[vm.y]\nnics = ['a', 'nat']\n").unwrap();
    let mut declared = load("[network.a]\n[network.nat]\n[vm.x]\nnics = ['nat']\n").unwrap();
    let nat = "nat".parse().unwrap();
    assert_eq!(implied.networks[&nat].provenance.to_string(), "/lab/lab.toml:4");
    declared.networks.get_mut(&nat).unwrap().provenance = implied.networks[&nat].provenance.clone();
    assert_eq!(implied.networks, declared.networks);
    assert_eq!(
        load("[network.nat]\nmode = 'internal'\n[vm.x]\nnics = ['nat']\n").unwrap().networks[&nat].mode,
        Mode::Internal
    );
}

#[test]
fn an_adapter_keeps_its_mac_address_when_others_come_and_go() {
    let macs = |nics: &str| {
        let world = load(&format!("[network.a]\n[network.b]\n[vm.x]\nnics = {nics}\n")).unwrap();
        world.vms.into_values().flat_map(|vm| vm.nics).map(|nic| nic.mac).collect::<Vec<_>>()
    };
    let both = macs("['b', 'a', 'a']");
    assert_eq!(macs("['a']"), [both[1]]);
    assert_eq!(macs("['a', 'b']"), [both[1], both[0]]);
    assert_ne!(both[1], both[2]);
}

#[test]
fn an_unknown_key_and_its_nearest() {
    check(
        "[vm.web]\nmemroy = '1GiB'\nfrobnicate = 1\n",
        expect![[r#"
            error: `memroy` is not a key of a VM
             --> lab.toml:2:1
              |
            2 | memroy = '1GiB'
              | ^^^^^^
            hint: did you mean `memory`?

            error: `frobnicate` is not a key of a VM
             --> lab.toml:3:1
              |
            3 | frobnicate = 1
              | ^^^^^^^^^^
            hint: a VM has the keys `image`, `memory`, `cpus`, `engine`, `cmdline`, `ssh_key`, `user_data`, `disk_size`, `display`, `cpu_weight`, `io_weight`, `cpu_limit`, `cpu_pin`, `memory_limit`, `ready` and `nics`

            2 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn every_problem_in_one_go() {
    check(
        r#"
[network.office]
mode = "natt"
subnet = "10.20.0.0/24"

[network.lab]
subnet = "10.20.0.128/25"

[vm."Web Server"]
image = "micro"

[vm.web]
image = "mikro"
memory = "64GiB"
nics = [{ network = "office", ip = "10.21.0.9" }, { network = "offfice" }]

[vm.a]
nics = [{ network = "office", ip = "10.20.0.5", mac = "02:00:00:00:00:01" }]
[vm.b]
nics = [{ network = "office", ip = "10.20.0.5", mac = "02:00:00:00:00:01" }]
"#,
        expect![[r#"
            error: `natt` is not a value of `mode`
             --> lab.toml:3:8
              |
            3 | mode = "natt"
              |        ^^^^^^
            hint: did you mean `nat`?

            error: the subnet of `lab` overlaps with 10.20.0.0/24 of network `office`
             --> lab.toml:7:10
              |
            7 | subnet = "10.20.0.128/25"
              |          ^^^^^^^^^^^^^^^^
            hint: 10.21.0.0/24 is free; or leave `subnet` out, and Weft chooses one

            error: `Web Server` is not a host name: use a-z, 0-9 and `-` inside, for example `web-server`
             --> lab.toml:9:5
              |
            9 | [vm."Web Server"]
              |     ^^^^^^^^^^^^

            error: there is no image `mikro`
              --> lab.toml:13:9
               |
            13 | image = "mikro"
               |         ^^^^^^^
            hint: did you mean `micro`?

            error: `web` asks for 64GiB, and this host has 8GiB of memory
              --> lab.toml:14:10
               |
            14 | memory = "64GiB"
               |          ^^^^^^^
            hint: give the VMs less

            error: 10.21.0.9 is not an address for a host of network `office` (10.20.0.0/24)
              --> lab.toml:15:36
               |
            15 | nics = [{ network = "office", ip = "10.21.0.9" }, { network = "offfice" }]
               |                                    ^^^^^^^^^^^
            hint: choose from 10.20.0.2 to 10.20.0.254

            error: there is no network `offfice`
              --> lab.toml:15:63
               |
            15 | nics = [{ network = "office", ip = "10.21.0.9" }, { network = "offfice" }]
               |                                                               ^^^^^^^^^
            hint: did you mean `office`?

            error: `b` and `a` both want 10.20.0.5 on network `office`
              --> lab.toml:20:36
               |
            20 | nics = [{ network = "office", ip = "10.20.0.5", mac = "02:00:00:00:00:01" }]
               |                                    ^^^^^^^^^^^
            hint: give one of them another address, or leave `ip` out

            error: `b` and `a` both have the MAC address 02:00:00:00:00:01
              --> lab.toml:20:55
               |
            20 | nics = [{ network = "office", ip = "10.20.0.5", mac = "02:00:00:00:00:01" }]
               |                                                       ^^^^^^^^^^^^^^^^^^^
            hint: leave `mac` out, and Weft chooses one

            9 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn values_of_the_wrong_kind() {
    check(
        "[vm.web]\nmemory = 256\ncpus = 0\nnics = 'office'\n[network]\noffice = 3\n",
        expect![[r#"
            error: `memory` must be a text, not an integer
             --> lab.toml:2:10
              |
            2 | memory = 256
              |          ^^^
            hint: write it like `memory = "256MiB"`

            error: `cpus` cannot be 0
             --> lab.toml:3:8
              |
            3 | cpus = 0
              |        ^
            hint: choose 1 to 128

            error: `nics` must be a list, not a string
             --> lab.toml:4:8
              |
            4 | nics = 'office'
              |        ^^^^^^^^
            hint: write it like `nics = [{ network = "office" }]`

            error: `network.office` must be a table, not an integer
             --> lab.toml:6:1
              |
            6 | office = 3
              | ^^^^^^
            hint: write `[network.office]` and its keys below

            4 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn subnets_and_what_hangs_on_them() {
    check(
        "[network.a]\nsubnet = '10.20.0.5/24'\n[network.b]\nsubnet = '127.0.0.0/24'\n[network.c]\nsubnet = '10.9.0.0/30'\n\
         [network.d]\nsubnet = '10.8.0.0/24'\ngateway = '10.9.0.1'\ndhcp = { range = '10.8.0.9-10.8.0.2', lease = '5' }\n\
         [network.e]\nsubnet = 'ten'\n[vm.x]\nnics = [{ network = 'e', ip = '10.99.0.1' }]\n\
         [network.f]\nmode = 'internal'\nhost_access = true\n",
        expect![[r#"
            error: `10.20.0.5/24` is an address inside a subnet
             --> lab.toml:2:10
              |
            2 | subnet = '10.20.0.5/24'
              |          ^^^^^^^^^^^^^^
            hint: write `10.20.0.0/24`

            error: 127.0.0.0/24 cannot be used: 127.0.0.0/8 is the loopback network
             --> lab.toml:4:10
              |
            4 | subnet = '127.0.0.0/24'
              |          ^^^^^^^^^^^^^^
            hint: use a private one, like 10.20.0.0/24

            error: 10.9.0.0/30 has no room for a gateway and VMs
             --> lab.toml:6:10
              |
            6 | subnet = '10.9.0.0/30'
              |          ^^^^^^^^^^^^^
            hint: use a prefix of /29 or shorter

            error: the gateway 10.9.0.1 is not an address for a host of 10.8.0.0/24
             --> lab.toml:9:11
              |
            9 | gateway = '10.9.0.1'
              |           ^^^^^^^^^^
            hint: choose from 10.8.0.2 to 10.8.0.254

            error: the range 10.8.0.9-10.8.0.2 ends before it begins
              --> lab.toml:10:18
               |
            10 | dhcp = { range = '10.8.0.9-10.8.0.2', lease = '5' }
               |                  ^^^^^^^^^^^^^^^^^^^
            hint: write `10.8.0.2-10.8.0.9`

            error: `5` is not a lease time
              --> lab.toml:10:47
               |
            10 | dhcp = { range = '10.8.0.9-10.8.0.2', lease = '5' }
               |                                               ^^^
            hint: write a number and `s`, `m`, `h` or `d`, from `1m` to `365d`

            error: `ten` is not a subnet
              --> lab.toml:12:10
               |
            12 | subnet = 'ten'
               |          ^^^^^
            hint: write the network's address and its prefix length, like `10.20.0.0/24`

            error: nobody but its VMs is on the internal network `f`, so it has no host access
              --> lab.toml:17:15
               |
            17 | host_access = true
               |               ^^^^
            hint: write `mode = "nat"`, or remove `host_access`

            8 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn images_for_other_machines() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("vmlinuz");
    std::fs::write(&kernel, [&[0; 56][..], b"ARM\x64"].concat()).unwrap();
    let kernel = kernel.display();
    let world = format!("[image.k]\nkernel = '{kernel}'\n[image.d]\ndisk = '/proc/self/exe'\nfirmware = 'uefi'\n");
    let world = load(&world).unwrap();
    let source = |name: &str| &world.images[&name.parse().unwrap()].source;
    assert!(
        matches!(source("k"), ImageSource::Kernel { arch: Arch::Aarch64, cmdline, .. } if cmdline.contains("ttyAMA0"))
    );
    assert!(source("d").disk().is_some_and(|disk| (disk.arch, disk.firmware) == (Arch::X86, Some(Firmware::Uefi))));
    let wrong = "[image.a]\nkernel = '/proc/self/exe'\narch = 'aarch64'\nfirmware = 'uefi'\n\
                 [image.b]\ndisk = '/proc/self/exe'\narch = 'riscv64'\nfirmware = 'bios'\n\
                 [image.c]\ndisk = '/proc/self/exe'\narch = 'arm64'\nformat = 'iso'\n\
                 [vm.x]\nimage = 'b'\ndisplay = 'spice'\n";
    check(
        wrong,
        expect![[r#"
        error: /proc/self/exe is a kernel for x86-64
         --> lab.toml:2:10
          |
        2 | kernel = '/proc/self/exe'
          |          ^^^^^^^^^^^^^^^^
        hint: leave `arch` out, or write `arch = "x86-64"`

        error: a kernel is booted without firmware of the user's choice
         --> lab.toml:4:12
          |
        4 | firmware = 'uefi'
          |            ^^^^^^
        hint: remove it, or `kernel`

        error: machines of riscv64 have no BIOS
         --> lab.toml:8:12
          |
        8 | firmware = 'bios'
          |            ^^^^^^
        hint: remove it, or write `firmware = "uefi"`

        error: the disk /proc/self/exe cannot be used: it is not in the ISO 9660 format
          --> lab.toml:10:8
           |
        10 | disk = '/proc/self/exe'
           |        ^^^^^^^^^^^^^^^^
        hint: leave `format` out

        error: `arm64` is not a value of `arch`
          --> lab.toml:11:8
           |
        11 | arch = 'arm64'
           |        ^^^^^^^
        hint: did you mean `aarch64`?

        error: `spice` is not a value of `display`
          --> lab.toml:15:11
           |
        15 | display = 'spice'
           |           ^^^^^^^
        hint: choose from `vnc`

        6 problems in lab.toml; nothing was changed
    "#]],
    );
}

#[test]
fn images() {
    check(
        "[image.k]\nkernel = 'nowhere/vmlinuz'\n[image.n]\n[image.b]\nkernel = '/proc/self/exe'\ndisk = '/proc/version'\n\
         [image.micro]\ndisk = '/proc/self/exe'\n[vm.x]\nimage = 'k'\nssh_key = 'ssh-ed25519 AAAA me'\n[vm.y]\n[vm.z]\nimage = 'debian'\n",
        expect![[r#"
            error: cannot open /lab/nowhere/vmlinuz: No such file or directory (os error 2)
             --> lab.toml:2:10
              |
            2 | kernel = 'nowhere/vmlinuz'
              |          ^^^^^^^^^^^^^^^^^
            hint: give a path that you can read; it counts from the file's own folder

            error: image `n` has neither a kernel nor a disk
             --> lab.toml:3:8
              |
            3 | [image.n]
              |        ^
            hint: give it `kernel` (and `initrd`), or `disk`, or both

            error: the disk /proc/version cannot be used: it is empty
             --> lab.toml:6:8
              |
            6 | disk = '/proc/version'
              |        ^^^^^^^^^^^^^^^
            hint: give a disk with a system on it

            error: `micro` is Weft's own image
             --> lab.toml:7:8
              |
            7 | [image.micro]
              |        ^^^^^
            hint: call yours something else

            error: `ssh_key` does nothing here: image `k` has no disk
              --> lab.toml:11:11
               |
            11 | ssh_key = 'ssh-ed25519 AAAA me'
               |           ^^^^^^^^^^^^^^^^^^^^^
            hint: it is for images with a disk, whose cloud-init reads it

            error: there is no image `debian`
              --> lab.toml:14:9
               |
            14 | image = 'debian'
               |         ^^^^^^^^
            hint: describe it in `[image.debian]`, or bring it in: weft image import debian FILE; known are `b`, `k`, `micro` and `n`

            6 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn disks() {
    let dir = tempfile::tempdir().unwrap();
    let [world, disk, qcow2, empty] = ["lab.toml", "disk.img", "bad.qcow2", "empty"].map(|name| dir.path().join(name));
    std::fs::write(disk, vec![0; 2 << 20]).unwrap();
    std::fs::write(qcow2, b"QFI\xfb\0\0\0\x03").unwrap();
    std::fs::write(empty, b"").unwrap();
    let load = |source: &str| {
        let report = parse_world(source, &world, "lab.toml", &FACTS).map_err(|report| report.to_string());
        report.map_err(|report| report.replace(&format!("{}/", dir.path().display()), ""))
    };
    let good = "[image.d]\ndisk = 'disk.img'\n[vm.x]\nimage = 'd'\n";
    let world = load(&format!("{good}disk_size = '2MiB'\n")).unwrap();
    assert_eq!((world.vms.values().next().unwrap().memory.mib(), world.images.len()), (1024, 1));
    let bad = "[image.q]\ndisk = 'bad.qcow2'\n[image.e]\ndisk = 'empty'\n[image.f]\ndisk = '.'\n\
               [image.k]\nkernel = '/proc/self/exe'\ninitrd = 'empty'\n";
    expect![[r#"
        error: 1MiB are less than the disk of image `d` has already
         --> lab.toml:5:13
          |
        5 | disk_size = '1MiB'
          |             ^^^^^^
        hint: write 2MiB or more, or leave it out

        error: the disk bad.qcow2 cannot be used: its header is truncated
         --> lab.toml:7:8
          |
        7 | disk = 'bad.qcow2'
          |        ^^^^^^^^^^^
        hint: was it downloaded whole?

        error: the disk empty cannot be used: it is empty
         --> lab.toml:9:8
          |
        9 | disk = 'empty'
          |        ^^^^^^^
        hint: give a disk with a system on it

        error: cannot open .: it is not a file
          --> lab.toml:11:8
           |
        11 | disk = '.'
           |        ^^^
        hint: give a path that you can read; it counts from the file's own folder

        error: empty is empty
          --> lab.toml:14:10
           |
        14 | initrd = 'empty'
           |          ^^^^^^^
        hint: give an archive that the kernel can unpack

        5 problems in lab.toml; nothing was changed
    "#]]
    .assert_eq(&load(&format!("{good}disk_size = '1MiB'\n{bad}")).unwrap_err());
}

#[test]
fn several_syntax_errors() {
    let report = load("[vm.web\nmemory = \n[vm.db]\ncpus = = 2\n[vm.db]\n").unwrap_err();
    assert!(report.contains("lab.toml:1:") && report.contains("lab.toml:4:"), "{report}");
}

#[test]
fn a_world_from_the_api_is_checked_too() {
    let mut world = load("[network.a]\n[vm.x]\nnics = ['a']\n").unwrap();
    world.networks.clear();
    let findings = weft_model::findings(&world, &FACTS);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].path, "vm.x.nics[0].network");
}

#[test]
fn names_that_are_somebody_elses() {
    check(
        "[vm.gateway]\n[vm.localhost]\n",
        expect![[r#"
            error: `gateway` is the name of each network's gateway
             --> lab.toml:1:5
              |
            1 | [vm.gateway]
              |     ^^^^^^^
            hint: call the VM something else

            error: `localhost` is the name of every machine itself
             --> lab.toml:2:5
              |
            2 | [vm.localhost]
              |     ^^^^^^^^^
            hint: call the VM something else

            2 problems in lab.toml; nothing was changed
        "#]],
    );
}

#[test]
fn forwards() {
    let world = load(
        "[network.a]\nforwards = ['8080 -> web:80', 'udp/0.0.0.0:5353-5360->web:53-60', '81 -> 10.20.0.7:80']\n\
         [vm.web]\nnics = ['a']\n",
    )
    .unwrap();
    let shown = world.networks.values().flat_map(|network| &network.forwards);
    let shown: Vec<_> = shown.map(|it| format!("{} -> {} {}", it.listen, it.to, it.provenance)).collect();
    assert_eq!(
        shown,
        [
            "tcp/127.0.0.1:8080 -> web:80 /lab/lab.toml:2",
            "udp/0.0.0.0:5353-5360 -> web:53 /lab/lab.toml:2",
            "tcp/127.0.0.1:81 -> 10.20.0.7:80 /lab/lab.toml:2",
        ]
    );
    check(
        "[network.a]
subnet = '10.20.0.0/24'
forwards = [
  '80',
  'web:80 -> 80',
  '80-90 -> web:80-81',
  '8080 -> nobody:80',
  '0.0.0.0:8080 -> web:80',
  '8081 -> 10.20.0.1:80',
  '8082 -> lone:80',
]
[network.b]
mode = 'internal'
forwards = ['8083 -> web:80']
[vm.web]
nics = ['a', 'b']
[vm.lone]
",
        expect![[r#"
            error: `80` is no port forward
             --> lab.toml:4:3
              |
            4 |   '80',
              |   ^^^^
            hint: write `127.0.0.1:8080 -> web:80`, or `udp/5353-5360 -> web:53-60`

            error: `web:80` is no address and port of the host
             --> lab.toml:5:3
              |
            5 |   'web:80 -> 80',
              |   ^^^^^^^^^^^^^^
            hint: write `127.0.0.1:8080`, `udp/5353-5360`, `[::1]:8080`, or just `8080`

            error: 11 ports of the host cannot stand for 2 of the machine
             --> lab.toml:6:3
              |
            6 |   '80-90 -> web:80-81',
              |   ^^^^^^^^^^^^^^^^^^^^
            hint: write as many ports on both sides, or only the machine's first

            error: there is no VM `nobody` for tcp/127.0.0.1:8080 to lead to
             --> lab.toml:7:3
              |
            7 |   '8080 -> nobody:80',
              |   ^^^^^^^^^^^^^^^^^^^
            hint: declare it in `[vm.nobody]`

            error: tcp/127.0.0.1:8080 leads to nobody:80 already (/lab/lab.toml:7)
             --> lab.toml:8:3
              |
            8 |   '0.0.0.0:8080 -> web:80',
              |   ^^^^^^^^^^^^^^^^^^^^^^^^
            hint: choose another port of the host

            error: 10.20.0.1 is no machine's address on network `a` (10.20.0.0/24)
             --> lab.toml:9:3
              |
            9 |   '8081 -> 10.20.0.1:80',
              |   ^^^^^^^^^^^^^^^^^^^^^^
            hint: name a machine, or an address of the network

            error: `lone` has no adapter on network `a` that the gateway meets
              --> lab.toml:10:3
               |
            10 |   '8082 -> lone:80',
               |   ^^^^^^^^^^^^^^^^^
            hint: add `"a"` to its `nics`, or forward on a network that it is on

            error: nothing from outside reaches network `b`, so tcp/127.0.0.1:8083 cannot lead there
              --> lab.toml:14:13
               |
            14 | forwards = ['8083 -> web:80']
               |             ^^^^^^^^^^^^^^^^
            hint: write `mode = "nat"`, or remove the forward

            8 problems in lab.toml; nothing was changed
        "#]],
    );
}
