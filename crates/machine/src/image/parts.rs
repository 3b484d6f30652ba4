//! What somebody needs who puts a system of their own together: a kernel, modules and a busybox.

use std::path::PathBuf;

use super::kernel::Choice;
use super::{Images, Progress};
use crate::MachineError;

/// A kernel with modules of one's choice, and a busybox: the rest is up to whoever asked for them.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel, as a boot loader wants it.
    pub kernel: PathBuf,
    /// Its release, like `6.1.0-44-amd64`: the name of its folder in `/lib/modules`.
    pub release: String,
    /// The modules, each after what it needs: the names of their files and their contents.
    pub modules: Vec<(String, Vec<u8>)>,
    /// What each module needs, in the format of `modules.dep(5)`.
    pub modules_dep: String,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The names of its programs.
    pub applets: Vec<String>,
}

impl Images {
    /// Debian's newest kernel of the kind for which `package` stands (like `linux-image-amd64`) with these modules and
    /// those that they need, and a busybox; fetched if they are not in the cache yet.
    pub fn parts(&self, package: &str, modules: &[&str], progress: &dyn Fn(Progress)) -> Result<Parts, MachineError> {
        let _lock = self.lock(progress)?;
        let (kernel, busybox) = self.ingredients(&Choice { package, modules }, progress)?;
        let (modules_dep, modules) = kernel.modules()?;
        let path = kernel.path();
        let release = kernel.release;
        Ok(Parts { kernel: path, release, modules, modules_dep, busybox: busybox.path, applets: busybox.applets })
    }
}
