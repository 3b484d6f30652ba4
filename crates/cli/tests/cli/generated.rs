//! Completions and man pages, from the same definition as the help.

use crate::bed::Home;

#[test]
fn every_command_has_a_man_page() {
    let home = Home::new();
    let dir = home.path().join("man");
    assert!(home.weft(&["man", dir.to_str().unwrap()]).status().unwrap().success());
    let page = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in ["weft.1", "weft-up.1", "weft-exec.1", "weft-vm.1", "weft-vm-restart.1"] {
        assert!(page(name).contains(".TH"), "{name}");
    }
    assert!(!dir.join("weft-daemon.1").exists(), "hidden roles have none");
    let one = home.weft(&["man"]).output().unwrap();
    assert!(String::from_utf8(one.stdout).unwrap().contains("Virtual machines and the networks between them"));
}

#[test]
fn every_shell_is_served() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(home.weft(&["completions", shell]).output().unwrap().stdout).unwrap();
        assert!(script.contains("doctor"), "{shell}");
        assert!(script.contains("weft"), "{shell}");
    }
}
