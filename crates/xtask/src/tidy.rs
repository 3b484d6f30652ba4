//! Is the house as docs/ARCHITECTURE.md and docs/DEPENDENCIES.md say?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// A file that is longer has more than one subject.
const MAX_FILE_LINES: usize = 1000;

/// Marks that someone meant to come back.
const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", "FIXME"];

/// Everything that is not as it is drawn; empty when all is well.
pub(crate) fn problems(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    match (arrows(root), rooms(root)) {
        (Ok(arrows), Ok(rooms)) => {
            check_arrows(&arrows, &rooms, &mut problems);
            check_dependencies(root, &rooms, &mut problems);
        }
        (arrows, rooms) => problems.extend([arrows.err(), rooms.err()].into_iter().flatten()),
    }
    check_files(root, &mut problems);
    problems
}

/// What each room may use, from the `arrows` block of docs/ARCHITECTURE.md.
fn arrows(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let text = read(&root.join("docs/ARCHITECTURE.md"))?;
    let (_, block) = text.split_once("```arrows\n").ok_or("docs/ARCHITECTURE.md has no `arrows` block")?;
    let block = block.split("```").next().unwrap_or_default();
    let line = |line: &str| {
        let (room, uses) = line.split_once(':')?;
        Some((room.trim().to_owned(), uses.split_whitespace().map(str::to_owned).collect()))
    };
    Ok(block.lines().filter_map(line).collect())
}

/// Each room's ordinary dependencies, by its folder's name.
fn rooms(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut rooms = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates")).map_err(|e| format!("crates: {e}"))?.flatten() {
        let manifest = entry.path().join("Cargo.toml");
        let dependencies = keys(&manifest, &["dependencies"])?;
        rooms.insert(entry.file_name().to_string_lossy().into_owned(), dependencies);
    }
    Ok(rooms)
}

fn check_arrows(
    arrows: &BTreeMap<String, BTreeSet<String>>,
    rooms: &BTreeMap<String, BTreeSet<String>>,
    problems: &mut Vec<String>,
) {
    for (room, dependencies) in rooms {
        let Some(allowed) = arrows.get(room) else {
            problems.push(format!("crates/{room} is not drawn in docs/ARCHITECTURE.md"));
            continue;
        };
        for used in dependencies.iter().filter_map(|name| name.strip_prefix("weft-")) {
            if !allowed.contains(used) {
                problems.push(format!("crates/{room} uses `{used}`, an arrow that docs/ARCHITECTURE.md does not draw"));
            }
        }
    }
    for room in arrows.keys().filter(|room| !rooms.contains_key(*room)) {
        problems.push(format!("docs/ARCHITECTURE.md draws `{room}`, which does not exist"));
    }
}

/// Every foreign crate has its reason in docs/DEPENDENCIES.md, and every reason its crate.
fn check_dependencies(root: &Path, rooms: &BTreeMap<String, BTreeSet<String>>, problems: &mut Vec<String>) {
    let check = || -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let text = read(&root.join("docs/DEPENDENCIES.md"))?;
        let explained: BTreeSet<_> = text.split("| `").skip(1).filter_map(|cell| cell.split('`').next()).collect();
        let named = keys(&root.join("Cargo.toml"), &["workspace", "dependencies"])?;
        let mut used: BTreeSet<String> = rooms.values().flatten().cloned().collect();
        for folder in fs::read_dir(root.join("crates")).map_err(|e| e.to_string())?.flatten() {
            for table in ["dev-dependencies", "build-dependencies"] {
                used.extend(keys(&folder.path().join("Cargo.toml"), &[table])?);
            }
        }
        used.extend(keys(&root.join("fuzz/Cargo.toml"), &["dependencies"])?);
        for name in named.iter().filter(|name| !name.starts_with("weft-")) {
            if !explained.contains(name.as_str()) {
                found.push(format!("`{name}` has no reason in docs/DEPENDENCIES.md"));
            }
            if !used.contains(name) {
                found.push(format!("`{name}` stands in Cargo.toml, and no room uses it"));
            }
        }
        let gone = explained.iter().filter(|name| !named.contains(**name));
        found.extend(gone.map(|name| format!("docs/DEPENDENCIES.md explains `{name}`, which is not used")));
        Ok(found)
    };
    match check() {
        Ok(found) => problems.extend(found),
        Err(problem) => problems.push(problem),
    }
}

fn check_files(root: &Path, problems: &mut Vec<String>) {
    let mut files = Vec::new();
    for folder in ["crates", "fuzz"] {
        rust_files(&root.join(folder), &mut files);
    }
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let name = file.strip_prefix(root).unwrap_or(&file).display();
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            problems.push(format!("{name} has {lines} lines: give each of its subjects a file"));
        }
        if file.ends_with("xtask/src/tidy.rs") {
            continue;
        }
        for mark in UNFINISHED.iter().filter(|mark| text.contains(**mark)) {
            problems.push(format!("{name} is not finished: `{mark}`"));
        }
    }
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The keys of a table of a manifest, none if it is not there.
fn keys(manifest: &Path, path: &[&str]) -> Result<BTreeSet<String>, String> {
    let text = read(manifest)?;
    let document = DeTable::parse(&text).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let mut table = document.get_ref();
    for key in path {
        match table.get(*key).map(|value| value.get_ref()) {
            Some(DeValue::Table(inner)) => table = inner,
            _ => return Ok(BTreeSet::new()),
        }
    }
    Ok(table.iter().map(|(key, _)| key.get_ref().to_string()).collect())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
