//! What vNICs listen to, as whoever runs their machines tells (law 1).

use weft_dataplane_protocol::{ErrorCode, ListensRequest, ReceiveFilter as Told, Refusal};
use weft_switch::ReceiveFilter;
use weft_types::{PortId, PortName};

use crate::mailbox::ClientId;
use crate::worker::Worker;

/// What a vNIC asks to hear, and who says so.
#[derive(Debug)]
pub(crate) struct Wish {
    filter: ReceiveFilter,
    told_by: ClientId,
}

impl Worker {
    /// Takes up what a vNIC listens to. The same again is no new wish.
    ///
    /// # Errors
    /// When there is no such port.
    pub(crate) fn hear_filter(&mut self, request: ListensRequest, told_by: ClientId) -> Result<(), Refusal> {
        let ListensRequest { port, filter } = request;
        let Some(id) = self.id_of(&port) else {
            return Err(Refusal {
                code: ErrorCode::BadRequest,
                message: format!("there is no port `{port}`"),
                hint: "tell it once the port is there".into(),
            });
        };
        let Some(filter) = filter else {
            self.wishes.remove(&port);
            self.switch.forget_receive_filter(id);
            return Ok(());
        };
        let Told { stations, groups, all_multicast, promiscuous } = filter;
        let filter = ReceiveFilter { stations, groups, all_multicast, promiscuous };
        match self.wishes.get(&port) {
            Some(known) if is_same_wish(&known.filter, &filter) => self.switch.review_receive_filter(id, &filter),
            _ => self.switch.set_receive_filter(id, &filter),
        };
        self.wishes.insert(port, Wish { filter, told_by });
        Ok(())
    }

    /// This client tells no more which groups vNICs join, so those of which it told hear all. Their addresses stay: what
    /// is on its way to them must not be lost.
    pub(crate) fn hear_every_group(&mut self, client: ClientId) {
        for slot in &self.slots {
            let wish = self.wishes.get_mut(&slot.about.name).filter(|wish| wish.told_by == client);
            if let Some(Wish { filter, .. }) = wish {
                filter.all_multicast = true;
                self.switch.review_receive_filter(slot.id, filter);
            }
        }
    }

    /// Has ports that are new, or otherwise, or have others beside them, listen to what their vNICs ask for.
    pub(crate) fn review_filters(&mut self) {
        for slot in &self.slots {
            if let Some(wish) = self.wishes.get(&slot.about.name) {
                self.switch.review_receive_filter(slot.id, &wish.filter);
            }
        }
        let slots = &self.slots;
        self.wishes.retain(|port, _| slots.iter().any(|slot| slot.about.name == *port));
    }

    fn id_of(&self, port: &PortName) -> Option<PortId> {
        self.slots.iter().find(|slot| slot.about.name == *port).map(|slot| slot.id)
    }
}

/// Whether nothing is asked for that policy could deny and was not asked for before. After a time without anybody who
/// tells, the groups may be others.
fn is_same_wish(known: &ReceiveFilter, new: &ReceiveFilter) -> bool {
    known.stations == new.stations && known.promiscuous == new.promiscuous
}
