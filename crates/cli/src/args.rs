//! The command line's definition; help, completions and man pages follow from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use weft_model::{Arch, Firmware, Platform, parse_filter, parse_traffic};
use weft_types::{Direction, Label, Listen, MacAddr, MirrorFilter, NetworkName, PortName, Traffic, VlanSet, VmName};

const EXIT_CODES: &str = "Exit codes: 0 it is done, 1 it failed, 2 the command line or the file is wrong. \
`exec` exits as its command did, with 128 and the signal's number if one killed it, and with 125 if it could not run it.

WEFT_HOME=DIR keeps a world of its own in DIR.";

const SWITCH_FILE: &str = r#"The file, with every key that there is:

  [switch]
  name = "lab"                    # `switch` if left out
  mtu = 1500                      # of TAP devices that the switch makes
  mode = "veb"                    # "vepa": every frame leaves by the uplink, whose far end sends it back
  team = "active-standby"         # several uplinks are one way out: the first in the file whose link is up,
                                  #   or "hash": one for each flow; or, with the preferred one first,
                                  #   { mode = "active-standby", order = ["eth1", "eth2"] }
  rules = ["deny web -> db"]      # who may begin what with whom; the first that fits decides:
                                  #   [NAME:] allow|deny END -> END [TRAFFIC], where
                                  #   END is `any`, a port, a group, an address or a prefix, and
                                  #   TRAFFIC is tcp, tcp/5432, udp/53 from 1024-65535, icmp/echo, proto/89 …
  default = "allow"               # or "deny": what becomes of that which no rule fits
  connections = 16384             # that each port may have begun at a time, where there are rules

  [group.servers]                 # a name for several ports, for rules
  members = ["db", "mail"]

  [mirror.watch]                  # copies of frames
  from = ["web", "servers"]       # of these ports and groups; of all, if left out
  direction = "both"              # "in": what they send; "out": what they hear
  vlans = [10, "20-29"]           # all, and what has no VLAN, if left out
  filter = "any -> 10.8.0.5 tcp/443"  # only packets like this, whoever sends; "tcp/443" is enough
  snap = 128                      # only so many bytes of each
  to = "ids"                      # who gets them: a port, or a collector, "vxlan://10.0.0.5:4789/42",
                                  #   or "erspan://10.0.0.5/7" where the switch may use raw sockets

  [port.web]                      # a port, and what plugs into it: one of
  vhost = "web.sock"              #   a VMM's vhost-user socket
  tap = "tap0"                    #   a TAP device, made if it does not exist
  stream = "web.sock"             #   QEMU's `-netdev stream` on a Unix socket
  dgram = "web.sock"              #   QEMU's `-netdev dgram` on a Unix socket
  udp = "127.0.0.1:4000"          #   the same on UDP
  nic = "eth1"                    #   a network interface of the host, which becomes the uplink
  host = "10.9.0.1/24"            # tap: an adapter of the host, with this address and the port's `mac`;
                                  #   the switch lets nothing pass there that the host would forward
  attach = "apart"                # nic: the host and the ports hear nothing of each other;
                                  #   "shared": the host is one of those behind it;
                                  #   "existing-bridge": `nic` is a bridge, which is joined;
                                  #   "macvtap": the kernel gives the interface to the ports alone
  driver = "auto"                 # nic, apart: "packet", a packet socket;
                                  #   "xdp", AF_XDP: the host hears nothing there any more;
                                  #   "auto", AF_XDP where it pays and the host has no address
  connect = true                  # vhost, stream: the peer listens, not the switch
  peer = "peer.sock"              # dgram: where to send (to whoever sent last, if left out)
                                  # udp: who is listened to and sent to, as ADDRESS:PORT
  qmp = "web.qmp"                 # a monitor of the QEMU behind the port, for the switch alone: it tells
                                  #   what the guest listens to; with several adapters,
                                  #   { socket = "web.qmp", device = "nic0" }
  mac = "02:00:5e:10:00:01"       # the address of the adapter behind the port;
  macs = ["02:00:5e:10:00:02"]    #   more of them
                                  #   or runs, "02:00:5e:10:01:00 to 02:00:5e:10:01:ff"
  uplink = false                  # it leads out: to stations that nobody names; one a switch, or a team
  vlan = 20                       # an access port: its frames have no tag, and are in VLAN 20; or
  trunk = [10, "20-29"]           # a trunk port: it carries these VLANs, tagged,
  native = 10                     #   and without a tag this one, or "untagged": the segment without VLAN
  addresses = ["10.8.0.0/24"]     # the IP addresses that are its own; any, if left out
  learn = 0                       # so many stations behind it are learned from what they send
  allow = []                      # what is denied otherwise: "forged-mac", "forged-ip", "forged-arp",
                                  #   "forged-nd", "mac-change", "promiscuous", "dhcp-server",
                                  #   "router-advertisement"
  rate = "100Mbit/s"              # as fast as it may be, both ways; or, of what it sends and is sent,
                                  #   { in = "100Mbit/s", out = "1Gbit/s", burst = "64KiB",
                                  #     excess = "wait" }: the rest waits for its time, or "drop"

A vhost-user socket where the switch listens serves a guest's VMM and the one to which the guest migrates, both
at once: the second is started like the first, and `-incoming` (examples/switch/qemu.toml).

Paths count from the file's folder. The switch learns nothing that no port asks for: each needs its MAC
address, but the uplink and one that gets copies. What no port has, and all broadcasts, go to the uplink, too.

Exit codes: 0 it was told to end, 1 it failed, 2 the file is wrong."#;

/// Virtual machines and the networks between them, from one file.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Write data as JSON to stdout, and errors as JSON to stderr.
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the world what a file says, and wait until every machine is ready.
    ///
    /// Shows the plan and carries it out. Run again, it changes nothing; after an edit, it changes the difference.
    Up(FileArg),
    /// Make what a file made become what it was before it was changed last.
    ///
    /// Takes back the last `up` (or `down`) that changed something; the file itself stays. Run again, it takes back itself.
    Undo(FileArg),
    /// Show what `up` would do, and what has drifted from the file. Changes nothing.
    Plan(FileArg),
    /// Remove everything that a file made.
    ///
    /// The file itself may be gone or broken.
    Down {
        #[command(flatten)]
        file: FileArg,
        /// Remove what all files made.
        #[arg(long, conflicts_with = "file")]
        all: bool,
    },
    /// Have a file's machines come back when the host does.
    ///
    /// systemd starts them with the host, and shuts all machines down in good order before it goes down. After a power
    /// failure they come back too. `down` ends it.
    Enable(FileArg),
    /// Have a file's machines come back no more.
    Disable(FileArg),
    /// Start the enabled machines that went down with the host, and wait until they are ready.
    ///
    /// systemd does it, by the unit of `weft enable`; without systemd, have the host run it when it has started.
    Boot,
    /// Shut all machines down because the host goes down, and wait until they are.
    ///
    /// systemd does it, by the unit of `weft enable`; without systemd, have the host run it before it goes down.
    Halt,
    /// Show everything.
    Ls,
    /// Show what machines take of the processors, memory, disks and networks, again and again. Ctrl-C ends it.
    ///
    /// WAIT is how long a machine's threads had to wait for a processor: what its guest sees as stolen. Into a pipe, or as
    /// JSON, it is shown once unless `-n` says more.
    Top(TopArgs),
    /// Work with machines.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Work with networks.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Work with ports: where machines plug into networks.
    #[command(subcommand)]
    Port(PortCommand),
    /// Work with port forwards: what of the host's ports leads to machines.
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Look at routers: what joins networks.
    #[command(subcommand)]
    Router(RouterCommand),
    /// List the names of machines, and say how this host finds them by name.
    ///
    /// The names are answered on this host's loopback. Where systemd-resolved runs and the host has an adapter on a network,
    /// Weft tells it, if it may; otherwise one line is printed that has this host's resolver ask there.
    Names,
    /// Work with DHCP leases.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Work with images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Run a command in a machine.
    ///
    /// stdin, stdout, stderr and the exit code pass through, and so do SIGINT, SIGTERM, SIGHUP and SIGQUIT.
    Exec(ExecArgs),
    /// Open a shell that stands on a network, without root: in a network namespace of its own, with an address and a name.
    ///
    /// Its port is one like any machine's, under the same rules, and ends with it. Programs and files are this host's; in
    /// there you are root over that network alone. The exit code is the command's, with 128 and the signal's number if one
    /// killed it, and 125 if it could not be run.
    Shell(ShellArgs),
    /// Connect to a machine's serial console; Ctrl-] leaves.
    Console {
        /// The machine.
        vm: VmName,
    },
    /// Show a machine's screen to a VNC viewer, or take a picture of it (`display = "vnc"` in the file).
    ///
    /// Prints the address at which the screen can be seen for as long as this command runs; whoever can connect to that,
    /// as every user of this host can by default, sees it and types there.
    Screen {
        /// The machine.
        vm: VmName,
        /// Where to listen: ADDRESS:PORT, or the path of a Unix socket; left out, the loopback, at the first free
        /// port from 5900.
        #[arg(long, value_name = "ADDRESS|PATH", conflicts_with = "picture")]
        listen: Option<String>,
        /// Write a picture of it to this file (PNG; `-` is the standard output) instead.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        picture: Option<PathBuf>,
    },
    /// Show what a machine's serial console has said since its last start.
    Logs {
        /// The machine.
        vm: VmName,
        /// Go on with what it will say.
        #[arg(short, long)]
        follow: bool,
        /// Only the last N lines.
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Show what happened.
    Events {
        /// Go on with what will happen.
        #[arg(short, long)]
        follow: bool,
    },
    /// Explain what the switch would do with a packet, and which declarations make it so. No packet is sent.
    Why {
        /// The machine that would send it, or one of its ports (like `web-0`).
        #[arg(required_unless_present_any = ["drops", "log"])]
        from: Option<String>,
        /// Where to: a machine, or an IPv4 or IPv6 address.
        #[arg(required_unless_present_any = ["drops", "log", "frame"])]
        to: Option<String>,
        /// Show the frames that were dropped last instead: for each reason, from everybody or from this machine or port.
        #[arg(long, conflicts_with_all = ["to", "frame"])]
        drops: bool,
        /// Show what rules with `log` decided last instead: about everybody, or about what this machine or port sent or
        /// was sent.
        #[arg(long, conflicts_with_all = ["to", "frame", "drops"])]
        log: bool,
        #[command(flatten)]
        packet: PacketArgs,
    },
    /// Copy frames as they pass, as pcapng, into another program or a file. Ctrl-C ends it.
    ///
    /// `weft capture web | wireshark -k -i -` shows them live. Each frame comes once, as it came in, also if it is
    /// dropped then. Who reads too slowly loses copies, which are counted; the traffic goes on as ever.
    Capture {
        /// Whose: machines, ports (like `web-0`) or networks.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        options: CaptureArgs,
    },
    /// Write every counter in the text format of Prometheus. The daemon serves the same at `/metrics`.
    Metrics,
    /// Run one virtual switch on its own, for machines and namespaces that somebody else looks after.
    #[command(subcommand)]
    Switch(SwitchCommand),
    /// Say what this host can and cannot do, and what to install.
    Doctor,
    /// Write a shell's completions to stdout.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages into a folder, or `weft(1)` to stdout.
    Man {
        /// The folder.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// The role that looks after machines and networks; started when needed.
    #[command(hide = true)]
    Daemon,
    /// The role that keeps one machine of User-Mode Linux.
    #[command(hide = true)]
    Keeper {
        /// What the machine is, in JSON.
        #[arg(value_hint = ValueHint::FilePath)]
        description: PathBuf,
    },
    /// The part of `weft shell` that becomes the command.
    #[command(hide = true)]
    ShellInside(InsideArgs),
    /// The role that runs one machine on KVM (docs/VMM.md).
    #[command(hide = true)]
    Vmm {
        /// What the machine is, in JSON.
        #[arg(value_hint = ValueHint::FilePath)]
        description: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) every: f64,
    /// Only so many times.
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) samples: Option<u32>,
}

/// A time that is neither too short to count something nor too long to wait for.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "write a number of seconds from 0.1 to 3600".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The network.
    pub(crate) network: NetworkName,
    /// What it is called, in the network's DNS too; `shell-1`, `shell-2` … if left out.
    #[arg(long)]
    pub(crate) name: Option<VmName>,
    /// The command; your own shell if left out.
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct InsideArgs {
    /// The adapter's address.
    pub(crate) mac: MacAddr,
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u16,
    /// The command.
    #[arg(last = true)]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct FileArg {
    /// The file; `weft.toml` in this folder if left out.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// List machines.
    #[command(visible_alias = "list")]
    Ls,
    /// Start machines that were stopped or have died, and wait until they are ready.
    Start(VmNames),
    /// Stop machines; their disks stay.
    Stop {
        #[command(flatten)]
        vms: VmNames,
        /// At once, without asking the guests.
        #[arg(long)]
        force: bool,
    },
    /// Stop machines and start them, and wait until they are ready.
    Restart(VmNames),
    /// Remove machines with their disks. The next `up` of their file makes them anew.
    Rm(VmNames),
}

#[derive(Debug, Args)]
pub(crate) struct VmNames {
    /// The machines.
    #[arg(value_name = "VM", required = true)]
    pub(crate) names: Vec<VmName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks.
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about one network: its rules, and how often each has decided.
    Show {
        /// The network.
        name: NetworkName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List ports and their counters.
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about one port.
    Show {
        /// The port, like `web-0`.
        name: PortName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouterCommand {
    /// List routers, and what has passed them.
    #[command(visible_alias = "list")]
    Ls,
    /// Show one router with its rules, and how often each has decided.
    Show {
        /// The router.
        name: Label,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    /// List port forwards.
    #[command(visible_alias = "list")]
    Ls,
    /// Let a port of the host lead to a machine, until it is removed or the machine is.
    ///
    /// Nobody else's connections are disturbed. To the machine, all clients have the gateway's address.
    Add {
        /// Where on the host: `8080` for this host only, `0.0.0.0:8080` for everybody, `udp/5353-5360`.
        listen: Listen,
        /// The machine and its port, like `web:80`, or an address of a network.
        to: String,
        /// UDP, not TCP.
        #[arg(long)]
        udp: bool,
        /// On this network, where the machine is on several.
        #[arg(long)]
        network: Option<NetworkName>,
    },
    /// Remove a port forward that `add` has made; its connections end.
    Rm {
        /// Where on the host, as `ls` shows it.
        listen: Listen,
        /// UDP, not TCP.
        #[arg(long)]
        udp: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List leases.
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images: Weft's own, those that files describe, and those that were imported or pulled.
    #[command(visible_alias = "list")]
    Ls,
    /// Build an image: `micro`, if it is not there, or a `debian` with systemd, out of Debian's packages.
    Build {
        /// Which: `micro` or `debian`.
        #[arg(default_value = weft_model::MICRO)]
        what: String,
        /// The Debian, like `bookworm`; left out, this host's, or else the stable one.
        #[arg(long)]
        suite: Option<String>,
        /// Packages that it is to have beyond those that a machine needs.
        #[arg(long, value_name = "PACKAGE,…", value_delimiter = ',')]
        include: Vec<String>,
        /// The image's name; left out, `debian`.
        #[arg(long)]
        name: Option<Label>,
    },
    /// Keep a disk, a kernel, or a container's image under a name that any file can use.
    ///
    /// A disk (raw or qcow2) boots by itself, or stands beside the kernel if one is given. A packed disk is unpacked. An archive (tar, also packed) of
    /// a root file system, or of a container's image (an OCI layout, or what `docker save` writes), becomes a disk with
    /// a kernel beside it. The files are not needed afterwards; each machine gets a copy-on-write overlay of the disk.
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["disk", "kernel"])))]
    Import {
        /// The image's name.
        name: Label,
        /// The disk, or the archive.
        #[arg(value_hint = ValueHint::FilePath)]
        disk: Option<PathBuf>,
        /// The kernel: a bzImage, an ELF file, or a User-Mode Linux program.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        kernel: Option<PathBuf>,
        /// The initial RAM disk.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kernel")]
        initrd: Option<PathBuf>,
        /// The kernel's command line; left out, `console=ttyS0 panic=-1` (aarch64: `console=ttyAMA0 panic=-1`).
        #[arg(long, value_name = "WORDS", requires = "kernel")]
        cmdline: Option<String>,
        #[command(flatten)]
        platform: PlatformArgs,
    },
    /// Download a disk or an archive, look at its checksum, and keep it as `import` does; goes on where it was cut off.
    Pull {
        /// Where it is: http://, https:// or file:///.
        url: String,
        /// The image's name; left out, it is the file's, up to its first dot.
        #[arg(long)]
        name: Option<Label>,
        /// Its SHA-256 or SHA-512, or the address of a list that has it, such as `SHA256SUMS`.
        #[arg(long, value_name = "SUM|URL")]
        checksum: Option<String>,
        #[command(flatten)]
        platform: PlatformArgs,
    },
    /// Remove an image: Weft's own from the cache, or one that was imported or pulled.
    Rm {
        /// The image.
        name: String,
    },
}

/// The machines that a disk boots on, where it boots by itself.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct PlatformArgs {
    /// The processor: x86-64, aarch64 or riscv64; left out, x86-64. Kernels tell it themselves.
    #[arg(long, value_parser = |word: &str| find(Arch::WORDS, word))]
    arch: Option<Arch>,
    /// The firmware: bios or uefi; left out, bios, and uefi where the processor is not a PC's.
    #[arg(long, value_parser = |word: &str| find(Firmware::WORDS, word))]
    firmware: Option<Firmware>,
}

impl From<PlatformArgs> for Platform {
    fn from(PlatformArgs { arch, firmware }: PlatformArgs) -> Self {
        Self { arch, firmware }
    }
}

/// The value for which one of these words stands.
fn find<T: Copy>(words: &[(&str, T)], word: &str) -> Result<T, String> {
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    words
        .iter()
        .find(|(other, _)| *other == word)
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("choose from {}", known()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum SwitchCommand {
    /// Run the switch that a file describes, in the foreground, until SIGTERM or SIGINT.
    ///
    /// The file is read again when it changes, and on SIGHUP: ports that stay are not touched, and a file with
    /// mistakes changes nothing. Sockets and TAP devices that the switch made go when it ends.
    #[command(after_long_help = SWITCH_FILE)]
    Run {
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Show the ports of a switch that runs, with their counters.
    Show {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Everything about this port only.
        port: Option<PortName>,
    },
    /// Show the rules of a switch that runs, and how often each has decided.
    Rules {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Explain what a switch that runs would do with a packet. No packet is sent.
    Why {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The port by which it would come in.
        from: PortName,
        /// Where to: a port, a MAC address, or an IPv4 or IPv6 address that is a port's own.
        #[arg(required_unless_present = "frame")]
        to: Option<String>,
        #[command(flatten)]
        packet: PacketArgs,
    },
    /// Show the frames that a switch that runs has dropped last, for each reason.
    Drops {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only those that came in by this port.
        port: Option<PortName>,
    },
    /// Show what rules with `log` have decided last in a switch that runs.
    Log {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only about what this port sent or was sent.
        port: Option<PortName>,
    },
    /// Copy frames of a switch that runs, as `weft capture` does.
    Capture {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Whose: ports; all if left out.
        #[arg(value_name = "PORT")]
        ports: Vec<PortName>,
        #[command(flatten)]
        options: CaptureArgs,
    },
    /// Write every counter of a switch that runs in the text format of Prometheus.
    Metrics {
        /// The file that it runs from.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// The role that moves frames; started by the daemon.
    #[command(hide = true)]
    Serve {
        /// Where to listen for the daemon.
        #[arg(long)]
        control: PathBuf,
        /// The folder for what must last.
        #[arg(long)]
        state: PathBuf,
    },
}

/// A packet, or a frame that was captured.
#[derive(Debug, Args)]
pub(crate) struct PacketArgs {
    /// What: `tcp/5432`, `udp/53 from 1024`, `icmp/8`, as rules say it; a ping if left out.
    #[arg(value_parser = traffic)]
    pub(crate) traffic: Option<Traffic>,
    /// This very frame instead: in hexadecimal from the destination MAC address on, or a file of tcpdump's or
    /// Wireshark's (pcap, pcapng).
    #[arg(long, value_name = "HEX|FILE", conflicts_with = "to")]
    pub(crate) frame: Option<String>,
    /// Which frame of the file, counted from 1.
    #[arg(long, value_name = "N", requires = "frame", default_value_t = 1)]
    pub(crate) number: usize,
}

/// What is captured, and where to.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// Only so many bytes of each frame.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) snap: Option<u32>,
    /// Only what a machine or port sends (`in`, as the switch sees it), or only what it hears (`out`).
    #[arg(long, value_name = "in|out|both", default_value = "both")]
    pub(crate) direction: Direction,
    /// Only packets like this, whoever sends: `tcp/443`, `any -> 10.0.0.5`, `10.0.0.0/8 -> 10.0.0.5 udp/53`.
    #[arg(long, value_name = "PACKETS", value_parser = filter)]
    pub(crate) filter: Option<MirrorFilter>,
    /// Only frames in these VLANs.
    #[arg(long, value_name = "10,20-29")]
    pub(crate) vlan: Option<VlanSet>,
    /// Where to; stdout if left out, or `-`.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Give the command a terminal. Done without being asked where no command is named and this is a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Pass stdin on, as is done anyway; for fingers that are used to it.
    #[arg(short, long, hide = true)]
    pub(crate) interactive: bool,
    /// Give the command no input.
    #[arg(short = 'n', long, conflicts_with = "interactive")]
    pub(crate) no_stdin: bool,
    /// Set a variable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The folder to run it in.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// The machine.
    pub(crate) vm: VmName,
    /// The command and its arguments; a shell if left out.
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
}

fn traffic(text: &str) -> Result<Traffic, String> {
    parse_traffic(text).map_err(|error| format!("{error}: {}", error.hint))
}

fn filter(text: &str) -> Result<MirrorFilter, String> {
    parse_filter(text).map_err(|error| format!("{error}: {}", error.hint))
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_commands_own_flags_are_its_own() {
        let cli = Cli::parse_from(["weft", "exec", "-t", "web", "ls", "-l", "--json"]);
        let Command::Exec(exec) = cli.command else { panic!("{cli:?}") };
        assert_eq!((exec.tty, exec.argv, cli.json), (true, ["ls", "-l", "--json"].map(str::to_owned).into(), false));
    }
}
