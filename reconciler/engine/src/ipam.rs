//! Endpoint numbers and addresses for a new attachment. Pure: what is taken comes in, a choice goes out; who
//! calls writes it down before anything else is asked.
//!
//! The lowest free address is taken, but one that was given back lately only when nothing else is free:
//! others may still be talking to the pod that had it.

use crate::world::EndpointRecord;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many addresses and numbers given back are remembered.
const REMEMBERED: usize = 1024;

/// Addresses and endpoint numbers given back, oldest first. Only a preference: it may be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    addresses: VecDeque<IpAddr>,
    numbers: VecDeque<u16>,
}

impl Released {
    /// Remembers what an attachment gave back.
    pub fn add(&mut self, record: &EndpointRecord) {
        for addr in record.ipv4.into_iter().chain(record.ipv6) {
            push(&mut self.addresses, addr);
        }
        push(&mut self.numbers, record.id);
    }
}

fn push<T: PartialEq>(list: &mut VecDeque<T>, item: T) {
    list.retain(|known| *known != item);
    list.push_back(item);
    if list.len() > REMEMBERED {
        list.pop_front();
    }
}

/// What a new attachment wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// An IPv4 address.
    pub ipv4: bool,
    /// An IPv6 address.
    pub ipv6: bool,
    /// These very addresses, at most one of each family.
    pub wanted: Vec<IpAddr>,
}

/// What a new attachment gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Endpoint number.
    pub id: u16,
    /// IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address.
    pub ipv6: Option<IpAddr>,
}

/// Why there is nothing to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The node has no prefix of this family.
    #[error("this node has no IPv{0} pod CIDR")]
    NoPrefix(u8),
    /// All addresses are taken.
    #[error("no IPv{family} address is free in {prefixes}")]
    Exhausted {
        /// 4 or 6.
        family: u8,
        /// Where was looked.
        prefixes: String,
    },
    /// All endpoint numbers are taken.
    #[error("all 65535 endpoint numbers are taken")]
    NoNumber,
    /// An address asked for is not this node's to give.
    #[error("{0} is not an address for pods in a pod CIDR of this node")]
    Foreign(IpAddr),
    /// An address asked for is taken.
    #[error("{addr} is taken by {holder}")]
    Taken {
        /// The address.
        addr: IpAddr,
        /// By whom.
        holder: String,
    },
    /// More than one address of a family, or of one that is off, was asked for.
    #[error("{0} cannot be given: one address of each family that is on")]
    Superfluous(IpAddr),
}

/// Chooses a number and addresses that no record has. `reserved` are addresses within the prefixes that are
/// not for pods: the router's, and every other of the host.
pub fn allocate(
    records: &BTreeMap<u16, EndpointRecord>,
    prefixes: &[IpNet],
    reserved: &BTreeSet<IpAddr>,
    released: &Released,
    request: &Request,
) -> Result<Allocation, IpamError> {
    let mut taken: BTreeMap<IpAddr, &EndpointRecord> = BTreeMap::new();
    for record in records.values() {
        taken.extend(record.ipv4.into_iter().chain(record.ipv6).map(|addr| (addr, record)));
    }
    let pool = Pool { prefixes, reserved, taken: &taken, released };
    let (mut wanted4, mut wanted6) = (None, None);
    for addr in &request.wanted {
        let (on, slot) =
            if addr.is_ipv4() { (request.ipv4, &mut wanted4) } else { (request.ipv6, &mut wanted6) };
        if !on || slot.replace(*addr).is_some() {
            return Err(IpamError::Superfluous(*addr));
        }
    }
    let ipv4 = if request.ipv4 { Some(pool.choose(4, wanted4)?) } else { None };
    let ipv6 = if request.ipv6 { Some(pool.choose(6, wanted6)?) } else { None };
    Ok(Allocation { id: number(records, released)?, ipv4, ipv6 })
}

fn number(records: &BTreeMap<u16, EndpointRecord>, released: &Released) -> Result<u16, IpamError> {
    let free = |id: &u16| !records.contains_key(id);
    let recent: BTreeSet<u16> = released.numbers.iter().copied().collect();
    (1..=u16::MAX)
        .find(|id| free(id) && !recent.contains(id))
        .or_else(|| released.numbers.iter().copied().find(free))
        .ok_or(IpamError::NoNumber)
}

struct Pool<'a> {
    prefixes: &'a [IpNet],
    reserved: &'a BTreeSet<IpAddr>,
    taken: &'a BTreeMap<IpAddr, &'a EndpointRecord>,
    released: &'a Released,
}

impl Pool<'_> {
    fn choose(&self, family: u8, wanted: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        if let Some(addr) = wanted {
            return self.take(addr);
        }
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == (family == 4);
        let prefixes: Vec<&IpNet> = self.prefixes.iter().filter(of_family).collect();
        if prefixes.is_empty() {
            return Err(IpamError::NoPrefix(family));
        }
        let recent: BTreeSet<IpAddr> = self.released.addresses.iter().copied().collect();
        let fresh = |addr: &IpAddr| self.free(*addr) && !recent.contains(addr);
        // As many steps as addresses are taken, whatever the size of the prefix.
        prefixes
            .iter()
            .find_map(|net| hosts(net).find(fresh))
            .or_else(|| {
                let again =
                    |addr: &&IpAddr| prefixes.iter().any(|net| is_host(net, **addr)) && self.free(**addr);
                self.released.addresses.iter().find(again).copied()
            })
            .ok_or_else(|| IpamError::Exhausted {
                family,
                prefixes: prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            })
    }

    fn take(&self, addr: IpAddr) -> Result<IpAddr, IpamError> {
        if !self.prefixes.iter().any(|net| is_host(net, addr)) {
            return Err(IpamError::Foreign(addr));
        }
        if let Some(record) = self.taken.get(&addr) {
            return Err(IpamError::Taken { addr, holder: record.origin().object });
        }
        if self.reserved.contains(&addr) {
            return Err(IpamError::Taken { addr, holder: "the node".into() });
        }
        Ok(addr)
    }

    fn free(&self, addr: IpAddr) -> bool {
        !self.reserved.contains(&addr) && !self.taken.contains_key(&addr)
    }
}

/// First and last address for pods: not the network's own, nor IPv4's broadcast. A pair (RFC 3021, RFC 6164)
/// and a single address are for pods as a whole.
fn bounds(net: &IpNet) -> (u128, u128) {
    let spare = net.max_prefix_len() - net.prefix_len();
    let (first, last) = match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first).into(), u32::from(last).into()),
        (first, last) => (bits(first), bits(last)),
    };
    match (spare, net) {
        (0 | 1, _) => (first, last),
        (_, IpNet::V4(_)) => (first + 1, last - 1),
        (_, IpNet::V6(_)) => (first + 1, last),
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

fn is_host(net: &IpNet, addr: IpAddr) -> bool {
    let (first, last) = bounds(net);
    net.contains(&addr) && (first..=last).contains(&bits(addr))
}

fn hosts(net: &IpNet) -> impl Iterator<Item = IpAddr> {
    let v4 = matches!(net, IpNet::V4(_));
    let (first, last) = bounds(net);
    (first..=last).map(move |number| match u32::try_from(number) {
        Ok(number) if v4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Mac;
    use proptest::prelude::*;

    fn record(id: u16, ipv4: Option<&str>, ipv6: Option<&str>) -> EndpointRecord {
        EndpointRecord {
            id,
            container_id: format!("c{id}"),
            network: "cilium".into(),
            ifname: "eth0".into(),
            netns: "/proc/1/ns/net".into(),
            pod: None,
            pod_uid: None,
            labels: BTreeMap::new(),
            link: format!("lxc{id}"),
            mac: Mac::default(),
            node_mac: Mac::default(),
            ipv4: ipv4.map(|a| a.parse().unwrap()),
            ipv6: ipv6.map(|a| a.parse().unwrap()),
            port_mappings: Default::default(),
        }
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn v4() -> Request {
        Request { ipv4: true, ..Request::default() }
    }

    #[test]
    fn the_first_free_address_after_the_router_is_taken_in_both_families() {
        let reserved = BTreeSet::from(["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        let records = BTreeMap::from([(1, record(1, Some("10.1.0.2"), None))]);
        let request = Request { ipv4: true, ipv6: true, wanted: Vec::new() };
        let prefixes = nets(&["10.1.0.0/24", "fd00::/64"]);
        let got = allocate(&records, &prefixes, &reserved, &Released::default(), &request).unwrap();
        assert_eq!(got.id, 2);
        assert_eq!(got.ipv4, Some("10.1.0.3".parse().unwrap()));
        assert_eq!(got.ipv6, Some("fd00::2".parse().unwrap()));
    }

    #[test]
    fn an_address_given_back_lately_is_taken_last_and_the_oldest_of_them_first() {
        let prefixes = nets(&["10.1.0.0/29"]); // .1 to .6
        let mut released = Released::default();
        for (id, addr) in [(1, "10.1.0.2"), (2, "10.1.0.1")] {
            released.add(&record(id, Some(addr), None));
        }
        let mut records = BTreeMap::new();
        let mut order = Vec::new();
        while let Ok(got) = allocate(&records, &prefixes, &BTreeSet::new(), &released, &v4()) {
            let addr = got.ipv4.unwrap().to_string();
            records.insert(got.id, record(got.id, Some(&addr), None));
            order.push(addr);
        }
        assert_eq!(order, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.1"]);
        assert_eq!(records.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn an_exhausted_prefix_leads_to_the_next_one() {
        let prefixes = nets(&["10.1.0.0/32", "10.2.0.0/31"]);
        let records =
            BTreeMap::from([(1, record(1, Some("10.1.0.0"), None)), (2, record(2, Some("10.2.0.0"), None))]);
        let none = BTreeSet::new();
        let got = allocate(&records, &prefixes, &none, &Released::default(), &v4()).unwrap();
        assert_eq!(got.ipv4, Some("10.2.0.1".parse().unwrap()));
        let mut records = records;
        records.insert(3, record(3, Some("10.2.0.1"), None));
        let error = allocate(&records, &prefixes, &none, &Released::default(), &v4()).unwrap_err();
        assert_eq!(error.to_string(), "no IPv4 address is free in 10.1.0.0/32, 10.2.0.0/31");
        let v6 = Request { ipv6: true, ..Request::default() };
        assert_eq!(
            allocate(&records, &prefixes, &none, &Released::default(), &v6),
            Err(IpamError::NoPrefix(6))
        );
    }

    #[test]
    fn addresses_asked_for_are_given_or_refused_with_the_reason() {
        let prefixes = nets(&["10.1.0.0/24"]);
        let records = BTreeMap::from([(1, record(1, Some("10.1.0.9"), None))]);
        let reserved = BTreeSet::from(["10.1.0.1".parse().unwrap()]);
        let ask = |list: &[&str]| {
            let wanted = list.iter().map(|a| a.parse().unwrap()).collect();
            allocate(&records, &prefixes, &reserved, &Released::default(), &Request { wanted, ..v4() })
                .map(|a| a.ipv4.unwrap().to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(ask(&["10.1.0.77"]), Ok("10.1.0.77".into()));
        assert_eq!(ask(&["10.1.0.9"]), Err("10.1.0.9 is taken by container c1".into()));
        assert_eq!(ask(&["10.1.0.1"]), Err("10.1.0.1 is taken by the node".into()));
        for foreign in ["10.2.0.1", "10.1.0.0", "10.1.0.255"] {
            let message = format!("{foreign} is not an address for pods in a pod CIDR of this node");
            assert_eq!(ask(&[foreign]), Err(message));
        }
        assert!(ask(&["10.1.0.5", "10.1.0.6"]).unwrap_err().contains("10.1.0.6 cannot be given"));
        assert!(ask(&["fd00::5"]).unwrap_err().contains("fd00::5 cannot be given"));
    }

    #[test]
    fn the_last_prefix_of_all_does_not_overflow() {
        let request = Request { ipv6: true, ..Request::default() };
        let prefixes = nets(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"]);
        let got =
            allocate(&BTreeMap::new(), &prefixes, &BTreeSet::new(), &Released::default(), &request).unwrap();
        assert_eq!(got.ipv6, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe".parse().unwrap()));
    }

    proptest! {
        /// Never a number or an address twice, never the network, broadcast or reserved, in any order of
        /// attaching and detaching; and as long as one is free, one is given.
        #[test]
        fn nothing_is_given_twice(steps in prop::collection::vec(any::<Option<u8>>(), 1..200), length in 26u8..=32) {
            let net: IpNet = format!("10.9.0.0/{length}").parse().unwrap();
            let reserved = BTreeSet::from([IpAddr::from([10, 9, 0, 1])]);
            let mut records: BTreeMap<u16, EndpointRecord> = BTreeMap::new();
            let mut released = Released::default();
            for step in steps {
                match step {
                    Some(at) if !records.is_empty() => {
                        let id = *records.keys().nth(usize::from(at) % records.len()).unwrap();
                        released.add(&records.remove(&id).unwrap());
                    }
                    Some(_) | None => {
                        let usable = hosts(&net).filter(|a| !reserved.contains(a)).count();
                        match allocate(&records, &[net], &reserved, &released, &v4()) {
                            Ok(got) => {
                                let addr = got.ipv4.unwrap();
                                prop_assert!(is_host(&net, addr) && !reserved.contains(&addr));
                                prop_assert!(records.values().all(|r| r.ipv4 != Some(addr)));
                                let new = record(got.id, Some(&addr.to_string()), None);
                                prop_assert!(got.id > 0 && records.insert(got.id, new).is_none());
                            }
                            Err(_) => prop_assert_eq!(records.len(), usable),
                        }
                    }
                }
            }
        }
    }
}
