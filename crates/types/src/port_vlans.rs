use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{VlanId, VlanSet};

/// Which VLANs a port's frames are in (IEEE 802.1Q).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode", deny_unknown_fields)]
pub enum PortVlans {
    /// None: its frames have no tag, and are in the segment that has no VLAN.
    #[default]
    Untagged,
    /// An access port: its frames have no tag, and are in one VLAN.
    Access {
        /// That VLAN.
        vlan: VlanId,
    },
    /// A trunk port: frames say by their tag in which VLAN they are.
    Trunk {
        /// The VLANs that may pass.
        allowed: VlanSet,
        /// Where frames without a tag are, which pass too; without one they are dropped.
        #[serde(default)]
        native: Option<Native>,
    },
}

/// Where a trunk's frames without a tag are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Native {
    /// In the segment that has no VLAN.
    Untagged,
    /// In this VLAN.
    Vlan(VlanId),
}

impl PortVlans {
    /// Whether a segment passes both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let carries = |vlans: &Self, segment: Native| match (vlans, segment) {
            (Self::Untagged, segment) => segment == Native::Untagged,
            (Self::Access { vlan }, segment) => segment == Native::Vlan(*vlan),
            (Self::Trunk { native: Some(native), .. }, segment) if *native == segment => true,
            (Self::Trunk { allowed, .. }, Native::Vlan(vlan)) => allowed.contains(vlan),
            (Self::Trunk { .. }, Native::Untagged) => false,
        };
        match (self, other) {
            (Self::Untagged, vlans) | (vlans, Self::Untagged) => carries(vlans, Native::Untagged),
            (Self::Access { vlan }, vlans) | (vlans, Self::Access { vlan }) => carries(vlans, Native::Vlan(*vlan)),
            (Self::Trunk { allowed, native }, Self::Trunk { allowed: others, native: their }) => {
                allowed.intersects(others)
                    || native.is_some_and(|segment| carries(other, segment))
                    || their.is_some_and(|segment| carries(self, segment))
            }
        }
    }

    /// The VLANs that it carries, which an uplink that carries them all has to tag.
    pub fn tagged_elsewhere(&self) -> Vec<VlanId> {
        match self {
            Self::Untagged => Vec::new(),
            Self::Access { vlan } => vec![*vlan],
            Self::Trunk { allowed, native } => {
                let native = native.and_then(|native| if let Native::Vlan(vlan) = native { Some(vlan) } else { None });
                allowed.iter().chain(native).collect()
            }
        }
    }

    /// Whether frames without a tag are in the segment that has no VLAN, where a network's services stand.
    pub fn meets_services(&self) -> bool {
        matches!(self, Self::Untagged | Self::Trunk { native: Some(Native::Untagged), .. })
    }
}

impl fmt::Display for PortVlans {
    /// In a few words: `no VLAN`, `access 20`, `trunk 10-20, native 10`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("no VLAN"),
            Self::Access { vlan } => write!(f, "access {vlan}"),
            Self::Trunk { allowed, native: None } => write!(f, "trunk {allowed}"),
            Self::Trunk { allowed, native: Some(Native::Untagged) } => write!(f, "trunk {allowed}, native untagged"),
            Self::Trunk { allowed, native: Some(Native::Vlan(vlan)) } => write!(f, "trunk {allowed}, native {vlan}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_ports_have_in_common() {
        let parse = |text: &str| -> PortVlans { serde_json::from_str(text).unwrap() };
        let all = [
            r#"{"mode":"untagged"}"#,
            r#"{"mode":"access","vlan":10}"#,
            r#"{"mode":"access","vlan":20}"#,
            r#"{"mode":"trunk","allowed":"10-19"}"#,
            r#"{"mode":"trunk","allowed":"30","native":"untagged"}"#,
            r#"{"mode":"trunk","allowed":"40","native":{"vlan":20}}"#,
        ]
        .map(parse);
        let expected = ["x...x.", ".x.x..", "..x..x", ".x.x..", "x...x.", "..x..x"];
        for (one, row) in all.iter().zip(expected) {
            let found: String = all.iter().map(|other| if one.overlaps(other) { 'x' } else { '.' }).collect();
            assert_eq!(found, row, "{one}");
        }
    }

    #[test]
    fn json_says_all_of_it() {
        let vlan = VlanId::try_from(10).unwrap();
        let allowed: VlanSet = "10-20,30".parse().unwrap();
        for (vlans, text, words) in [
            (PortVlans::Untagged, r#"{"mode":"untagged"}"#, "no VLAN"),
            (PortVlans::Access { vlan }, r#"{"mode":"access","vlan":10}"#, "access 10"),
            (
                PortVlans::Trunk { allowed: allowed.clone(), native: Some(Native::Vlan(vlan)) },
                r#"{"mode":"trunk","allowed":"10-20,30","native":{"vlan":10}}"#,
                "trunk 10-20,30, native 10",
            ),
            (
                PortVlans::Trunk { allowed, native: Some(Native::Untagged) },
                r#"{"mode":"trunk","allowed":"10-20,30","native":"untagged"}"#,
                "trunk 10-20,30, native untagged",
            ),
        ] {
            assert_eq!(serde_json::to_string(&vlans).unwrap(), text);
            assert_eq!(serde_json::from_str::<PortVlans>(text).unwrap(), vlans);
            assert_eq!(vlans.to_string(), words);
        }
        for bad in [r#"{"mode":"access","vlan":0}"#, r#"{"mode":"trunk","allowed":"9-1"}"#] {
            assert!(serde_json::from_str::<PortVlans>(bad).is_err(), "{bad}");
        }
    }
}
