//! Copies for mirrors (law 7), and mirrors that come and go without a configuration.

use weft_wire::TagEdit;

use super::{Switch, leave};
use crate::frame::Frame;
use crate::pipeline::{self, Action, Mirrors};
use crate::table::{PortIndex, Tables};
use crate::{Config, ConfigError, Mirror, MirrorCopy, MirrorId, MirrorTarget, Output, VSwitchId, validate};

impl Switch {
    /// Who gets a copy of the frame that was decided about last, whatever became of it.
    pub fn copies(&self) -> &[MirrorCopy] {
        &self.copies
    }

    /// Mirrors until [`stop_capture`](Self::stop_capture), or until the vSwitch is gone, what no configuration says:
    /// somebody looks. Where a vSwitch has [`MAX_MIRRORS`] mirrors already, this one gets nothing until there are less.
    ///
    /// # Errors
    /// When the mirror cannot be; `None` in place of its error when there is no such vSwitch.
    pub fn start_capture(&mut self, vswitch: VSwitchId, mirror: Mirror) -> Result<(), Option<ConfigError>> {
        self.tables.place(vswitch).ok_or(None)?;
        let port = |id| self.tables.index(id).map(|index| &self.tables.port(index).config);
        let mut problems = Vec::new();
        validate::check_mirror(vswitch, &mirror, port, &mut problems);
        if let Some(problem) = problems.pop() {
            return Err(Some(problem));
        }
        self.captures.push((vswitch, mirror));
        self.renew_mirrors(vswitch);
        Ok(())
    }

    /// Ends a capture.
    pub fn stop_capture(&mut self, mirror: MirrorId) {
        let Some(at) = self.captures.iter().position(|(_, capture)| capture.id == mirror) else { return };
        let (vswitch, _) = self.captures.remove(at);
        self.renew_mirrors(vswitch);
    }

    /// All mirrors of a vSwitch: those of a configuration, and the captures.
    pub(super) fn mirrors_at(&self, config: &Config, vswitch: VSwitchId) -> Vec<Mirror> {
        let configured = config.vswitches.iter().filter(|config| config.id == vswitch);
        let captures = self.captures.iter().filter(|(home, _)| *home == vswitch).map(|(_, mirror)| mirror);
        configured.flat_map(|config| &config.mirrors).chain(captures).cloned().collect()
    }

    fn renew_mirrors(&mut self, vswitch: VSwitchId) {
        let Some(place) = self.tables.place(vswitch) else { return };
        self.tables.set_mirrors(place, self.mirrors_at(&self.config, vswitch));
        self.forget(place.number());
    }
}

/// The mirrors that get a copy of a frame of which was decided that `action`; `outputs` is room to think.
pub(super) fn selected(
    tables: &Tables,
    ingress: PortIndex,
    frame: &Frame<'_>,
    action: Action,
    outputs: &mut Vec<Output>,
) -> Mirrors {
    let port = tables.port(ingress);
    let vswitch = tables.vswitch(port.vswitch);
    if vswitch.mirrors().is_empty() {
        return 0;
    }
    leave(tables, ingress, frame, action, outputs);
    let segment = port.config.vlans.classify(frame.link.tag, frame.is_double()).ok();
    pipeline::mirror::select(vswitch, port.config.id, frame, segment, outputs)
}

/// Puts the copies that `mirrors` get into `copies`: none goes to where the frame came from, nor to where it goes
/// or may not go.
#[inline(never)]
pub(super) fn copy(
    tables: &Tables,
    ingress: PortIndex,
    frame: &Frame<'_>,
    mirrors: Mirrors,
    outputs: &[Output],
    copies: &mut Vec<MirrorCopy>,
) {
    let port = tables.port(ingress);
    let segment = port.config.vlans.classify(frame.link.tag, frame.is_double()).ok();
    let mirrors = tables.vswitch(port.vswitch).mirrors().iter().zip(0..).filter(|(_, bit)| mirrors >> bit & 1 == 1);
    copies.extend(mirrors.filter_map(|(mirror, _)| {
        let edit = match mirror.to {
            MirrorTarget::Outside => TagEdit::Keep,
            MirrorTarget::Port(target) => {
                if target == port.config.id || outputs.iter().any(|output| output.port == target) {
                    return None;
                }
                let target = tables.port(tables.index(target)?);
                // What is for the host itself goes there, or may not.
                if target.config.is_end() && target.is_configured(frame.link.dst) {
                    return None;
                }
                let vlans = &target.config.vlans;
                let carried = segment.filter(|segment| vlans.carries(*segment));
                let edit = carried.map_or(TagEdit::Keep, |segment| vlans.edit(segment, frame.link.tag));
                if edit == TagEdit::Pop && frame.is_double() { TagEdit::Keep } else { edit }
            }
        };
        Some(MirrorCopy { mirror: mirror.id, to: mirror.to, edit, snap_bytes: mirror.snap_bytes })
    }));
}
