//! The guest agent and its protocol: exec with streams, a terminal and signals over virtio-serial.
//!
//! Two protocols live here, both sans-IO:
//!
//! * between Weft and the agent in a guest, many sessions share one byte stream, the virtio-serial port [`PORT_NAME`].
//!   [`frame`] finds messages in the stream, even where its other end was replaced in the middle of one;
//!   [`message`] says what they mean;
//! * between a client and Weft, one session has a stream of its own: [`session`].
//!
//! ```text
//! weft exec --session frames--> daemon --messages over virtio-serial--> weft-agent --pipes or a terminal--> command
//! ```
//!
//! # The conversation
//!
//! The agent says [`message::ToHost::Ready`] when it starts. The host says [`message::ToGuest::Hello`] with a number of
//! its own whenever it has opened the port, and ignores everything until a [`message::ToHost::Welcome`] brings that
//! number back: what comes before belonged to another host. A `Hello` with another number than before tells the agent
//! that the former host is gone; its sessions are hung up.
//!
//! # Flow control
//!
//! Each session may have [`message::WINDOW_BYTES`] of input and as much of output on the way. The receiver returns what
//! it has passed on as `Credit`. So a reader that stalls stalls its own session and no other, and neither side
//! ever holds more than a window per session.

mod codec;
pub mod frame;
pub mod message;
pub mod outbox;
pub mod session;

/// The virtio-serial port on which the agent listens.
pub const PORT_NAME: &str = "org.weft.agent.0";
