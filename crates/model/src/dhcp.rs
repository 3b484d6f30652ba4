//! The key `dhcp` of a network: what its DHCP server gives out, to whom, and what it tells.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;
use weft_types::{Boot, ClientKey, Ipv4Net, Ipv4Run, VmName};

use crate::Dhcp;
use crate::dhcp_options;
use crate::problem::Problem;
use crate::read::{Notes, Section, items, parse, wrong_type};

pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(3600);

/// What fits into the option that names a boot file, in one piece.
const MAX_BOOT_FILE_BYTES: usize = 255;

/// An address that is kept for a machine: it becomes that of the machine's adapter on the network.
pub(crate) struct KeptForVm {
    pub(crate) path: String,
    pub(crate) vm: VmName,
    pub(crate) ip: Ipv4Addr,
}

/// A server that gives out all of `subnet`, and does nothing special.
pub(crate) fn whole_subnet(subnet: Ipv4Net) -> Dhcp {
    let (first, last) = whole_pool(subnet);
    Dhcp {
        first,
        last,
        lease: DEFAULT_LEASE,
        excluded: Vec::new(),
        kept: BTreeMap::new(),
        options: BTreeMap::new(),
        boot: None,
    }
}

/// A server is on unless the file says `dhcp = false`; a table says what it does differently.
pub(crate) fn read(notes: &mut Notes, section: &mut Section<'_>, subnet: Ipv4Net) -> (Option<Dhcp>, Vec<KeptForVm>) {
    let path = section.path_of("dhcp");
    let mut dhcp = whole_subnet(subnet);
    let mut for_vms = Vec::new();
    match section.value(notes, "dhcp") {
        None | Some(DeValue::Boolean(true)) => {}
        Some(DeValue::Boolean(false)) => return (None, for_vms),
        Some(DeValue::Table(table)) => {
            let mut keys = Section::new(table, &path, "a DHCP server");
            let range = keys.string(notes, "range", "10.20.0.100-10.20.0.200");
            let range = range.and_then(|text| read_range(notes, &format!("{path}.range"), text));
            (dhcp.first, dhcp.last) = range.unwrap_or((dhcp.first, dhcp.last));
            for (path, value) in items(notes, &mut keys, "exclude", "[\"10.20.0.150-10.20.0.160\"]") {
                dhcp.excluded.extend(read_text::<Ipv4Run>(notes, &path, value, "10.20.0.150-10.20.0.160"));
            }
            let lease = keys.string(notes, "lease", "1h");
            let lease = lease.and_then(|text| read_duration(notes, &format!("{path}.lease"), text));
            dhcp.lease = lease.unwrap_or(DEFAULT_LEASE);
            (dhcp.kept, for_vms) = read_reserve(notes, &mut keys);
            dhcp.options = dhcp_options::read(notes, &mut keys);
            dhcp.boot = read_boot(notes, &mut keys);
            keys.finish(notes);
        }
        Some(other) => {
            let example = "{ range = \"10.20.0.100-10.20.0.200\" }";
            wrong_type::<()>(notes, &path, other, "true, false or a table", example);
        }
    }
    (Some(dhcp), for_vms)
}

/// All addresses for hosts; the server itself leaves out the gateway's and the kept ones.
pub(crate) fn whole_pool(subnet: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    if subnet == Ipv4Net::default() {
        return (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED); // not chosen yet
    }
    let first = u32::from(subnet.network()).saturating_add(1);
    (first.into(), u32::from(subnet.broadcast()).saturating_sub(1).into())
}

/// A text that means a value of another type.
fn read_text<T: FromStr>(notes: &mut Notes, path: &str, value: &DeValue<'_>, example: &str) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    match value.as_str() {
        Some(text) => parse(notes, path, text),
        None => wrong_type(notes, path, value, "a text", example),
    }
}

fn read_range(notes: &mut Notes, path: &str, text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let ends = text.split_once('-').map(|(first, last)| (first.trim().parse(), last.trim().parse()));
    if let Some((Ok(first), Ok(last))) = ends {
        return Some((first, last));
    }
    let hint = "write its first and last address, like `10.20.0.100-10.20.0.200`";
    notes.complain(path, Problem::new("bad-value", format!("`{text}` is not a range of addresses"), hint));
    None
}

fn read_duration(notes: &mut Notes, path: &str, text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)].iter().find(|(u, _)| *u == unit).map(|(_, f)| *f);
    let seconds = number.parse::<u64>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f));
    // Below a minute clients do nothing but renew; beyond a year the 32-bit field of RFC 2132 gets near its end.
    match seconds.filter(|s| (60..=31_536_000).contains(s)) {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => {
            let hint = "write a number and `s`, `m`, `h` or `d`, from `1m` to `365d`";
            notes.complain(path, Problem::new("bad-value", format!("`{text}` is not a lease time"), hint));
            None
        }
    }
}

/// The table `reserve`: who gets which address.
fn read_reserve(notes: &mut Notes, keys: &mut Section<'_>) -> (BTreeMap<ClientKey, Ipv4Addr>, Vec<KeptForVm>) {
    let (mut kept, mut for_vms) = (BTreeMap::new(), Vec::new());
    let table_path = keys.path_of("reserve");
    let Some(value) = keys.value(notes, "reserve") else { return (kept, for_vms) };
    let example = "{ \"02:00:5e:10:00:01\" = \"10.20.0.9\" }";
    let Some(table) = value.as_table() else {
        wrong_type::<()>(notes, &table_path, value, "a table", example);
        return (kept, for_vms);
    };
    for (key, value) in table.iter() {
        let client: &str = key.get_ref();
        let path = format!("{table_path}.{client}");
        notes.place(&path, value.span());
        let Some(ip) = read_text::<Ipv4Addr>(notes, &path, value.get_ref(), "10.20.0.9") else { continue };
        // No machine's name has a colon, which every other client has.
        match client.parse::<VmName>() {
            Ok(vm) => for_vms.push(KeptForVm { path, vm, ip }),
            Err(_) => match client.parse::<ClientKey>() {
                Ok(client) => {
                    if kept.insert(client, ip).is_some() {
                        let hint = "write it once";
                        let message = format!("`{}` stands here twice", key.get_ref());
                        notes.complain_at(key.span(), Problem::new("duplicate-client", message, hint));
                    }
                }
                Err(error) => {
                    let hint = "or write the name of a machine of this file";
                    notes.complain_at(key.span(), Problem::new("bad-value", error.to_string(), hint));
                }
            },
        }
    }
    (kept, for_vms)
}

/// The table `boot`: what clients load.
fn read_boot(notes: &mut Notes, keys: &mut Section<'_>) -> Option<Boot> {
    let path = keys.path_of("boot");
    let value = keys.value(notes, "boot")?;
    let Some(table) = value.as_table() else {
        let example = "{ server = \"10.20.0.2\", file = \"pxelinux.0\" }";
        return wrong_type(notes, &path, value, "a table", example);
    };
    let mut boot = Section::new(table, &path, "what clients boot");
    let server = boot.parsed::<Ipv4Addr>(notes, "server", "10.20.0.2");
    let mut name = |key: &'static str, example: &str| {
        let text = boot.string(notes, key, example)?;
        if text.is_empty() || text.len() > MAX_BOOT_FILE_BYTES || text.contains(char::is_control) {
            let message = format!("a boot file's name has 1 to {MAX_BOOT_FILE_BYTES} bytes, and no control characters");
            let problem = Problem::new("bad-value", message, format!("write it like `{key} = \"{example}\"`"));
            notes.complain(&format!("{path}.{key}"), problem);
            return None;
        }
        Some(text.to_owned())
    };
    let (file, efi) = (name("file", "pxelinux.0"), name("efi", "grubx64.efi"));
    let (arm64, http) = (name("arm64", "grubaa64.efi"), name("http", "http://10.20.0.2/boot.efi"));
    let ipxe = name("ipxe", "http://10.20.0.2/menu.ipxe");
    let has_server = boot.has("server");
    boot.finish(notes);
    let by_tftp = [&file, &efi, &arm64].into_iter().any(Option::is_some);
    if by_tftp && !has_server {
        let message = "nobody is named from whom the files are loaded";
        let hint = "write `server = \"ADDRESS\"`, the TFTP server's; the gateway serves no files";
        notes.complain(&path, Problem::new("missing-key", message, hint));
    } else if !by_tftp && http.is_none() && ipxe.is_none() {
        let message = "nothing is named that clients could load";
        notes.complain(
            &path,
            Problem::new("missing-key", message, "write `file = \"pxelinux.0\"`, or `http = \"http://…\"`"),
        );
    }
    Some(Boot { server, file, efi, arm64, http, ipxe })
}
