//! Which file is meant, and under which name its objects are owned.

use std::path::{Component, Path, PathBuf};

use weft_control::Paths;
use weft_machine::Catalog;
use weft_model::{HostFacts, World};

use crate::failure::{Failure, Result};

/// The file that is meant where none is named.
pub(crate) const DEFAULT: &str = "weft.toml";

/// The file that is meant.
pub(crate) fn meant(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| DEFAULT.into())
}

/// Reads and validates a file, which may name the images of this home.
pub(crate) fn load(path: &Path, paths: &Paths) -> Result<World> {
    let kept = Catalog::new(paths.images()).list()?.into_iter();
    let usable = kept.filter_map(|(name, image)| Some((name, image.ok()?.source)));
    weft_model::load(path, &HostFacts::of_this_host(usable.collect())).map_err(Failure::File)
}

/// Who owns what a file makes: its absolute path, the same wherever it is named from and whether it is there or not.
pub(crate) fn owner(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
    let path = match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => without_dots(&absolute),
    };
    path.to_string_lossy().into_owned()
}

/// The path without `..`, as far as that can be said without looking.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        std::fs::create_dir(home.join("sub")).unwrap();
        std::os::unix::fs::symlink(home.join("sub"), home.join("link")).unwrap();
        let expected = home.join("sub/lab.toml").display().to_string();
        for spelling in ["sub/lab.toml", "sub/../sub/lab.toml", "sub/./lab.toml", "link/lab.toml"] {
            assert_eq!(owner(&home.join(spelling)), expected, "{spelling}");
        }
        assert_eq!(owner(Path::new("/nowhere/a/../lab.toml")), "/nowhere/lab.toml");
    }
}
