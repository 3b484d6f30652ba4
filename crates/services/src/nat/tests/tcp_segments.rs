//! UDP, ICMP and who may be reached.

