//! `weft switch …`: one switch on its own, from one file.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use signal_hook::consts::SIGHUP;
use signal_hook::low_level::pipe;
use weft_control::{
    Adapter, Listener, acl_config, acl_view, known_addresses, mirror_configs, mirror_views, port_views, switch_view,
};
use weft_dataplane::{Options, Standalone};
use weft_dataplane_protocol::{
    Client, ClientError, DataplaneConfig, NetworkConfig, NetworkMode, PortConfig, PortKind, Refusal, Request, Response,
    SwitchStatus, Switching, TeamConfig,
};
use weft_model::view::{AclView, ProblemView, WorldView};
use weft_model::{Monitor, Plug, SwitchFile, SwitchMode, TeamMode, load_switch};
use weft_types::PortName;

use crate::args::SwitchCommand;
use crate::commands::{Context, mirrors, network, port, roles, switch_talk};
use crate::failure::{Failure, Result};
use crate::{file, output};

pub(crate) fn run(context: &Context, command: SwitchCommand) -> Result {
    match command {
        SwitchCommand::Run { file } => serve(context, &file),
        SwitchCommand::Show { file, port } => show(context, &file, port.as_ref()),
        SwitchCommand::Rules { file } => rules(context, &file),
        SwitchCommand::Why { file, from, to, packet } => {
            switch_talk::why(context, &file, &from, to.as_deref().unwrap_or_default(), &packet)
        }
        SwitchCommand::Log { file, port } => switch_talk::log(context, &file, port.as_ref()),
        SwitchCommand::Drops { file, port } => switch_talk::drops(context, &file, port.as_ref()),
        SwitchCommand::Capture { file, ports, options } => switch_talk::record(context, &file, ports, &options),
        SwitchCommand::Metrics { file } => metrics(context, &file),
        SwitchCommand::Serve { control, state } => roles::switch(control, state),
    }
}

/// The folder and the control socket of the switch that runs from a file.
fn place(context: &Context, path: &Path) -> (PathBuf, PathBuf) {
    let folder = context.paths.standalone_switch(Path::new(&file::owner(path)));
    let control = folder.join("control");
    (folder, control)
}

fn serve(context: &Context, path: &Path) -> Result {
    // Before the file is read, so that no change is missed.
    let changes = Changes::watch(path).map_err(|error| Failure::of("system", &error, "is the folder still there?"))?;
    let mut wanted = load_switch(path).map_err(Failure::File)?;
    roles::raise_descriptor_limit();
    roles::log("warn");
    let (folder, control_socket) = place(context, path);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| {
        let title = format!("cannot make the folder {}: {error}", folder.display());
        Failure::new("bad-folder", title, "set WEFT_HOME to a folder of yours")
    })?;
    let options = Options { control_socket, state_dir: folder.clone() };
    let switch = Standalone::start(&options).map_err(|error| Failure::of("switch", &error, error.hint()))?;
    let listener = Listener::start(&options.control_socket)
        .map_err(|error| Failure::of("system", &error, "close programs, or raise the limit of open files"))?;
    let result = keep(&switch, &listener, &changes, path, &mut wanted, context.json);
    drop(switch);
    let _ = fs::remove_dir_all(folder);
    result
}

/// Has the switch be what the file says, until it ends.
fn keep(
    switch: &Standalone,
    listener: &Listener,
    changes: &Changes,
    path: &Path,
    wanted: &mut SwitchFile,
    json: bool,
) -> Result {
    let mut revision = 1;
    switch.apply(config(wanted, revision)).map_err(refused)?;
    listener.hear_all(adapters(wanted));
    output::say(format!("switch `{}` runs: {}", wanted.name, ports(wanted)));
    while let Some(wake) = changes.wait(switch.ended()) {
        let result = load_switch(path).map_err(Failure::File).and_then(|new| {
            if wake == Wake::Edited && new == *wanted {
                return Ok(false);
            }
            revision += 1;
            switch.apply(config(&new, revision)).map_err(refused)?;
            listener.hear_all(adapters(&new));
            *wanted = new;
            Ok(true)
        });
        match result {
            Ok(true) => output::say(format!("switch `{}` took up {}: {}", wanted.name, path.display(), ports(wanted))),
            Ok(false) => {}
            Err(failure) => {
                failure.report(json);
                output::say(format!("switch `{}` goes on as it was", wanted.name));
            }
        }
    }
    Ok(())
}

fn ports(switch: &SwitchFile) -> String {
    match switch.ports.len() {
        1 => "1 port".to_owned(),
        count => format!("{count} ports"),
    }
}

/// The adapters of which monitors know what they listen to.
fn adapters(switch: &SwitchFile) -> BTreeMap<PathBuf, Vec<Adapter>> {
    let mut machines: BTreeMap<PathBuf, Vec<Adapter>> = BTreeMap::new();
    for (port, Monitor { socket, device }) in
        switch.ports.iter().filter_map(|(name, port)| Some((name, port.monitor.as_ref()?)))
    {
        let adapter = Adapter { device: device.clone(), port: port.clone() };
        machines.entry(socket.clone()).or_default().push(adapter);
    }
    machines
}

/// What the data plane should be.
fn config(switch: &SwitchFile, revision: u64) -> DataplaneConfig {
    let ports = switch.ports.iter().map(|(name, port)| PortConfig {
        name: name.clone(),
        network: switch.name.clone(),
        kind: match port.plug.clone() {
            Plug::Vhost { socket, connect } => PortKind::VhostUser { socket, connect },
            Plug::Tap { name, host } => PortKind::Tap { name, host },
            Plug::Stream { socket, connect } => PortKind::UnixStream { socket, connect },
            Plug::Dgram { socket, peer } => PortKind::UnixDatagram { socket, peer },
            Plug::Udp { local, peer } => PortKind::Udp { local, peer },
            Plug::Nic { name, attach, driver } => PortKind::Packet { name, attach, nic_driver: driver },
        },
        macs: port.rules.macs.clone(),
        mac_ranges: port.rules.mac_ranges.clone(),
        vm: None,
        uplink: port.uplink,
        vlans: port.rules.vlans.clone(),
        learn: port.rules.learn,
        addresses: known_addresses(&port.rules.addresses, false),
        access: port.rules.allow.iter().copied().collect(),
        rates: port.rules.rates,
        provenance: port.provenance.clone(),
    });
    let network = NetworkConfig {
        name: switch.name.clone(),
        mode: NetworkMode::Internal,
        mtu: switch.mtu,
        gateway: None,
        switching: match switch.mode {
            SwitchMode::Veb => Switching::Veb,
            SwitchMode::Vepa => Switching::Vepa,
        },
        team: switch.team.as_ref().map(|team| TeamConfig {
            mode: match team.mode {
                TeamMode::ActiveStandby => weft_dataplane_protocol::TeamMode::ActiveStandby,
                TeamMode::Hash => weft_dataplane_protocol::TeamMode::Hash,
            },
            members: team.members.clone(),
        }),
        // Rules of a switch on its own name no gateway.
        acl: acl_config(&switch.acl, &PortName::of_gateway(&switch.name), |port| vec![port.clone()]),
        mirrors: mirror_configs(&switch.mirrors, &switch.acl, |port| vec![port.clone()]),
        forwards: Vec::new(),
        provenance: switch.provenance.clone(),
    };
    DataplaneConfig { revision, networks: vec![network], ports: ports.collect(), ..DataplaneConfig::default() }
}

/// A refusal's reasons, the way out behind the last of them.
fn refused(refusal: Refusal) -> Failure {
    let problem = |line: &str| ProblemView {
        code: "refused".to_owned(),
        title: line.to_owned(),
        detail: None,
        hint: None,
        provenance: None,
    };
    let mut problems: Vec<_> = refusal.message.lines().map(problem).collect();
    if let Some(last) = problems.last_mut() {
        last.hint = Some(refusal.hint);
    }
    Failure::Problems(problems)
}

/// A connection to the switch that runs from a file.
pub(super) fn connect(context: &Context, path: &Path) -> Result<Client> {
    let (_, control) = place(context, path);
    Client::connect(&control).map_err(|error| match error.is_absent() {
        true => {
            let title = format!("no switch runs from {}", path.display());
            Failure::new("not-running", title, format!("`weft switch run {}` starts it", path.display()))
        }
        false => Failure::of("switch", &error, ""),
    })
}

/// Asks the switch that runs from a file.
pub(super) fn ask(context: &Context, path: &Path, request: &Request) -> Result<Response> {
    answered(connect(context, path)?.call(request))
}

/// What a switch answers, unless it refuses.
pub(super) fn answered(answer: Result<Response, ClientError>) -> Result<Response> {
    match answer.map_err(|error| Failure::of("switch", &error, ""))? {
        Response::Refused(refusal) => Err(refused(refusal)),
        response => Ok(response),
    }
}

pub(super) fn nonsense(answer: &Response) -> Failure {
    Failure::new("switch", format!("the switch says something else: {answer:?}"), "")
}

pub(super) fn status(context: &Context, path: &Path) -> Result<SwitchStatus> {
    match ask(context, path, &Request::Status)? {
        Response::Status(status) => Ok(status),
        other => Err(nonsense(&other)),
    }
}

fn acls(context: &Context, path: &Path) -> Result<Vec<AclView>> {
    match ask(context, path, &Request::Rules)? {
        Response::Rules(acls) => Ok(acls.into_iter().map(acl_view).collect()),
        other => Err(nonsense(&other)),
    }
}

fn metrics(context: &Context, path: &Path) -> Result {
    let status = status(context, path)?;
    let (ports, mirrors) = (port_views(&status), mirror_views(&status));
    let world = WorldView { ports, mirrors, switch: Some(switch_view(status)), ..WorldView::default() };
    output::data(&weft_api::metrics(&world, &acls(context, path)?))
}

fn rules(context: &Context, path: &Path) -> Result {
    match acls(context, path)?.first() {
        acl if context.json => output::json(&acl),
        Some(acl) => output::data(&network::rules(acl)),
        None => {
            output::say("there are no rules: everybody may begin everything");
            Ok(())
        }
    }
}

fn show(context: &Context, path: &Path, only: Option<&PortName>) -> Result {
    let status = status(context, path)?;
    let ports = port_views(&status);
    let Some(name) = only else {
        return match context.json {
            true => output::json(&ports),
            false => output::data(&(port::table(&ports) + &mirrors::table(&mirror_views(&status)))),
        };
    };
    match ports.iter().find(|port| port.name == *name) {
        Some(found) if context.json => output::json(found),
        Some(found) => output::data(&port::show(found)),
        None => {
            let hint = format!("`weft switch show {}` lists them", path.display());
            Err(Failure::new("no-such-port", format!("there is no port `{name}`"), hint))
        }
    }
}

/// What wakes the keeper of a switch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// The file was written, or another one took its place.
    Edited,
    /// SIGHUP: somebody wants it to be read.
    Told,
}

/// SIGHUP, and changes of one file.
struct Changes {
    name: Vec<u8>,
    folder: OwnedFd,
    hangups: UnixStream,
}

impl Changes {
    /// Watches the file's folder, for most editors replace the file rather than write it.
    fn watch(path: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(path)?;
        let folder = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO;
        // Without a folder there is no file either, which is told by whoever reads it.
        let _ = inotify::add_watch(&folder, absolute.parent().unwrap_or(Path::new("/")), events);
        let (hangups, written) = UnixStream::pair()?;
        hangups.set_nonblocking(true)?;
        pipe::register(SIGHUP, written)?;
        Ok(Self { name: absolute.file_name().unwrap_or_default().as_bytes().to_vec(), folder, hangups })
    }

    /// Waits for the next change; `None` once `ended` is readable.
    fn wait(&self, ended: BorrowedFd<'_>) -> Option<Wake> {
        loop {
            let mut fds = [ended, self.folder.as_fd(), self.hangups.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            if poll(&mut fds, None).is_err() {
                continue; // a signal
            }
            let [ended, folder, hangups] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                return None;
            }
            if hangups {
                while matches!((&self.hangups).read(&mut [0; 64]), Ok(1..)) {}
                return Some(Wake::Told);
            }
            if folder && self.was_edited() {
                return Some(Wake::Edited);
            }
        }
    }

    /// Takes all that happened in the folder; whether the file was part of it.
    fn was_edited(&self) -> bool {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.folder, &mut room);
        let mut edited = false;
        while let Ok(event) = events.next() {
            edited |= event.file_name().is_some_and(|name| name.to_bytes() == self.name);
        }
        edited
    }
}
