//! What tests share: namespaces, frame builders, throw-away worlds.
