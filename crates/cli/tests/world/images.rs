//! Images that a user brings: kept under a name, used by files, removed when nobody needs them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Home, eventually};

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

/// Runs a program on the host, which must succeed.
fn run(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_containers_image_becomes_a_machine_that_runs_its_program() {
    let home = Home::rootless("container");
    let made = tempfile::tempdir().unwrap();
    let at = |name: &str| made.path().join(name).to_string_lossy().into_owned();
    let busybox = run("sh", &["-c", "command -v busybox"]);
    // As `docker save` writes it: two layers, and what a container runs.
    run("mkdir", &["-p", &at("one/bin"), &at("one/www"), &at("one/etc"), &at("two/www"), &at("saved")]);
    run("cp", &[busybox.trim(), &at("one/bin/busybox")]);
    std::fs::write(at("one/www/index.html"), "first").unwrap();
    std::fs::write(at("one/www/secret"), "not to be seen").unwrap();
    std::fs::write(at("one/etc/passwd"), "www:x:82:82::/:/bin/sh\n").unwrap();
    std::fs::write(at("two/www/.wh.secret"), "").unwrap();
    std::fs::write(at("two/www/index.html"), "second\n").unwrap();
    for layer in ["one", "two"] {
        run("tar", &["-C", &at(layer), "-cf", &at(&format!("saved/{layer}.tar")), "."]);
    }
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/busybox"],
        "Cmd":["httpd","-f","-p","8080","-h","/www"],"Env":["GREETING=it's me"],"WorkingDir":"/www","User":"www"}}"#;
    std::fs::write(at("saved/config.json"), config).unwrap();
    std::fs::write(at("saved/manifest.json"), r#"[{"Config":"config.json","Layers":["one.tar","two.tar"]}]"#).unwrap();
    run("tar", &["-C", &at("saved"), "-czf", &at("packed.tar.gz"), "."]);
    run("tar", &["-C", &at("saved"), "-cf", &at("saved.tar"), "."]);
    run("chmod", &["-R", "a+rX", &at("")]);

    home.weft(&["image", "import", "web", &at("saved.tar")]).ok();
    home.write(
        "weft.toml",
        "[network.lan]\n[vm.c]\nimage = 'web'\nready = 'agent'\nnics = ['lan']\n[vm.d]\nready = 'agent'\nnics = ['lan']\n",
    );
    home.weft(&["up"]).ok();
    let own = |path: &str| format!("/usr/lib/weft/bin/{path}");
    assert_eq!(home.exec("c", &[&own("hostname")]).ok().trim(), "c");
    eventually("the program answers", Duration::from_secs(20), || {
        home.exec("d", &["wget", "-q", "-O", "-", "http://c:8080/"]).out == "second\n"
    });
    assert_ne!(home.exec("d", &["wget", "-q", "-O", "-", "http://c:8080/secret"]).code, 0);
    let processes = home.exec("c", &[&own("ps"), "-o", "user,args"]).ok();
    assert!(processes.contains("www      /bin/busybox httpd -f"), "{processes}");
    home.weft(&["down"]).ok();
    // Packed, it is the same; and cut off, nothing of it stays.
    home.weft(&["image", "import", "other", &at("packed.tar.gz")]).ok();
    std::fs::write(at("cut.tar.gz"), &std::fs::read(at("packed.tar.gz")).unwrap()[..50_000]).unwrap();
    run("chmod", &["a+r", &at("cut.tar.gz")]);
    let cut = home.weft(&["image", "import", "cut", &at("cut.tar.gz")]);
    assert_eq!(cut.code, 1);
    assert!(cut.err.contains("the archive"), "{}", cut.err);
    assert!(home.json(&["image", "ls"]).as_array().unwrap().iter().all(|image| image["name"] != "cut"));
    home.assert_gone();
}

#[test]
fn a_debian_is_built_and_becomes_a_machine() {
    let home = Home::new("debian");
    home.weft(&["image", "build", "debian"]).ok();
    home.write("weft.toml", "[network.lan]\n[vm.deb]\nimage = 'debian'\nready = 'agent'\nmemory = '512MiB'\nnics = ['lan']\ndisk_size = '5GiB'\n");
    home.weft(&["up"]).ok();
    assert_eq!(home.exec("deb", &["hostname"]).ok().trim(), "deb");
    home.exec("deb", &["ping", "-c", "1", "-W", "5", "gateway"]).ok();
    assert_eq!(home.exec("deb", &["stat", "-c", "%u %g %a", "/etc/shadow"]).ok().trim(), "0 42 640");
    assert!(home.exec("deb", &["systemctl", "--failed", "--no-legend"]).ok().trim().is_empty());
    let disk: u64 = home.exec("deb", &["sh", "-c", "df -k / | awk 'END { print $2 }'"]).ok().trim().parse().unwrap();
    assert!(disk > 4 << 20, "the file system has not grown: {disk} KiB");
    // Off by the guest's own way, and what was written is there again.
    home.exec("deb", &["sh", "-c", "echo kept >/root/note"]).ok();
    home.weft(&["vm", "restart", "deb"]).ok();
    assert_eq!(home.exec("deb", &["cat", "/root/note"]).ok(), "kept\n");
    home.weft(&["down"]).ok();
    home.assert_gone();
}
