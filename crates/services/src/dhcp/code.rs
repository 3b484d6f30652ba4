//! The numbers of options (RFC 2132, and the RFC beside each that came later).

pub(super) const PAD: u8 = 0;
pub(super) const SUBNET_MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const DNS_SERVER: u8 = 6;
pub(super) const HOST_NAME: u8 = 12;
pub(super) const DOMAIN_NAME: u8 = 15;
pub(super) const MTU: u8 = 26;
pub(super) const BROADCAST: u8 = 28;
pub(super) const REQUESTED_IP: u8 = 50;
pub(super) const LEASE_TIME: u8 = 51;
pub(super) const OVERLOAD: u8 = 52;
pub(super) const MESSAGE_TYPE: u8 = 53;
pub(super) const SERVER_ID: u8 = 54;
pub(super) const WANTED: u8 = 55;
pub(super) const MESSAGE: u8 = 56;
pub(super) const MAX_SIZE: u8 = 57;
pub(super) const T1: u8 = 58;
pub(super) const T2: u8 = 59;
pub(super) const VENDOR_CLASS: u8 = 60;
pub(super) const CLIENT_ID: u8 = 61;
pub(super) const TFTP_SERVER: u8 = 66;
pub(super) const BOOT_FILE: u8 = 67;
/// RFC 3004.
pub(super) const USER_CLASS: u8 = 77;
/// RFC 4039.
pub(super) const RAPID_COMMIT: u8 = 80;
/// RFC 3046.
pub(super) const RELAY_INFO: u8 = 82;
/// RFC 4578.
pub(super) const ARCHITECTURE: u8 = 93;
/// RFC 3011.
pub(super) const SUBNET_SELECTION: u8 = 118;
/// RFC 3397.
pub(super) const DOMAIN_SEARCH: u8 = 119;
/// RFC 3442.
pub(super) const CLASSLESS_ROUTES: u8 = 121;
pub(super) const END: u8 = 255;

/// RFC 3527: a relay's suboption that names the client's subnet.
pub(super) const LINK_SELECTION: u8 = 5;
