//! VLANs, addresses and rules of a file, with real guests.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use weft_wire::capture_file;

use crate::harness::{Home, eventually, kill, said};

const WORLD: &str = "
[network.lan]
subnet = '10.60.0.0/24'
rules = [
    'deny web -> db',
]
[vm.web]
nics = [{ network = 'lan', ip = '10.60.0.10' }]
[vm.db]
nics = [{ network = 'lan', ip = '10.60.0.20' }]
[vm.lab]
nics = [{ network = 'lan', vlan = 20 }]
";

#[test]
fn a_file_says_who_may_talk_to_whom_and_from_where() {
    let home = Home::new("law");
    home.write("weft.toml", WORLD);
    home.weft(&["up"]).ok();
    let pids = ["web", "db", "lab"].map(|vm| home.pid(vm));
    let ping = |from: &str, to: &str| home.exec(from, &["ping", "-c", "1", "-W", "2", to]).code == 0;
    assert!(ping("db", "10.60.0.10") && ping("web", "10.60.0.1"));
    assert!(!ping("web", "10.60.0.20"), "`deny web -> db`");
    let why = home.weft(&["why", "web", "db", "tcp/5432"]).ok();
    assert!(why.contains("`deny web -> db` denies it") && why.contains("weft.toml:5"), "{why}");
    let why = home.weft(&["why", "db", "web", "tcp/80"]).ok();
    assert!(why.contains("forwarded to `web-0`"), "{why}");

    // What passes can be looked at, and what was dropped.
    let args = ["capture", "web", "--filter", "10.60.0.20 -> any icmp", "-w", "web.pcapng"];
    let capture = home.spawn(&args);
    let file = || fs::read(home.dir().join("web.pcapng")).unwrap_or_default();
    eventually("the capture has begun", Duration::from_secs(20), || !file().is_empty());
    assert!(home.json(&["ls"])["mirrors"][0]["name"] == "capture-0");
    assert!(ping("db", "10.60.0.10"));
    kill_process(Pid::from_child(&capture), Signal::INT).unwrap();
    let end = said(capture.wait_with_output().unwrap());
    assert_eq!((end.code, end.err.as_str()), (0, "2 frames captured, 0 lost\n"));
    assert_eq!(capture_file::frames(&file()).unwrap().filter(Result::is_ok).count(), 2);
    eventually("nothing is left of it", Duration::from_secs(20), || {
        home.json(&["ls"])["mirrors"] == serde_json::json!([])
    });
    let why = home.weft(&["why", "db", "--frame", "web.pcapng"]).ok();
    assert!(why.contains("forwarded to `web-0`"), "{why}");
    let drops = home.weft(&["why", "web", "--drops"]).ok();
    assert!(drops.contains("acl-denied") && drops.contains("(rule: deny web -> db)"), "{drops}");

    // A VLAN has no gateway, and no lease to wait for; whoever says he is somebody else is not heard.
    let lab = home.json(&["port", "show", "lab-0"]);
    assert_eq!(lab["vlans"], serde_json::json!({ "mode": "access", "vlan": 20 }));
    home.exec("lab", &["ip", "addr", "add", "10.60.0.30/24", "dev", "eth0"]).ok();
    assert!(!ping("lab", "10.60.0.10") && !ping("lab", "10.60.0.1"));
    home.exec("db", &["ip", "addr", "add", "10.60.0.77/24", "dev", "eth0"]).ok();
    assert!(home.exec("db", &["ping", "-c", "1", "-W", "2", "-I", "10.60.0.77", "10.60.0.1"]).code != 0);
    let shown = home.weft(&["port", "show", "db-0"]).ok();
    assert!(shown.contains("dropped, forged-arp") || shown.contains("dropped, forged-ipv4"), "{shown}");
    assert!(ping("db", "10.60.0.10"), "and with its own address it goes on");

    let shown = home.json(&["network", "show", "lan"]);
    let rule = &shown["acl"]["rules"][0];
    assert_eq!(rule["name"], "deny web -> db");
    assert!(rule["hits"].as_u64() > Some(0), "{shown}");
    let metrics = home.weft(&["metrics"]).ok();
    assert!(metrics.contains("weft_rule_hits_total{network=\"lan\",rule=\"deny web -> db\""), "{metrics}");
    assert!(metrics.contains("weft_port_dropped_frames_total{port=\"web-0\",network=\"lan\""), "{metrics}");

    // What a guest listens to is known, also to the next daemon and the next switch; and whom it may not be is counted once.
    let patience = Duration::from_secs(60);
    // Nothing is shown while there is no switch.
    let port = |vm: &str| {
        let said = home.weft(&["port", "show", &format!("{vm}-0"), "--json"]);
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap_or_default()
    };
    let listens = |vm: &str| port(vm)["listens"]["stations"].clone();
    let own = |vm: &str| port(vm)["macs"].clone();
    eventually("their own addresses", patience, || ["lab", "web"].iter().all(|vm| listens(vm) == own(vm)));
    home.exec("lab", &["ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:00:99"]).ok();
    let denied = serde_json::json!([{ "reason": "mac-change", "frames": 1 }]);
    let denials = || port("lab")["denials"].clone();
    eventually("it may not be another", patience, || denials() == denied && listens("lab") == serde_json::json!([]));
    kill(home.pid("daemon"));
    eventually("the next daemon asks again", patience, || {
        let port = port("lab");
        port["listens"]["all_multicast"] == false && port["denials"] == denied
    });
    kill(home.pid("switch"));
    eventually("the next switch is told", patience, || !own("web").is_null() && listens("web") == own("web"));
    eventually("and denies the same", patience, || denials() == denied);
    home.exec("lab", &["ip", "link", "set", "dev", "eth0", "address", own("lab")[0].as_str().unwrap()]).ok();
    eventually("its own again", patience, || listens("lab") == own("lab"));

    // An edit of rules and ports touches no machine.
    let edited =
        WORLD.replace("'deny web -> db'", "'allow web -> db icmp'").replace("vlan = 20", "allow = ['forged-ip']");
    home.write("weft.toml", &edited);
    let plan = home.json(&["plan"]);
    let impacts: Vec<_> = plan["steps"].as_array().unwrap().iter().map(|step| step["impact"].clone()).collect();
    assert_eq!(impacts, ["hitless", "hitless"], "{plan}");
    home.weft(&["up"]).ok();
    assert!(ping("web", "10.60.0.20"));
    assert_eq!(["web", "db", "lab"].map(|vm| home.pid(vm)), pids);
    home.weft(&["down"]).ok();
    home.assert_gone();
}
