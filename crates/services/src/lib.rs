//! What stands behind a network's gateway, sans-IO: ARP, DHCP, DNS, ICMP echo and the NAT device.
