//! What the services promise to whoever stands on a network: transcripts, tables and laws.

mod bed;
mod client;
mod dhcp;
mod dhcp6;
mod dhcp_options;
mod dhcp_probes;
mod dns;
mod dns_cache;
mod dns_names;
mod dns_tcp;
mod gateway;
mod ipv6;
mod laws;
mod metadata;
mod router;
