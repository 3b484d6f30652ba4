//! `weft switch run`: the real binary, and peers of every kind.

mod bed;
mod capture;
mod life;
mod namespaces;
