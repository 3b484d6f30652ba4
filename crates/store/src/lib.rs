//! A revisioned key-value store with compare-and-swap and watch, in etcd's semantics.
