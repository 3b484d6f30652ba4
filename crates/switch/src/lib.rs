//! The virtual switch, sans-IO: frames and time in, decisions out.
