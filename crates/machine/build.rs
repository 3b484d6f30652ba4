//! Builds the guest agent that travels inside every micro image: small, static, for the guest's own target.
//!
//! A second cargo builds it into a folder of its own below `OUT_DIR`, so that it neither waits for the first one's lock nor
//! shares its flags. The lock file says what it is made of, and is never changed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What the guests run.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PACKAGE: &str = "weft-agent";

/// What a cargo inside a cargo may see of the outer one; all else would change what it builds.
const KEPT: &[&str] = &["CARGO", "CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE"];

fn main() {
    let folder = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let (house, agent) = (folder.join("../.."), folder.join("../agent"));
    for watched in [agent.join("src"), agent.join("Cargo.toml"), house.join("Cargo.toml"), house.join("Cargo.lock")] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(variable("OUT_DIR"));
    let target_dir = out.join("agent");
    build(&agent.join("Cargo.toml"), &target_dir);
    let built = target_dir.join(TARGET).join("agent").join(PACKAGE);
    if let Err(error) = fs::copy(&built, out.join(PACKAGE)) {
        fail(&format!("the guest agent was built, but {} cannot be copied: {error}", built.display()));
    }
}

fn build(manifest: &Path, target_dir: &Path) {
    // The outer cargo has fetched all that is needed, unless it was told to choose other versions than the lock file.
    let offline = cargo(manifest, target_dir).arg("--offline").output();
    let output = match offline {
        Ok(output) if output.status.success() => return,
        Ok(_) => cargo(manifest, target_dir).output(),
        Err(error) => Err(error),
    };
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!(
            "the guest agent cannot be built.\n\
             It needs Rust's target {TARGET} (`rustup target add {TARGET}`), a C linker and the static C library \
             (Debian: `apt-get install gcc libc6-dev`).\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => fail(&format!("the guest agent cannot be built: cargo does not start: {error}")),
    }
}

fn cargo(manifest: &Path, target_dir: &Path) -> Command {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("CARGO") || text.starts_with("RUSTC_") || text == "RUSTFLAGS";
        if inherited && !KEPT.contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .args(["build", "--locked", "--profile", "agent", "--target", TARGET, "--bin", PACKAGE])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags());
    cargo
}

/// Static, and the same wherever the sources and the registry lie.
fn flags() -> OsString {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    if let Some(home) =
        env::var_os("CARGO_HOME").or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo").into()))
    {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(home);
        flags.push("=cargo");
    }
    flags
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
