//! IPv6 between real guests.

use std::time::Duration;

use crate::harness::{Home, eventually};

const WORLD: &str = "
[network.office]
subnet = '10.81.0.0/24'
mode = 'internal'
ipv6 = true
[vm.web]
nics = ['office']
[vm.db]
nics = ['office']
";

#[test]
fn guests_find_each_other_by_name() {
    let home = Home::rootless("ipv6");
    home.write("weft.toml", WORLD);
    home.weft(&["up"]).ok();
    let prefix = home.json(&["network", "show", "office"])["subnet6"].as_str().unwrap().to_owned();
    let prefix = prefix.strip_suffix(":/64").unwrap();
    let address = |vm: usize| -> Option<String> {
        home.json(&["ls"])["vms"][vm]["nics"][0]["ipv6"][0].as_str().map(str::to_owned)
    };
    eventually("both have an address", Duration::from_secs(60), || address(0).is_some() && address(1).is_some());
    let [db, web] = [0, 1].map(|vm| address(vm).unwrap());
    assert!(db.starts_with(prefix) && web.starts_with(prefix) && db != web, "{db} {web}");
    assert!(home.weft(&["ls"]).ok().contains(&web));

    let said = home.exec("db", &["ping6", "-c", "2", "-W", "3", "web"]).ok();
    assert!(said.contains(&format!("({web})")) && said.contains("2 packets received"), "{said}");
    let gateway = format!("{prefix}:1");
    home.exec("web", &["ping6", "-c", "1", "-W", "3", &gateway]).ok();
    let routes = home.exec("web", &["ip", "-6", "route"]).ok();
    assert!(!routes.contains("default"), "an internal network is no way out: {routes}");
    assert!(home.exec("web", &["nslookup", &db]).ok().contains("db.office.weft"));

    // Another prefix, while everything runs.
    home.write("weft.toml", &WORLD.replace("ipv6 = true", "ipv6 = 'fd00:81::/64'"));
    let plan = home.json(&["plan"]);
    let detail = plan["steps"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("IPv6 ") && detail.contains("-> fd00:81::/64"), "{plan:#}");
    home.weft(&["up"]).ok();
    eventually("both have another one", Duration::from_secs(60), || {
        let said = home.exec("db", &["ping6", "-c", "1", "-W", "3", "web"]);
        said.code == 0 && said.out.contains("(fd00:81::")
    });
    home.weft(&["down"]).ok();
    home.assert_gone();
}
