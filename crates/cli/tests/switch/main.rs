//! `weft switch run`: the real binary, and peers of every kind.

mod bed;
mod capture;
mod collector;
mod explain;
mod filter;
mod hosts;
mod life;
mod machine;
mod migration;
mod namespaces;
mod openvswitch;
mod rates;
mod resume;
mod uplinks;
mod vlans;
