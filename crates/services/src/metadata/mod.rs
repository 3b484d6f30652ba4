//! What a machine asks of 169.254.169.254, where clouds tell their images who they are: the layouts of EC2's instance
//! metadata service, of OpenStack's, and of cloud-init's NoCloud seed, each as far as cloud-init reads it.
//!
//! Who asks is known by his adapter, which the switch vouches for: there are no credentials here, and nobody hears of
//! another machine.

mod document;
mod http;

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_types::Metadata;

pub(crate) use self::http::{MAX_HEAD_BYTES, Request};
use self::http::{Method, Response, Status};

/// Where the service stands, on every network alike (RFC 3927 keeps the addresses for one link).
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The port of it.
pub(crate) const SOCKET: SocketAddrV4 = SocketAddrV4::new(ADDRESS, 80);

/// What EC2's clients show for having asked first; here nothing depends on it.
const TOKEN: &str = "weft";
/// Where they ask for it.
const TOKEN_PATH: [&str; 3] = ["latest", "api", "token"];

/// The bytes of the answer to what `machine`, which asks from `guest`, has sent.
pub(crate) fn answer(machine: &Metadata, guest: Ipv4Addr, request: &Request) -> Vec<u8> {
    respond(machine, guest, request).bytes(request.is_head())
}

fn respond(machine: &Metadata, guest: Ipv4Addr, request: &Request) -> Response {
    let (method, path) = match request {
        Request::Sound { is_forwarded: true, .. } => {
            return Response::plain(Status::Forbidden, "a proxy asks; the machine has to ask itself\n");
        }
        Request::Sound { method, path, .. } => (*method, path),
        Request::Unsound(status) => return Response::plain(*status, "this is no request\n"),
    };
    let path = path.split('?').next().unwrap_or_default();
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    match method {
        Method::Put if steps == TOKEN_PATH => Response::plain(Status::Ok, TOKEN),
        Method::Put => Response::plain(Status::MethodNotAllowed, "only a token is given for a PUT\n"),
        Method::Get | Method::Head => document::find(machine, guest, &steps).unwrap_or_else(|| {
            Response::plain(Status::NotFound, "there is nothing of that name; `/` lists what there is\n")
        }),
    }
}
