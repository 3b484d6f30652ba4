use serde::{Deserialize, Serialize};

use crate::VmName;

/// What a machine is told of itself by its metadata service, as clouds do it for their images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The machine, which is its host name too.
    pub vm: VmName,
    /// What cloud-init knows it by: with another one it is another machine to it.
    pub instance_id: String,
    /// An SSH public key that lets in.
    pub ssh_key: Option<String>,
    /// What cloud-init is to do.
    pub user_data: UserData,
}

/// A machine's user data, as far as they are told over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserData {
    /// There are none.
    #[default]
    None,
    /// These, as they stand in the user's file.
    Text(String),
    /// They are too long, and stand on the machine's seed disk alone.
    OnDisk,
}
