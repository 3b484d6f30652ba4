//! The port trait and its drivers: they move frames and know no policy.
