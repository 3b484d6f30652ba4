//! What stands at which path.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use weft_types::{Metadata, UserData};

use super::http::{Response, Status};

/// OpenStack's versions, in which what is told here did not change (cloud-init takes the last that it knows).
const OPENSTACK: &[&str] = &["2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2018-08-27", "latest"];
/// EC2's, of which cloud-init asks for the first (cloud-init's documentation, "Amazon EC2").
const EC2: &[&str] = &["2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest"];

/// User data where there are none, for readers to whom a missing file is an error.
const NO_USER_DATA: &str = "#cloud-config\n{}\n";

/// What stands at a path, if anything does.
pub(super) fn find(machine: &Metadata, guest: Ipv4Addr, steps: &[&str]) -> Option<Response> {
    match steps {
        [] => Some(listing(EC2.iter().copied().chain(["openstack/"]))),
        ["openstack"] => Some(listing(OPENSTACK.iter().copied())),
        ["openstack", version, rest @ ..] if OPENSTACK.contains(version) => openstack(machine, rest),
        [version, rest @ ..] if EC2.contains(version) => ec2(machine, guest, rest),
        [file] => nocloud(machine, file),
        _ => None,
    }
}

fn text(text: impl Into<String>) -> Response {
    Response::plain(Status::Ok, text)
}

/// Names, a line each; folders end with a stroke.
fn listing<'a>(names: impl IntoIterator<Item = &'a str>) -> Response {
    text(names.into_iter().collect::<Vec<_>>().join("\n"))
}

fn user_data(machine: &Metadata) -> Option<Response> {
    match &machine.user_data {
        UserData::None => None,
        UserData::Text(data) => Some(text(data)),
        UserData::OnDisk => Some(Response::plain(
            Status::Unavailable,
            "the user data are too long to be told here; they stand on the disk with the label CIDATA\n",
        )),
    }
}

/// A key lets root in too, as on the seed disk.
fn vendor_data(machine: &Metadata) -> String {
    format!("#cloud-config\n{}\n", json!({ "disable_root": machine.ssh_key.is_none() }))
}

/// The service of OpenStack (Nova's documentation, "Metadata").
fn openstack(machine: &Metadata, steps: &[&str]) -> Option<Response> {
    match steps {
        [] => Some(listing(["meta_data.json", "user_data", "vendor_data.json"])),
        ["meta_data.json"] => {
            let mut data = json!({
                "uuid": machine.instance_id,
                "hostname": machine.vm,
                "name": machine.vm,
                "launch_index": 0,
                "availability_zone": "weft",
            });
            if let Some(key) = key(machine) {
                data["public_keys"] = json!({ "weft": key });
            }
            Some(Response::json(&data))
        }
        ["user_data"] => user_data(machine),
        ["vendor_data.json"] => Some(Response::json(&json!({ "cloud-init": vendor_data(machine) }))),
        _ => None,
    }
}

/// EC2's instance metadata service.
fn ec2(machine: &Metadata, guest: Ipv4Addr, steps: &[&str]) -> Option<Response> {
    let key = key(machine);
    match steps {
        [] => Some(listing(["meta-data/", "user-data"])),
        ["user-data"] => user_data(machine),
        ["meta-data"] => {
            let always = ["ami-id", "hostname", "instance-id", "instance-type", "local-hostname", "local-ipv4"];
            Some(listing(always.into_iter().chain(key.map(|_| "public-keys/"))))
        }
        ["meta-data", name] if *name != "public-keys" => Some(text(match *name {
            "ami-id" | "instance-type" => "weft".to_owned(),
            "hostname" | "local-hostname" => machine.vm.to_string(),
            "instance-id" => machine.instance_id.clone(),
            "local-ipv4" => guest.to_string(),
            _ => return None,
        })),
        ["meta-data", "public-keys", rest @ ..] => {
            let key = key?;
            match rest {
                [] => Some(text("0=weft")),
                ["0"] => Some(text("openssh-key")),
                ["0", "openssh-key"] => Some(text(format!("{key}\n"))),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A seed folder of cloud-init's NoCloud, for `ds=nocloud;s=http://169.254.169.254/`. Written as JSON, which is YAML too.
fn nocloud(machine: &Metadata, file: &str) -> Option<Response> {
    match file {
        "meta-data" => {
            let mut data = json!({ "instance-id": machine.instance_id, "local-hostname": machine.vm });
            if let Some(key) = key(machine) {
                data["public-keys"] = Value::from(vec![key]);
            }
            Some(text(data.to_string()))
        }
        "user-data" => Some(user_data(machine).unwrap_or_else(|| text(NO_USER_DATA))),
        "vendor-data" => Some(text(vendor_data(machine))),
        _ => None,
    }
}

fn key(machine: &Metadata) -> Option<&str> {
    machine.ssh_key.as_deref().map(str::trim).filter(|key| !key.is_empty())
}
