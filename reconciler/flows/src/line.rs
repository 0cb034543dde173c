//! One line per event, for people.

use crate::named::{EventKind, NamedEvent, Party};
use std::fmt;

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.ip, self.port) {
            (Some(name), _, Some(port)) => write!(f, "{name}:{port}")?,
            (Some(name), _, None) => f.write_str(name)?,
            (None, Some(ip), Some(port)) => write!(f, "{}", std::net::SocketAddr::new(ip, port))?,
            (None, Some(ip), None) => write!(f, "{ip}")?,
            (None, None, _) => f.write_str("?")?,
        }
        match &self.labels {
            Some(labels) if labels.starts_with("reserved:") => {
                write!(f, " ({})", labels.trim_start_matches("reserved:"))
            }
            _ => write!(f, " (ID:{})", self.identity),
        }
    }
}

impl fmt::Display for NamedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.time / 1_000_000;
        let (seconds, millis) = (millis / 1000 % 86_400, millis % 1000);
        write!(f, "{:02}:{:02}:{:02}.{millis:03} ", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        write!(f, "{} -> {} {} ", self.source, self.destination, self.l4)?;
        let direction = self.direction.as_deref().unwrap_or("-");
        match self.kind {
            EventKind::Drop => write!(f, "DROPPED {direction} endpoint {}: {}", self.endpoint, self.what)?,
            EventKind::Trace => {
                write!(f, "{} {}", self.what, self.connection.as_deref().unwrap_or_default())?;
                if let Some(original) = self.original {
                    write!(f, " (was {original})")?;
                }
            }
            EventKind::PolicyVerdict => write!(
                f,
                "policy-verdict:{} {direction} endpoint {} {}",
                self.matched.as_deref().unwrap_or_default(),
                self.endpoint,
                self.what
            )?,
        }
        match &self.rule {
            Some(rule) => write!(f, " [{rule}]"),
            None => Ok(()),
        }
    }
}
