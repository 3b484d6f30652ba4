//! Networks that a router joins, with real guests.

use crate::harness::Home;

const NETWORKS: &str = "
[network.web]
subnet = '10.61.0.0/24'
[network.db]
mode = 'internal'
subnet = '10.62.0.0/24'
[vm.front]
nics = ['web']
[vm.store]
nics = ['db']
";

#[test]
fn a_router_joins_what_its_rules_say_and_goes_again() {
    let home = Home::new("router");
    let world = |router: &str| home.write("weft.toml", &format!("{NETWORKS}{router}"));
    world(
        "[router.core]\nnetworks = ['web', 'db']\nrules = ['allow web -> db icmp/echo', 'allow front -> store tcp/5432']\n",
    );
    home.weft(&["up"]).ok();
    let pids = ["front", "store", "switch"].map(|name| home.pid(name));
    let address = |vm: usize| home.json(&["ls"])["vms"][vm]["nics"][0]["ip"].as_str().unwrap().to_owned();
    let (front, store) = (address(0), address(1));
    let ping = |from: &str, to: &str| home.exec(from, &["ping", "-c", "1", "-W", "3", to]).code == 0;

    // Who has no other router learned the route from DHCP.
    let routes = home.exec("store", &["ip", "route"]).ok();
    assert!(routes.contains("10.61.0.0/24 via 10.62.0.1") && !routes.contains("default"), "{routes}");
    assert!(ping("front", &store));
    assert!(!ping("store", &front), "only the other direction has a rule");
    let hop = home.exec("front", &["ping", "-c", "1", "-W", "3", "-t", "1", &store]);
    assert!(hop.code != 0 && !hop.out.contains("1 packets received"), "{}", hop.out);

    let said = home.weft(&["why", "front", "store", "tcp/5432"]);
    assert!(said.err.contains("across router `core`"), "{}", said.err);
    let why = said.ok();
    for words in ["`allow front -> store tcp/5432` allows it", "weft.toml:13", "forwarded to `store-0`"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    let why = home.weft(&["why", "store", "front", "tcp/80"]).ok();
    assert!(why.contains("no rule fits, and the default denies it") && why.contains("router `core` drops it"), "{why}");

    let shown = home.json(&["router", "show", "core"]);
    assert!(shown["rules"][0]["hits"].as_u64().unwrap() > 0 && shown["packets"].as_u64().unwrap() >= 2, "{shown}");
    assert!(home.weft(&["router", "ls"]).ok().contains("web, db"));

    // Rules change, and the router goes: nobody is restarted for it.
    world("[router.core]\nnetworks = ['web', 'db']\ndefault = 'allow'\n");
    let plan = home.json(&["plan"]);
    assert!(plan["steps"][0]["kind"] == "router" && plan["steps"][0]["impact"] == "hitless", "{plan:#}");
    home.weft(&["up"]).ok();
    assert!(ping("store", &front));
    world("");
    home.weft(&["up"]).ok();
    assert!(!ping("front", &store));
    let routes = || home.exec("store", &["ip", "route"]).ok();
    assert!(!routes().contains("10.61.0.0/24"), "{}", routes());
    home.weft(&["undo"]).ok();
    assert!(routes().contains("10.61.0.0/24 via 10.62.0.1"), "{}", routes());
    assert!(ping("front", &store));
    assert_eq!(["front", "store", "switch"].map(|name| home.pid(name)), pids);
    home.weft(&["down"]).ok();
    home.assert_gone();
}
