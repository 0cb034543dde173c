//! Routes with our protocol number, in every table. A route to the same place that somebody else made is
//! never replaced.

#![forbid(unsafe_code)]

use super::error::{NetlinkError, unless};
use super::message::{NextHop, RouteFilter, SeenRoute, ask_route, route, route_message};
use super::ownership::{NameOf, name_of};
use super::socket::{ENTRIES, Request};
use super::{LinkTable, Net, within};
use cilium_engine::driver::{Driver, DriverError, Scope, Step};
use cilium_engine::state::{LinkName, ROUTE_PROTOCOL, Route, RouteKey, RouteRow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;

impl Driver<Route> for Net {
    /// A route of ours whose interface has no name any more, or with several ways, is not returned: the
    /// kernel is about to remove the first, and a write replaces the second.
    fn observe(&mut self, scope: &Scope<RouteKey>) -> Result<Vec<(RouteKey, RouteRow)>, DriverError> {
        let routes = self.our_routes()?;
        let links = self.links()?;
        let mut rows = Vec::with_capacity(routes.len());
        for seen in routes {
            let key = RouteKey { table: seen.table, dst: seen.dst };
            let Some(link) = links.name(seen.link) else { continue };
            if within(scope, &key) {
                rows.push((
                    key,
                    RouteRow { link: link.clone(), via: seen.via, src: seen.src, mtu: seen.mtu },
                ));
            }
        }
        Ok(rows)
    }

    fn apply(&mut self, steps: &[Step<Route>]) -> Vec<Result<(), DriverError>> {
        let links = match self.links() {
            Ok(links) => links,
            Err(error) => return steps.iter().map(|_| Err(error.clone())).collect(),
        };
        let requests = steps.iter().filter_map(|step| request(step, &links)).collect();
        let mut results = self.netlink.requests(requests).into_iter();
        let mut outcomes: Vec<_> = steps.iter().map(|step| outcome(step, &links, &mut results)).collect();
        self.replace_our_own(steps, &links, &mut outcomes);
        outcomes.into_iter().map(|outcome| outcome.map_err(Failure::into_error)).collect()
    }
}

/// Why a step was not carried out.
enum Failure {
    /// There is a route to the same destination, ours or not.
    Taken,
    /// Anything else.
    Other(DriverError),
}

impl Failure {
    fn into_error(self) -> DriverError {
        match self {
            Self::Taken => DriverError::new("a route to the same destination exists (EEXIST)"),
            Self::Other(error) => error,
        }
    }
}

impl Net {
    fn our_routes(&mut self) -> Result<Vec<SeenRoute>, DriverError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let question = RouteNetlinkMessage::GetRoute(ask_route(family, RouteFilter::Ours));
            let seen = self.netlink.dump(&question, ENTRIES).map_err(|error| error.during("read routes"))?;
            // Kernels without strict checks return all of them.
            routes.extend(seen.into_iter().filter_map(route).filter(|seen| seen.protocol == ROUTE_PROTOCOL));
        }
        Ok(routes)
    }

    /// A creation that found a route in its place: if that is ours (the step runs twice), it is replaced.
    fn replace_our_own(
        &mut self,
        steps: &[Step<Route>],
        links: &LinkTable,
        outcomes: &mut [Result<(), Failure>],
    ) {
        if !outcomes.iter().any(|outcome| matches!(outcome, Err(Failure::Taken))) {
            return;
        }
        let ours: Result<BTreeSet<RouteKey>, DriverError> = self
            .our_routes()
            .map(|routes| routes.iter().map(|seen| RouteKey { table: seen.table, dst: seen.dst }).collect());
        for (step, outcome) in steps.iter().zip(outcomes) {
            let (Err(Failure::Taken), Step::Create { key, row }) = (&*outcome, step) else { continue };
            *outcome = match &ours {
                Err(error) => Err(Failure::Other(error.clone())),
                Ok(ours) if ours.contains(key) => {
                    let Some(message) = message(key, row, links) else { continue };
                    self.netlink
                        .request(message, NLM_F_CREATE | NLM_F_REPLACE)
                        .map_err(|error| Failure::Other(error.during(format_args!("replace route {key}"))))
                }
                Ok(_) => Err(Failure::Other(
                    DriverError::new(format!("add route {key}: there is one that is not ours"))
                        .hint(format!("see `ip route show table {} {}`", key.table, key.dst)),
                )),
            };
        }
    }
}

fn message(key: &RouteKey, row: &RouteRow, links: &LinkTable) -> Option<RouteNetlinkMessage> {
    Some(RouteNetlinkMessage::NewRoute(route_message(
        &seen(key, row, links.index(&row.link)?),
        next_hop(&row.link),
    )))
}

/// Our own links have host prefixes only: there a next hop is on the link by definition.
fn next_hop(link: &LinkName) -> NextHop {
    match name_of(link) {
        NameOf::Node | NameOf::Pod => NextHop::OnLink,
        NameOf::Stranger => NextHop::Connected,
    }
}

fn seen(key: &RouteKey, row: &RouteRow, link: u32) -> SeenRoute {
    SeenRoute {
        table: key.table,
        dst: key.dst.trunc(),
        link,
        via: row.via,
        src: row.src,
        mtu: row.mtu,
        protocol: ROUTE_PROTOCOL,
    }
}

/// The request a step needs; `None`: there is no such interface.
fn request(step: &Step<Route>, links: &LinkTable) -> Option<Request> {
    Some(match step {
        Step::Create { key, row } => (message(key, row, links)?, NLM_F_CREATE | NLM_F_EXCL),
        Step::Update { key, row, .. } => (message(key, row, links)?, NLM_F_CREATE | NLM_F_REPLACE),
        Step::Remove { key, seen: row } => {
            let route = route_message(&seen(key, row, links.index(&row.link)?), next_hop(&row.link));
            (RouteNetlinkMessage::DelRoute(route), 0)
        }
    })
}

fn outcome(
    step: &Step<Route>,
    links: &LinkTable,
    results: &mut impl Iterator<Item = Result<(), NetlinkError>>,
) -> Result<(), Failure> {
    let mut result = || results.next().unwrap_or(Err(NetlinkError::Malformed));
    match step {
        Step::Create { key, row } | Step::Update { key, row, .. } => {
            if links.index(&row.link).is_none() {
                let error = DriverError::new(format!("add route {key}: there is no interface {}", row.link));
                return Err(Failure::Other(error));
            }
            result().map_err(|error| match error.errno() {
                Some(libc::EEXIST) => Failure::Taken,
                _ => Failure::Other(error.during(format_args!("add route {key} {row}"))),
            })
        }
        // A route goes with its interface.
        Step::Remove { seen, .. } if links.index(&seen.link).is_none() => Ok(()),
        Step::Remove { key, .. } => unless(result(), &[libc::ESRCH, libc::ENODEV])
            .map_err(|error| Failure::Other(error.during(format_args!("remove route {key}")))),
    }
}
