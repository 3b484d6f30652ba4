//! What guests and clients say to Weft, and what the host says to the agent.

use weft_agent::frame;
use weft_agent::message::{ToGuest, ToHost};
use weft_agent::session::{ClientFrame, Decoder, Frame, ServerFrame};
use weft_machine::guest::qga::{Reply, parse_addresses, parse_exec_status, parse_reply};

/// A stream on the virtio-serial port: in one piece and byte by byte it gives the same messages, and what can be read
/// says the same when it is written again.
pub(crate) fn agent_port(data: &[u8]) {
    let mut whole = frame::Decoder::default();
    let mut rest = data;
    let messages: Vec<Vec<u8>> = std::iter::from_fn(|| whole.next(&mut rest)).collect();
    let mut single = frame::Decoder::default();
    let bytes = data.iter().filter_map(|byte| single.next(&mut std::slice::from_ref(byte)));
    assert!(bytes.eq(messages.iter().cloned()));
    assert_eq!(whole.damaged(), single.damaged());
    messages.iter().for_each(|message| agent_message(message));
}

/// One message, in either direction.
pub(crate) fn agent_message(data: &[u8]) {
    if let Ok(message) = ToGuest::decode(data) {
        assert_eq!(ToGuest::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = ToHost::decode(data) {
        assert_eq!(ToHost::decode(&message.encode()), Ok(message));
    }
}

/// A session's stream, in either direction.
pub(crate) fn agent_session(data: &[u8]) {
    both_ways::<ClientFrame>(data);
    both_ways::<ServerFrame>(data);
}

fn both_ways<F: Frame + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let mut whole = Decoder::<F>::default();
    whole.push(data);
    let mut single = Decoder::<F>::default();
    let mut bytes = data.iter();
    loop {
        let expected = whole.next();
        let mut found = single.next();
        while found == Ok(None)
            && let Some(byte) = bytes.next()
        {
            single.push(std::slice::from_ref(byte));
            found = single.next();
        }
        assert_eq!(found, expected);
        match expected {
            Ok(Some(frame)) => {
                let mut again = Vec::new();
                frame.encode(&mut again);
                let mut decoder = Decoder::<F>::default();
                decoder.push(&again);
                // An empty piece of a stream says nothing, and is not written.
                assert!(again.is_empty() || decoder.next() == Ok(Some(frame)));
            }
            _ => return,
        }
    }
}

/// A line from the QEMU guest agent.
pub(crate) fn qemu_guest_agent(data: &[u8]) {
    if let Ok(Reply::Return(value)) = parse_reply(data) {
        let _ = (parse_exec_status(&value), parse_addresses(&value));
    }
}
