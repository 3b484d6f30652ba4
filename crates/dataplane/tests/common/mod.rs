//! A switch to test, and configurations for it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use weft_dataplane::{DataplaneError, Options, run};
use weft_dataplane_protocol::{
    AccessConfig, AddressConfig, Client, DataplaneConfig, DhcpConfig, GatewayConfig, NetworkConfig, NetworkMode,
    PortConfig, PortKind, PortStatus, Request, Response, SwitchStatus, Switching,
};
use weft_testkit::mac;
use weft_types::{DnsNames, MacAddr, PortRates, PortVlans, Provenance};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tells a test process that it is a switch, and where.
pub(crate) const SWITCH_AT: &str = "WEFT_TEST_SWITCH_AT";

/// The place where a switch runs, and the switch.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    in_process: bool,
    switch: Option<Switch>,
}

/// A switch that runs.
enum Switch {
    Thread(JoinHandle<Result<(), DataplaneError>>),
    Process(Child),
}

impl World {
    /// With a switch in a thread of this process.
    pub(crate) fn new() -> Self {
        Self::start_with(false)
    }

    /// With a switch in a process of its own: this test program, started again as its test `switch_process`.
    pub(crate) fn in_process() -> Self {
        Self::start_with(true)
    }

    fn start_with(in_process: bool) -> Self {
        let mut world = Self { directory: tempfile::tempdir().unwrap(), in_process, switch: None };
        world.start();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn options(&self) -> Options {
        options(self.directory.path())
    }

    /// Starts a switch, and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.switch = Some(if self.in_process {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "switch_process", "--test-threads=1"]).env(SWITCH_AT, self.directory.path());
            Switch::Process(command.stdout(Stdio::null()).spawn().unwrap())
        } else {
            let options = self.options();
            Switch::Thread(thread::spawn(move || run(&options)))
        });
        eventually("the switch listens", || Client::connect(&self.path("control")).is_ok());
    }

    /// Ends the switch's process, by SIGKILL for example; whether it ended well.
    pub(crate) fn signal(&mut self, signal: Signal) -> bool {
        let Some(Switch::Process(mut child)) = self.switch.take() else { panic!("the switch is no process") };
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap().success()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path("control")).unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> Response {
        self.client().call(request).unwrap()
    }

    pub(crate) fn apply(&self, config: &DataplaneConfig) {
        assert_eq!(self.ask(&Request::Apply(config.clone())), Response::Done);
    }

    /// What is refused, in words.
    pub(crate) fn refused(&self, config: &DataplaneConfig) -> String {
        match self.ask(&Request::Apply(config.clone())) {
            Response::Refused(refusal) => format!("{:?}: {refusal} ({})", refusal.code, refusal.hint),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn status(&self) -> SwitchStatus {
        match self.ask(&Request::Status) {
            Response::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn port(&self, name: &str) -> PortStatus {
        let status = self.status();
        status.ports.into_iter().find(|port| port.name.as_str() == name).unwrap_or_else(|| panic!("no port `{name}`"))
    }

    pub(crate) fn wait_until_up(&self, name: &str) {
        eventually(name, || self.port(name).up);
    }

    /// Ends the switch, which keeps its state or forgets it.
    pub(crate) fn shut_down(&mut self, forget: bool) {
        assert_eq!(self.ask(&Request::Shutdown { forget }), Response::Done);
        self.switch.take().unwrap().join();
    }
}

impl Switch {
    fn join(self) {
        match self {
            Self::Thread(thread) => thread.join().unwrap().unwrap(),
            Self::Process(mut child) => assert!(child.wait().unwrap().success()),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        match self.switch.take() {
            Some(Switch::Process(mut child)) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Some(Switch::Thread(thread)) => {
                if let Ok(mut client) = Client::connect(&self.path("control")) {
                    let _ = client.call(&Request::Shutdown { forget: true });
                    let _ = thread.join();
                }
            }
            None => {}
        }
    }
}

/// Where a switch works in a folder of a test.
pub(crate) fn options(directory: &Path) -> Options {
    Options { control_socket: directory.join("control"), state_dir: directory.join("state") }
}

/// Waits for something that happens soon.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn bare_network(name: &str) -> NetworkConfig {
    NetworkConfig {
        name: name.parse().unwrap(),
        mode: NetworkMode::Internal,
        mtu: 1500,
        gateway: None,
        switching: Switching::Veb,
        team: None,
        acl: None,
        mirrors: Vec::new(),
        forwards: Vec::new(),
        provenance: Provenance::file("/w.toml", 1),
    }
}

/// A network whose gateway has `mac(254)`, and the first address of `10.<third>.0.0/24`.
pub(crate) fn network_with_gateway(name: &str, second: u8) -> NetworkConfig {
    let gateway = GatewayConfig {
        mac: mac(254),
        ip: [10, second, 0, 1].into(),
        subnet: format!("10.{second}.0.0/24").parse().unwrap(),
        subnet6: None,
        dhcp6: None,
        dhcp: Some(DhcpConfig {
            first: [10, second, 0, 100].into(),
            last: [10, second, 0, 200].into(),
            lease_s: 3600,
            reservations: vec![],
            excluded: vec![],
            kept: Default::default(),
            options: Default::default(),
            boot: None,
        }),
        dns: true,
        metadata: std::collections::BTreeMap::new(),
        host_access: false,
        records: vec![],
        names: DnsNames::default(),
    };
    NetworkConfig { gateway: Some(gateway), ..bare_network(name) }
}

pub(crate) fn port(name: &str, network: &str, mac: MacAddr, kind: PortKind) -> PortConfig {
    PortConfig {
        name: name.parse().unwrap(),
        network: network.parse().unwrap(),
        kind,
        macs: vec![mac],
        mac_ranges: vec![],
        vm: None,
        uplink: false,
        vlans: PortVlans::Untagged,
        learn: 0,
        addresses: AddressConfig::Any,
        access: AccessConfig::default(),
        rates: PortRates::default(),
        provenance: Provenance::file("/w.toml", 7),
    }
}

/// A vhost-user port at `<directory>/<name>`.
pub(crate) fn vhost_user(directory: &Path, name: &str, network: &str, mac: MacAddr) -> PortConfig {
    port(name, network, mac, PortKind::VhostUser { socket: directory.join(name), connect: false })
}
