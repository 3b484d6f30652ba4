//! Law 8 in single cases: which uplink of a team takes a frame, and what comes in by the others.

use std::collections::BTreeMap;

use expect_test::expect;
use weft_switch::{Config, Mode, PortConfig, Role, Switch, Team, TeamMode, VSwitchId, Verdict};
use weft_types::{PortId, Provenance};

use crate::world::{Frame, mac, vswitches};
use crate::{NOW, packet};

/// The vNICs 1 and 2, each with the MAC address of its number, and the uplinks 11, 12 and 13, of which 12 is preferred.
fn world(mode: TeamMode) -> Config {
    let port = |id: u32, role: Role| {
        let place = Provenance::file("lab.toml", id);
        let port = PortConfig::new(PortId(id), format!("p{id}").parse().unwrap(), VSwitchId(0), role, place);
        PortConfig { macs: if role == Role::Uplink { Vec::new() } else { vec![mac(id as u8)] }, ..port }
    };
    let ports = [1, 2].map(|id| port(id, Role::Vnic)).into_iter().chain([11, 12, 13].map(|id| port(id, Role::Uplink)));
    let mut config = Config { vswitches: vswitches(), ports: ports.map(Into::into).collect(), ..Config::default() };
    config.vswitches[0].team = Some(Team { mode, members: [12, 11, 13].map(PortId).into() });
    config
}

fn switch(mode: TeamMode) -> Switch {
    let mut switch = Switch::new(7);
    switch.configure(world(mode)).unwrap();
    switch
}

fn send(switch: &mut Switch, ingress: u32, src: u8, dst: u8) -> String {
    let frame = Frame::new(ingress, src, dst, &[]);
    match switch.forward(NOW, frame.ingress, &frame.head, frame.len) {
        Verdict::Forward(outputs) => outputs.iter().map(|output| output.port.to_string()).collect::<Vec<_>>().join(" "),
        Verdict::Drop(reason) => reason.to_string(),
    }
}

#[test]
fn the_preferred_link_that_is_up_takes_all() {
    let mut switch = switch(TeamMode::ActiveStandby);
    let mut lines = String::new();
    for (port, is_up) in [(99, false), (12, false), (11, false), (13, false), (11, true), (12, true)] {
        assert_eq!(switch.set_link(PortId(port), is_up), port != 99);
        let out = [(1, 1, 9), (1, 1, 255)].map(|(ingress, src, dst)| send(&mut switch, ingress, src, dst));
        let back = [11, 12, 13].map(|uplink| send(&mut switch, uplink, 9, 255));
        lines.push_str(&format!("{port} {is_up}: out {out:?}, in {back:?}\n"));
        switch.configure(world(TeamMode::ActiveStandby)).unwrap(); // links stay as they are
    }
    expect![[r##"
        99 false: out ["#12", "#2 #12"], in ["standby-uplink", "#1 #2", "standby-uplink"]
        12 false: out ["#11", "#2 #11"], in ["#1 #2", "standby-uplink", "standby-uplink"]
        11 false: out ["#13", "#2 #13"], in ["standby-uplink", "standby-uplink", "#1 #2"]
        13 false: out ["#12", "#2 #12"], in ["standby-uplink", "#1 #2", "standby-uplink"]
        11 true: out ["#11", "#2 #11"], in ["#1 #2", "standby-uplink", "standby-uplink"]
        12 true: out ["#12", "#2 #12"], in ["standby-uplink", "#1 #2", "standby-uplink"]
    "##]]
    .assert_eq(&lines);
}

#[test]
fn what_was_sent_from_here_does_not_come_back() {
    for mode in [TeamMode::ActiveStandby, TeamMode::FlowHash] {
        let mut switch = switch(mode);
        assert_eq!(send(&mut switch, 12, 1, 255), "returned");
        assert_eq!(send(&mut switch, 12, 1, 2), "returned");
        assert_eq!(send(&mut switch, 12, 9, 2), "#2");
        // As a VEPA, it should.
        let mut config = world(mode);
        config.vswitches[0].mode = Mode::Vepa;
        switch.configure(config).unwrap();
        assert_eq!(send(&mut switch, 12, 1, 255), "#2");
    }
}

#[test]
fn flows_are_spread_and_stay_where_they_can() {
    let mut switch = switch(TeamMode::FlowHash);
    let ways = |switch: &mut Switch| {
        let way = |port: u16| {
            let frame = Frame::with(1, 1, 9, &[], &packet::between(1, 2, 6, (port, 80)));
            match switch.forward(NOW, frame.ingress, &frame.head, frame.len) {
                Verdict::Forward([output]) => output.port,
                other => panic!("{other:?}"),
            }
        };
        (0..3000).map(way).collect::<Vec<_>>()
    };
    let before = ways(&mut switch);
    let mut shares: BTreeMap<PortId, usize> = BTreeMap::new();
    before.iter().for_each(|port| *shares.entry(*port).or_default() += 1);
    assert!(shares.len() == 3 && shares.values().all(|share| (700..1300).contains(share)), "{shares:?}");
    switch.set_link(PortId(11), false);
    for (before, after) in before.iter().zip(ways(&mut switch)) {
        assert!(after != PortId(11) && (*before == PortId(11) || *before == after));
    }
}

#[test]
fn a_team_names_all_uplinks_and_nothing_else() {
    let mut config = world(TeamMode::FlowHash);
    config.vswitches[0].team = Some(Team { mode: TeamMode::FlowHash, members: [12, 12, 1, 13].map(PortId).into() });
    let problems = Switch::new(7).configure(config).unwrap_err();
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    expect![[r#"
        the team of network `n0` (lab.toml:100) must name each of its uplinks once and nothing else, and #12 is wrong
        the team of network `n0` (lab.toml:100) must name each of its uplinks once and nothing else, and #1 is wrong
        the team of network `n0` (lab.toml:100) must name each of its uplinks once and nothing else, and #11 is wrong"#]].assert_eq(&text.join("\n"));
}
