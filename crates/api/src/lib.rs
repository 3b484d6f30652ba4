//! The REST API: server and typed client.
