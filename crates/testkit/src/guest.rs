//! A guest's TCP/IP stack that is not ours: smoltcp behind a virtual network adapter without offloads.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use weft_types::{Instant, MacAddr};
use weft_wire::{EtherType, Offload, ethernet, segment};

pub use smoltcp::iface::SocketHandle;
pub use smoltcp::socket::tcp;

/// A guest with one adapter. Neighbours are known: every frame goes to the gateway.
pub struct Guest {
    interface: Interface,
    adapter: Adapter,
    sockets: SocketSet<'static>,
    mac: MacAddr,
    gateway_mac: MacAddr,
}

/// IP packets on their way between stack and network.
struct Adapter {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Guest {
    /// A guest with the address `ip` on a /24.
    pub fn new(mac: MacAddr, ip: Ipv4Addr, gateway: (MacAddr, Ipv4Addr), mtu: u16) -> Self {
        let mut adapter = Adapter { mtu: mtu.into(), received: VecDeque::new(), sent: VecDeque::new() };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut adapter, SmolInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ip.into(), 24)).expect("room for one address");
        });
        interface.routes_mut().add_default_ipv4_route(gateway.1).expect("room for one route");
        Self { interface, adapter, sockets: SocketSet::new(Vec::new()), mac, gateway_mac: gateway.0 }
    }

    /// Begins a TCP connection, with buffers of `buffer_bytes` each.
    pub fn connect(&mut self, local_port: u16, to: SocketAddrV4, buffer_bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(self.interface.context(), (*to.ip(), to.port()), local_port).expect("a new socket");
        self.sockets.add(socket)
    }

    /// Waits for a TCP connection, with buffers of `buffer_bytes` each.
    pub fn listen(&mut self, port: u16, buffer_bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(port).expect("a new socket");
        self.sockets.add(socket)
    }

    /// A TCP socket.
    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Takes in a frame from the network, finished in software like a port without offloads would.
    pub fn receive(&mut self, frame: &[u8], offload: Offload) {
        let received = &mut self.adapter.received;
        let result = segment::segment(frame, offload, &mut |frame| {
            let packet = ethernet::parse(frame).expect("a frame of ours").payload;
            received.push_back(packet.to_vec());
        });
        result.expect("offloads that fit their frame");
    }

    /// Lets the stack work.
    pub fn poll(&mut self, now: Instant) {
        self.interface.poll(smol_instant(now), &mut self.adapter, &mut self.sockets);
    }

    /// When the stack wants to be polled again.
    pub fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(smol_instant(now), &self.sockets)?;
        Some(Instant::from_nanos(at.total_micros().unsigned_abs() * 1000).max(now))
    }

    /// The next frame for the network.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        let packet = self.adapter.sent.pop_front()?;
        let mut frame = Vec::with_capacity(ethernet::HEADER_BYTES + packet.len());
        ethernet::emit(&mut frame, self.gateway_mac, self.mac, EtherType::IPV4);
        frame.extend_from_slice(&packet);
        Some(frame)
    }
}

fn smol_instant(now: Instant) -> SmolInstant {
    SmolInstant::from_micros((now.as_nanos() / 1000).cast_signed())
}

impl Device for Adapter {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sender<'_>)> {
        Some((Received(self.received.pop_front()?), Sender(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet for the stack.
struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a packet of the stack.
struct Sender<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
