//! The guest agent and its protocol: exec with streams, a terminal and signals over virtio-serial.
