//! What the services promise to whoever stands on a network: transcripts, tables and laws.

mod bed;
mod client;
mod dhcp;
mod dhcp_options;
mod dhcp_probes;
mod dns;
mod gateway;
mod laws;
