//! An independent DHCP client comes up at our server.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities};
use smoltcp::socket::dhcpv4::{Event, Socket};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use weft_types::Instant;

use crate::bed::*;

/// The cable between client and gateway.
#[derive(Default)]
struct Cable {
    to_client: std::collections::VecDeque<Vec<u8>>,
    to_gateway: Vec<Vec<u8>>,
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sender<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Received(frame), Sender(&mut self.to_gateway)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.to_gateway))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sender<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

#[test]
fn a_client_comes_up_and_stays_up() {
    let mut bed = Bed::new();
    let mut cable = Cable::default();
    let config = Config::new(EthernetAddress(LAPTOP.octets()).into());
    let mut client = Interface::new(config, &mut cable, SmolInstant::ZERO);
    let mut sockets = SocketSet::new(vec![]);
    let socket = sockets.add(Socket::new());
    let mut configured = Vec::new();
    // Two leases' time, a second a step.
    for second in 0..2 * u64::from(LEASE_S) {
        bed.now = Instant::from_millis(second * 1000);
        for _ in 0..8 {
            client.poll(SmolInstant::from_secs(second as i64), &mut cable, &mut sockets);
            match sockets.get_mut::<Socket>(socket).poll() {
                Some(Event::Configured(config)) => {
                    client.update_ip_addrs(|addresses| {
                        addresses.clear();
                        addresses.push(config.address.into()).unwrap();
                    });
                    configured.push((config.address, config.router, config.dns_servers.to_vec()));
                }
                Some(Event::Deconfigured) if second > 0 => panic!("the lease was lost after {second} s"),
                _ => {}
            }
            for frame in std::mem::take(&mut cable.to_gateway) {
                bed.send(OFFICE, &frame);
            }
            bed.persist();
            cable.to_client.extend(bed.frames());
        }
    }
    let (address, router, dns) = &configured[0];
    assert_eq!(*address, Ipv4Cidr::new(ip("10.20.0.100"), 24));
    assert_eq!((*router, dns.as_slice()), (Some(ip("10.20.0.1")), &[ip("10.20.0.1")][..]));
    assert!(configured.iter().all(|(other, ..)| other == address));
    assert_eq!(bed.counted(), "");
}
