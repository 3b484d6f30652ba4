//! What the types look like in the API's OpenAPI document: text, each with its form and an example.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    Allowance, BitRate, ByteSize, ClientKey, Collector, Direction, DomainName, ForwardTarget, Ipv4Run, Label, Listen,
    MacAddr, MacRange, NetworkName, Permission, PortName, PortRates, PortVlans, Provenance, VmName,
};

const LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

const MAC_RANGE: &str = "^[0-9a-fA-F:]{17}( to |-)[0-9a-fA-F:]{17}$";
const LISTEN: &str = "^((tcp|udp)/)?([^/]+:)?[0-9]{1,5}(-[0-9]{1,5})?$";
const TARGET: &str = "^[a-z0-9.-]+:[0-9]{1,5}$";
const ALLOWANCE: &str =
    "^(forged-mac|forged-ip|forged-arp|forged-nd|mac-change|promiscuous|dhcp-server|router-advertisement)$";

macro_rules! text {
    ($($name:ident: $description:literal, $pattern:expr, $example:literal;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(SchemaType::new(Type::String))
                    .description(Some($description))
                    .pattern(Some($pattern))
                    .examples([$example])
                    .into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

text! {
    ByteSize: "An amount of bytes with a binary unit.", "^[0-9]+(\\.[0-9]+)? *[KMGT]?i?B?$", "256MiB";
    BitRate: "A speed in bits a second.", "^[0-9]+(\\.[0-9]{1,3})? *[kMGT]?bit/s$", "100Mbit/s";
    MacAddr: "A 48-bit MAC address (IEEE 802).", "^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$", "02:00:5e:10:00:01";
    Label: "One label of a host name (RFC 1123).", LABEL, "micro";
    VmName: "A virtual machine's name, which is also its host name.", LABEL, "web";
    NetworkName: "A network's name, which is also its DNS zone under `weft`.", LABEL, "office";
    PortName: "A port's name.", LABEL, "web-0";
    MacRange: "A run of MAC addresses, both ends included.", MAC_RANGE, "02:00:5e:10:00:00 to 02:00:5e:10:00:ff";
    Allowance: "One thing beyond the ordinary that a port may do.", ALLOWANCE, "forged-ip";
    DomainName: "A DNS name, without the last dot.", "^[A-Za-z0-9_.-]{1,253}$", "git.example.org";
    Direction: "Which way frames go at a port, as the switch sees it.", "^(in|out|both)$", "both";
    Collector: "Who takes copies of frames somewhere on the host's networks.", "^(vxlan|erspan)://", "vxlan://10.0.0.5:4789/42";
    Listen: "Where on the host a port forward is met.", LISTEN, "tcp/127.0.0.1:8080";
    ForwardTarget: "The machine, or the address, and its port to which a port forward leads.", TARGET, "web:80";
    Ipv4Run: "A run of IPv4 addresses, both ends included.", "^[0-9.]+(-[0-9.]+)?$", "10.20.0.150-10.20.0.160";
    ClientKey: "What a DHCP client is known by: its MAC address or its identifier.", "^([0-9a-fA-F:-]{17}|id:.+)$", "02:00:5e:10:00:01";
    Permission: "What becomes of a connection.", "^(allow|deny|reject)$", "deny";
}

impl PartialSchema for PortVlans {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str, example: &str| {
            let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
            text.description(Some(description)).examples([example]).build()
        };
        let vlan = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Integer))
            .description(Some("The VLAN of an access port."))
            .minimum(Some(1))
            .maximum(Some(4094));
        ObjectBuilder::new()
            .description(Some("Which VLANs a port's frames are in (IEEE 802.1Q)."))
            .property("mode", text("`untagged`, `access` or `trunk`.", "trunk"))
            .property("vlan", vlan)
            .property("allowed", text("The VLANs that a trunk carries.", "10-20,30"))
            .property(
                "native",
                ObjectBuilder::new()
                    .schema_type(SchemaType::from_iter([Type::String, Type::Object, Type::Null]))
                    .description(Some("Where a trunk's frames without a tag are; absent where they are dropped."))
                    .examples(["untagged"]),
            )
            .required("mode")
            .into()
    }
}

impl ToSchema for PortVlans {
    fn name() -> Cow<'static, str> {
        "PortVlans".into()
    }
}

impl PartialSchema for PortRates {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str, example: &str| {
            let text = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
            text.description(Some(description)).examples([example]).build()
        };
        let excess = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .description(Some("`wait` or `drop`: what becomes of the rest."))
            .examples(["wait"]);
        ObjectBuilder::new()
            .description(Some("How fast a port may be, each way; absent where it may be as fast as it can."))
            .property("in", text("How fast what stands behind the port may send into the switch.", "100Mbit/s"))
            .property("out", text("How fast the switch may send to it.", "1Gbit/s"))
            .property("burst", text("The bytes that may exceed it for a moment.", "64KiB"))
            .property("excess", excess)
            .into()
    }
}

impl ToSchema for PortRates {
    fn name() -> Cow<'static, str> {
        "PortRates".into()
    }
}

impl PartialSchema for Provenance {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str| {
            ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).description(Some(description)).build()
        };
        let line = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Integer))
            .description(Some("The line in the file, from 1; absent for a command."))
            .minimum(Some(1));
        ObjectBuilder::new()
            .description(Some("Where an object was declared: a file and a line in it, or the command that made it."))
            .property("source", text("The file's absolute path, or the command line."))
            .property("line", line)
            .required("source")
            .into()
    }
}

impl ToSchema for Provenance {
    fn name() -> Cow<'static, str> {
        "Provenance".into()
    }
}
