//! `/healthz` and `/livez` as kube-proxy answers them (`load_balancer.healthz_listen`; its own port is 10256):
//! load balancers outside ask whether a node serves Services at all
//! (<https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/>, KEP-3836).
//!
//! 200 while what is wanted stands, or has not been in question for [`LATE`]; else 503. `/healthz` says 503 of a
//! node that is about to be taken away too, so that no new connections come.

use super::answers::{json, listen, serve};
use super::shared::Shared;
use crate::calendar::utc;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// How long rows may be other than wanted: twice kube-proxy's period by default (30 s), as there.
const LATE: Duration = Duration::from_secs(60);
/// How soon an address that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Since when the loop has had something to do, and when it last was done.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Beat>);

#[derive(Clone, Copy, Debug)]
struct Beat {
    pending: Option<Instant>,
    updated: SystemTime,
}

impl Pulse {
    /// Nothing is done yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Beat { pending: Some(Instant::now()), updated: UNIX_EPOCH }))
    }

    /// A pass begins: until one ends well there is something to do.
    pub(super) fn begin(&self) {
        self.change(|beat| {
            beat.pending.get_or_insert_with(Instant::now);
        });
    }

    /// A pass ended with nothing left to do.
    pub(super) fn done(&self) {
        self.change(|beat| *beat = Beat { pending: None, updated: SystemTime::now() });
    }

    fn change(&self, change: impl FnOnce(&mut Beat)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn beat(&self) -> Beat {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the runtime ends. Must be called within it. Why it does not serve, if so, is told in
/// [`Shared::health`].
pub(super) fn start(at: SocketAddr, shared: Arc<Shared>) {
    tokio::spawn(async move {
        loop {
            let listener = listen(at);
            let reason = listener.as_ref().err().map(|e| {
                format!(
                    "cannot listen on load_balancer.healthz_listen {at}: {e}; tried again every {AGAIN:?}; does a \
                     kube-proxy run?"
                )
            });
            shared.health.of_node(reason);
            match listener {
                Ok(listener) => {
                    let shared = shared.clone();
                    serve(listener, move |path| respond(path, &shared)).await;
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    });
}

fn respond(path: &str, shared: &Shared) -> Response<Body> {
    let (beat, eligible) = (shared.pulse.beat(), !shared.shown().view.leaving);
    let waited = beat.pending.map(|since| since.elapsed());
    let (code, body) = answer(path, waited, beat.updated, SystemTime::now(), eligible);
    json(code, body)
}

/// What is said, if there has been something to do for so long.
fn answer(
    path: &str,
    waited: Option<Duration>,
    updated: SystemTime,
    now: SystemTime,
    eligible: bool,
) -> (StatusCode, String) {
    let live = waited.is_none_or(|waited| waited < LATE);
    let healthy = match path {
        "/healthz" => live && eligible,
        "/livez" => live,
        _ => return (StatusCode::NOT_FOUND, r#"{"error":"/healthz or /livez"}"#.to_owned()),
    };
    let time = |at: SystemTime| {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        utc(seconds).replace(' ', "T")
    };
    // Whoever is well was updated just now: so kube-proxy, for those who look at nothing else.
    let updated = if healthy { now } else { updated };
    let mut body = serde_json::json!({ "lastUpdated": time(updated), "currentTime": time(now) });
    if path == "/healthz" {
        body["nodeEligible"] = eligible.into();
    }
    (if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, waited: Option<u64>, eligible: bool) -> (u16, serde_json::Value) {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let (code, body) = answer(path, waited.map(Duration::from_secs), at(60), at(3600), eligible);
        (code.as_u16(), serde_json::from_str(&body).expect("JSON"))
    }

    #[test]
    fn a_minute_of_work_is_forgiven() {
        let (then, now) = ("1970-01-01T00:01:00Z", "1970-01-01T01:00:00Z");
        for (waited, code, updated) in [(None, 200, now), (Some(59), 200, now), (Some(60), 503, then)] {
            let (got, body) = asked("/healthz", waited, true);
            assert_eq!(got, code, "{waited:?}");
            let want = serde_json::json!({"lastUpdated": updated, "currentTime": now, "nodeEligible": true});
            assert_eq!(body, want);
            let (got, body) = asked("/livez", waited, true);
            assert_eq!((got, body), (code, serde_json::json!({"lastUpdated": updated, "currentTime": now})));
        }
    }

    #[test]
    fn a_node_that_leaves_lives_but_is_not_healthy() {
        assert_eq!(asked("/livez", None, false).0, 200);
        let (code, body) = asked("/healthz", None, false);
        assert_eq!((code, &body["nodeEligible"]), (503, &false.into()));
        assert_eq!(asked("/", None, true).0, 404);
    }

    #[test]
    fn it_beats_from_the_first_look_that_ends_well_on() {
        let pulse = Pulse::new();
        let begun = pulse.beat().pending.expect("nothing is done yet");
        pulse.begin();
        assert_eq!(pulse.beat().pending, Some(begun), "who is late stays so when he tries again");
        pulse.done();
        assert_eq!(pulse.beat().pending, None);
        assert!(pulse.beat().updated > UNIX_EPOCH);
        pulse.begin();
        assert!(pulse.beat().pending.is_some());
    }
}
