//! Fuzz targets. Each is a plain function over bytes, so that the corpus replays on stable Rust in `make test`
//! and the same function runs under libFuzzer (`fuzz/README.md` tells how).
//!
//! A target may not panic, hang or allocate without bound, whatever the bytes.

mod agent;
mod ipv6;
mod keeper;
mod machine;
mod model;
mod nat;
mod port;
mod router;
mod services;
mod shaper;
mod switch;
mod vmm;
mod wire;

/// A target's name, which is also its corpus folder's, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of every room.
pub fn targets() -> Vec<Target> {
    vec![
        ("acl_rule", model::acl_rule),
        ("agent_message", agent::agent_message),
        ("agent_port", agent::agent_port),
        ("agent_session", agent::agent_session),
        ("devices", vmm::devices),
        ("disk_image", vmm::disk_image),
        ("dhcp_message", services::dhcp_message),
        ("dns_answer", services::dns_answer),
        ("dns_query", services::dns_query),
        ("dns_stream", services::dns_stream),
        ("metadata_stream", services::metadata_stream),
        ("frame_stream", port::frame_stream),
        ("gateway_frames", services::gateway_frames),
        ("guest_rings", port::guest_rings),
        ("image_layers", machine::image_layers),
        ("ipv6_frames", ipv6::ipv6_frames),
        ("keeper_message", keeper::keeper_message),
        ("kernel_module", machine::kernel_module),
        ("nat_life", nat::nat_life),
        ("package_archive", machine::package_archive),
        ("process_record", machine::process_record),
        ("qcow2_header", model::qcow2_header),
        ("qemu_guest_agent", agent::qemu_guest_agent),
        ("qmp", machine::qmp),
        ("receive_filter", machine::receive_filter),
        ("router_frames", router::router_frames),
        ("shaper_life", shaper::shaper_life),
        ("switch_file", model::switch_file),
        ("switch_life", switch::switch_life),
        ("vmm_description", vmm::vmm_description),
        ("wire_arp", wire::wire_arp),
        ("wire_capture", wire::wire_capture),
        ("wire_frame", wire::wire_frame),
        ("wire_ip", wire::wire_ip),
        ("wire_lldp", wire::wire_lldp),
        ("wire_offload", wire::wire_offload),
        ("wire_transport", wire::wire_transport),
        ("world_file", model::world_file),
    ]
}
