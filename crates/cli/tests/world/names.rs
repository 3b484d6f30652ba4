//! Names of machines, asked for by programs of the host.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::{Home, eventually};

/// The address that the name server there gives for a name of ours; `None` when it says that there is none.
fn ask(server: SocketAddr, name: &str) -> Option<Ipv4Addr> {
    let labels = name.split('.').flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()));
    let mut query = vec![0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(labels);
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&query, server).unwrap();
    let mut answer = [0; 512];
    let (count, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!((from, &answer[..2]), (server, &query[..2]));
    let last: [u8; 4] = answer[count - 4..count].try_into().unwrap();
    (answer[7] > 0).then(|| last.into())
}

#[test]
fn the_host_asks_for_names() {
    let home = Home::rootless("names");
    let network = |subnet: &str| format!("[network.office]\nsubnet = '{subnet}'\n");
    home.write("weft.toml", &network("10.71.0.0/24"));
    assert_eq!(home.json(&["names"])["address"], serde_json::Value::Null);
    home.weft(&["up"]).ok();
    let shown = home.json(&["names"]);
    let server: SocketAddr = shown["address"].as_str().unwrap().parse().unwrap();
    assert!(server.ip().is_loopback(), "{server}");
    assert_eq!(shown["names"][0]["name"], "gateway.office.weft");
    assert!(shown["found"] == true || shown["hint"].as_str().unwrap().contains(&server.ip().to_string()), "{shown}");
    assert_eq!(ask(server, "gateway.office.weft"), Some(Ipv4Addr::new(10, 71, 0, 1)));
    assert_eq!(ask(server, "nobody.office.weft"), None);

    // Edits are heard at once, a switch that comes back answers at the same place, and after `down` nobody does.
    home.write("weft.toml", &network("10.72.0.0/24"));
    home.weft(&["up"]).ok();
    assert_eq!(ask(server, "gateway.office.weft"), Some(Ipv4Addr::new(10, 72, 0, 1)));
    let before = home.pid("switch");
    crate::harness::kill(before);
    eventually("the switch is back", Duration::from_secs(20), || {
        let switch = &home.json(&["ls"])["switch"];
        switch["pid"] != before && switch["host_names"] == server.to_string()
    });
    assert_eq!(ask(server, "gateway.office.weft"), Some(Ipv4Addr::new(10, 72, 0, 1)));
    home.weft(&["down"]).ok();
    eventually("nobody answers", Duration::from_secs(20), || UdpSocket::bind(server).is_ok() || server.port() == 53);
}
