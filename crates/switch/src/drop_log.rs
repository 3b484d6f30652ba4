//! The last frames that were dropped, for each reason: what `why --drops` lists.

use std::collections::VecDeque;
use std::sync::Arc;

use weft_types::{Instant, PortId};

use crate::DropReason;

/// How many frames are kept for each reason.
const KEPT: usize = 8;

/// How much of each.
const HEAD_BYTES: usize = 128;

/// A frame that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedFrame {
    /// When.
    pub at: Instant,
    /// The port by which it came in.
    pub port: PortId,
    /// Why.
    pub reason: DropReason,
    /// The name of the rule that denied or rejected it, if one did.
    pub rule: Option<Arc<str>>,
    /// How many bytes it had.
    pub len: usize,
    head: [u8; HEAD_BYTES],
    head_len: u8,
}

impl DroppedFrame {
    /// The frame's first bytes, at most 128.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len.into()]
    }
}

/// Of every reason the last few.
#[derive(Debug)]
pub(crate) struct DropLog {
    frames: [VecDeque<DroppedFrame>; DropReason::ALL.len()],
}

impl DropLog {
    /// None, and room for all that will ever be kept.
    pub(crate) fn new() -> Self {
        Self { frames: std::array::from_fn(|_| VecDeque::with_capacity(KEPT)) }
    }

    /// Keeps a frame; the oldest of its reason gives way.
    pub(crate) fn note(
        &mut self,
        at: Instant,
        port: PortId,
        reason: DropReason,
        rule: Option<Arc<str>>,
        head: &[u8],
        len: usize,
    ) {
        let frames = &mut self.frames[reason as usize];
        if frames.len() == KEPT {
            frames.pop_front();
        }
        let head_len = head.len().min(HEAD_BYTES);
        let mut frame = DroppedFrame { at, port, reason, rule, len, head: [0; HEAD_BYTES], head_len: head_len as u8 };
        frame.head[..head_len].copy_from_slice(&head[..head_len]);
        frames.push_back(frame);
    }

    /// Forgets the frames of ports that are gone.
    pub(crate) fn retain(&mut self, is_port: impl Fn(PortId) -> bool) {
        self.frames.iter_mut().for_each(|frames| frames.retain(|frame| is_port(frame.port)));
    }

    /// What is kept: by reason, and of each the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DroppedFrame> {
        self.frames.iter().flatten()
    }
}
