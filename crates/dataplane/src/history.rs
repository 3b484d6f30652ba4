//! What was decided lately, with names.

use weft_dataplane_protocol::{DroppedFrame, History, LoggedDecision};
use weft_switch::VSwitchId;
use weft_types::{Instant, NetworkName, PortId, PortName};
use weft_wire::Headers;

use crate::worker::Worker;

impl Worker {
    /// All of it; of ports and networks that are still there.
    pub(crate) fn history(&self, now: Instant) -> History {
        let age_ms = |at: Instant| now.since(at).as_millis() as u64;
        let drops = self.switch.dropped().filter_map(|frame| {
            let headers = Headers::parse(frame.head(), frame.len);
            Some(DroppedFrame {
                port: self.port_name(frame.port)?,
                reason: frame.reason.name().to_owned(),
                rule: frame.rule.as_deref().map(str::to_owned),
                age_ms: age_ms(frame.at),
                summary: headers.map_or_else(|problem| problem.to_string(), |headers| headers.to_string()),
                len: frame.len as u64,
                head: frame.head().to_vec(),
            })
        });
        let log = self.switch.rule_log().decisions().filter_map(|logged| {
            Some(LoggedDecision {
                network: self.network_name(logged.vswitch)?,
                rule: logged.rule.to_string(),
                permission: logged.permission,
                from: self.port_name(logged.from)?,
                to: self.port_name(logged.to)?,
                age_ms: age_ms(logged.at),
                summary: logged.headers.to_string(),
                len: logged.len as u64,
            })
        });
        History { drops: drops.collect(), log: log.collect(), log_lost: self.switch.rule_log().lost() }
    }

    fn port_name(&self, id: PortId) -> Option<PortName> {
        let index = self.slot_of.get(id.0 as usize).copied().flatten()?;
        Some(self.slots.get(index)?.about.name.clone())
    }

    fn network_name(&self, id: VSwitchId) -> Option<NetworkName> {
        self.slots.iter().find(|slot| slot.about.network_id.0 == id.0).map(|slot| slot.about.network.clone())
    }
}
