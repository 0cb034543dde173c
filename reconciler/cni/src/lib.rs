//! What the CNI plugin and the agent say to each other, and the plugin's side of it.
//!
//! One request per connection: `POST /v1/cni` in HTTP/1.0 over `cilium.sock`, the body a [`wire::Request`];
//! the answer a [`wire::Answer`]. The plugin formats results for the version the runtime asked for.

pub mod attachment;
pub mod client;
pub mod error;
pub mod plugin;
pub mod ports;
pub mod result;
pub mod teardown;
pub mod wire;
