//! Images that a user brings: kept under a name, used by files, removed when nobody needs them.

use std::path::{Path, PathBuf};

use crate::harness::Home;

/// A kernel and an initrd of `micro` for a processor, from the home's cache.
fn kernel_and_initrd(home: &Home) -> (PathBuf, PathBuf) {
    let entries = std::fs::read_dir(home.dir().join("cache/micro")).unwrap().flatten().map(|entry| entry.path());
    let entries: Vec<_> = entries.collect();
    // Other kernels of the tests may lie there too.
    let kernel = entries.iter().find(|path| path.join("virtio_console.ko").exists()).expect("a kernel for machines");
    let begins = |path: &&PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("initrd-");
    let initrd = entries.iter().find(begins).expect("an initrd");
    (kernel.join("vmlinuz"), initrd.clone())
}

#[test]
fn an_imported_kernel_runs_machines_and_is_kept_while_they_need_it() {
    let home = Home::rootless("images");
    let (kernel, initrd) = kernel_and_initrd(&home);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let import = |name: &str| {
        let (kernel, initrd) = (text(&kernel), text(&initrd));
        let words =
            ["image", "import", name, "--kernel", &kernel, "--initrd", &initrd, "--cmdline", "console=ttyS0 quiet"];
        home.weft(&words)
    };
    import("mine").ok();
    let again = import("mine");
    assert!(again.err.contains("there is an image `mine` already"), "{}", again.err);
    // Two files share it; none of them describes it.
    home.write(
        "weft.toml",
        "[network.lan]\nsubnet = '10.50.0.0/24'\n[vm.a]\nimage = 'mine'\nready = 'agent'\nnics = ['lan']\n",
    );
    home.write("two.toml", "[vm.b]\nimage = 'mine'\nready = 'running'\n");
    home.weft(&["up"]).ok();
    home.weft(&["up", "two.toml"]).ok();
    home.exec("a", &["ping", "-c", "1", "-W", "5", "10.50.0.1"]).ok();
    let used = |name: &str| {
        let images = home.json(&["image", "ls"]);
        images.as_array().unwrap().iter().find(|image| image["name"] == name).map(|image| image["used_by"].clone())
    };
    assert_eq!(used("mine"), Some(serde_json::json!(["a", "b"])));
    let refused = home.weft(&["image", "rm", "mine"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("the image `mine` is in use by a, b"), "{}", refused.err);
    // A file's own image of that name comes first, for that file alone.
    let own = format!("[image.mine]\nkernel = '{}'\n[vm.b]\nimage = 'mine'\nready = 'running'\n", text(&kernel));
    home.write("two.toml", &own);
    home.weft(&["up", "two.toml"]).ok();
    let users: Vec<_> =
        home.json(&["image", "ls"]).as_array().unwrap().iter().map(|it| it["used_by"].clone()).collect();
    assert_eq!(users.iter().filter(|users| **users == serde_json::json!(["b"])).count(), 1, "{users:?}");
    home.weft(&["down", "two.toml"]).ok();
    home.weft(&["down"]).ok();
    assert_eq!(used("mine"), Some(serde_json::json!([])));
    home.weft(&["image", "rm", "mine"]).ok();
    assert_eq!(used("mine"), None);
    let missing = home.weft(&["up"]);
    assert_eq!(missing.code, 2);
    assert!(missing.err.contains("weft image import mine FILE"), "{}", missing.err);
    home.assert_gone();
}

#[test]
fn an_imported_disk_gets_an_overlay_for_each_machine() {
    let home = Home::rootless("image-disk");
    let (kernel, initrd) = kernel_and_initrd(&home);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let disk = home.dir().join("root.raw");
    std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let (kernel, initrd, disk) = (text(&kernel), text(&initrd), text(&disk));
    let cmdline = "console=ttyS0 quiet";
    let words = ["image", "import", "both", &disk, "--kernel", &kernel, "--initrd", &initrd, "--cmdline", cmdline];
    home.weft(&words).ok();
    std::fs::remove_file(&disk).unwrap();
    home.write(
        "weft.toml",
        "[vm.a]\nimage = 'both'\nready = 'running'\ndisk_size = '2MiB'\n[vm.b]\nimage = 'both'\nready = 'running'\n",
    );
    home.weft(&["up"]).ok();
    for vm in ["a", "b"] {
        let overlay = home.dir().join("state/vms").join(vm).join("disk.qcow2");
        let bytes = std::fs::read(overlay).unwrap();
        let backing = text(&home.dir().join("state/images/both/disk"));
        assert!(bytes.windows(backing.len()).any(|window| window == backing.as_bytes()), "it stands on something else");
    }
    // What the file says of the disk is held against the one that is kept.
    home.write("weft.toml", "[vm.a]\nimage = 'both'\ndisk_size = '512KiB'\n");
    let small = home.weft(&["up"]);
    assert_eq!(small.code, 2, "{}", small.err);
    home.weft(&["down"]).ok();
    home.weft(&["image", "rm", "both"]).ok();
    home.assert_gone();
}
