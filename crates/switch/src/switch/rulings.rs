//! What becomes of an access list's decisions besides the verdict: they are counted, logged and answered.

use std::sync::Arc;

use weft_types::Instant;
use weft_wire::Headers;

use super::Switch;
use crate::bucket::Bucket;
use crate::frame::Frame;
use crate::pipeline::{self, Effects, Ruling};
use crate::rejection::{self, ANSWERS};
use crate::table::PortIndex;
use crate::{Logged, Permission};

impl Switch {
    /// Counts what rules decided about a frame, and logs it where they ask for that.
    pub(super) fn note_rulings(
        &mut self,
        now: Instant,
        ingress: PortIndex,
        frame: &Frame<'_>,
        frame_len: usize,
        effects: &Effects,
    ) {
        let port = self.tables.port(ingress);
        let (from, vswitch) = (port.config.id, self.tables.vswitch(port.vswitch));
        let Some((rules, counts)) = vswitch.rules.as_ref().zip(self.rule_counts.get_mut(port.vswitch.number())) else {
            return;
        };
        let mut note = |ruling: Ruling| {
            let Some(rule) = ruling.rule else { return };
            counts[rule] += 1;
            if let (Some(name), Ok(headers)) = (rules.logged(rule), Headers::parse(frame.head, frame_len)) {
                self.rule_log.note(Logged {
                    at: now,
                    vswitch: vswitch.config.id,
                    rule: name.clone(),
                    permission: ruling.permission,
                    from,
                    to: self.tables.port(ruling.receiver).config.id,
                    headers,
                    len: frame_len,
                });
            }
        };
        if let Some((segment, sender)) = effects.group {
            pipeline::rulings(&self.tables, ingress, frame, segment, sender).for_each(|(_, ruling)| note(ruling));
        }
        effects.ruling.into_iter().for_each(note);
    }

    /// The name of the rule that keeps a frame from passing, if one does; of a group's receivers, from the first.
    pub(super) fn denied_by(&self, ingress: PortIndex, frame: &Frame<'_>, effects: &Effects) -> Option<Arc<str>> {
        let rules = self.tables.vswitch(self.tables.port(ingress).vswitch).rules.as_ref()?;
        let of_group = effects.group.into_iter().flat_map(|(segment, sender)| {
            pipeline::rulings(&self.tables, ingress, frame, segment, sender).map(|(_, ruling)| ruling)
        });
        let mut rulings = effects.ruling.into_iter().chain(of_group);
        rules.name(rulings.find(|ruling| ruling.permission != Permission::Allow)?.rule?).cloned()
    }

    /// Has something answer a rejected frame, if its sender did not get too many answers.
    pub(super) fn answer_rejected(&mut self, now: Instant, ingress: PortIndex, frame: &Frame<'_>, frame_len: usize) {
        let port = self.tables.port(ingress).config.id;
        let left = self.answers_left.entry(port).or_insert_with(|| Bucket::full(now, ANSWERS));
        if left.is_open(now, ANSWERS) && rejection::answer(frame, frame_len, &mut self.answer) {
            left.take(now, ANSWERS, 1);
        } else {
            self.answer.clear();
        }
    }

    /// What is to be sent back, untouched, by the port by which the last frame came in, after it was dropped as
    /// [`DropReason::AclRejected`]: a TCP reset, or an ICMP error. `None` where hosts expect silence, and when the
    /// port had enough answers for now. It means nothing after any other verdict.
    pub fn answer(&self) -> Option<&[u8]> {
        (!self.answer.is_empty()).then_some(&self.answer)
    }
}
