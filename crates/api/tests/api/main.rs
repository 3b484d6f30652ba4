//! Server and client, over a real socket and a real controller whose world is empty.

mod bed;
mod document;
mod routes;
mod tunnels;
