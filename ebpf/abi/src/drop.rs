//! Why a packet was dropped: Cilium's codes and texts (features.md §1.9), which dashboards use as
//! label values.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u8 = $code;)*

        /// The text of a reason, as in the label of `cilium_drop_count_total`; `None` if not a drop
        /// this datapath knows.
        pub const fn text(code: u8) -> Option<&'static str> {
            match code { $($code => Some($text),)* _ => None }
        }

        /// Every reason this datapath can give, with its text.
        pub const ALL: &[(u8, &str)] = &[$(($code, $text),)*];
    };
}

reasons! {
    /// Source hardware address is not the endpoint's.
    INVALID_SOURCE_MAC = 130, "Invalid source mac";
    /// Destination hardware address is not ours.
    INVALID_DESTINATION_MAC = 131, "Invalid destination mac";
    /// Source address is not the endpoint's.
    INVALID_SOURCE_IP = 132, "Invalid source ip";
    /// No rule allows it.
    POLICY_DENIED = 133, "Policy denied";
    /// Headers are inconsistent.
    INVALID_PACKET = 134, "Invalid packet";
    /// Layer 4 header missing or cut.
    CT_INVALID_HEADER = 135, "CT: Truncated or invalid header";
    /// Needs fragmentation, and may not be.
    FRAGMENTATION_NEEDED = 136, "Fragmentation needed";
    /// Conntrack does not know this protocol.
    CT_UNKNOWN_PROTOCOL = 137, "CT: Unknown L4 protocol";
    /// Not IPv4, IPv6 or ARP.
    UNSUPPORTED_L3_PROTOCOL = 139, "Unsupported L3 protocol";
    /// A tail call missed.
    MISSED_TAIL_CALL = 140, "Missed tail call";
    /// A helper refused to write the packet.
    WRITE_ERROR = 141, "Error writing to packet";
    /// Layer 4 protocol not handled.
    UNKNOWN_L4_PROTOCOL = 142, "Unknown L4 protocol";
    /// The tunnel metadata could not be read.
    TUNNEL_KEY_ERROR = 147, "Error retrieving tunnel key";
    /// The target address has no known neighbour.
    UNKNOWN_L3_TARGET = 150, "Unknown L3 target address";
    /// The address belongs to this node's pods but to no endpoint.
    STALE_OR_UNROUTABLE_IP = 151, "Stale or unroutable IP";
    /// Layer 3 checksum could not be corrected.
    L3_CHECKSUM_ERROR = 153, "Error while correcting L3 checksum";
    /// Layer 4 checksum could not be corrected.
    L4_CHECKSUM_ERROR = 154, "Error while correcting L4 checksum";
    /// Conntrack entry could not be created.
    CT_INSERT_FAILED = 155, "CT: Map insertion failed";
    /// IPv6 extension header chain is malformed or too long.
    INVALID_EXTENSION_HEADER = 156, "Invalid IPv6 extension header";
    /// A fragment of what is never sent in fragments: an ICMP message other than an echo.
    FRAGMENT_UNSUPPORTED = 157, "IP fragmentation not supported";
    /// A service without a usable backend.
    NO_SERVICE_BACKEND = 158, "Service backend not found";
    /// The peer has no tunnel endpoint.
    NO_TUNNEL_ENDPOINT = 160, "No tunnel/encapsulation endpoint (datapath BUG!)";
    /// A packet that belongs to no connection, where there must be one.
    UNKNOWN_CT = 163, "Unknown connection tracking state";
    /// The local host cannot be reached.
    HOST_UNREACHABLE = 164, "Local host is unreachable";
    /// No free port, or no mapping, for masquerading.
    SNAT_NO_MAPPING = 167, "No mapping for NAT masquerade";
    /// Masquerading does not know this protocol.
    SNAT_UNSUPPORTED_PROTOCOL = 168, "Unsupported protocol for NAT masquerade";
    /// The kernel's FIB has no way.
    FIB_LOOKUP_FAILED = 169, "FIB lookup failed";
    /// A pod may not send what a node would take for the overlay's.
    ENCAPSULATION_PROHIBITED = 170, "Encapsulation traffic is prohibited";
    /// An identity that cannot be.
    INVALID_IDENTITY = 171, "Invalid identity";
    /// The sender is not known.
    UNKNOWN_SENDER = 172, "Unknown sender";
    /// A ClusterIP reached from where it is not served.
    IS_CLUSTER_IP = 174, "Is a ClusterIP";
    /// A fragment came before its datagram's first, or long after.
    FRAGMENT_NOT_FOUND = 175, "First logical datagram fragment not found";
    /// ICMPv6 message a pod may not send.
    FORBIDDEN_ICMPV6 = 176, "Forbidden ICMPv6 message";
    /// The source may not use the frontend.
    NOT_IN_SOURCE_RANGE = 177, "Not in LB source range";
    /// A deny rule matches.
    POLICY_DENIED_BY_DENYLIST = 181, "Policy denied by denylist";
    /// TTL or hop limit ran out.
    TTL_EXCEEDED = 196, "TTL exceeded";
    /// The host side is not set up yet.
    HOST_NOT_READY = 202, "Host datapath not ready";
    /// The endpoint is not open yet, or no longer.
    ENDPOINT_NOT_READY = 203, "Endpoint policy program not available";
    /// A device this datapath needs is absent.
    NO_DEVICE = 206, "No device";
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(super::ALL.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(super::text(133), Some("Policy denied"));
        assert_eq!(super::text(5), None);
    }
}
