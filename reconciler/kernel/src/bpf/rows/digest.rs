//! What numbers stand for, for a start with an empty memory.

use super::Mapped;
use crate::bpf::ifname::Names;
use cilium_abi::maps::{self, MapSpec};
use cilium_engine::driver::DriverError;
use cilium_engine::state::{Digest, IdentityDigest, IdentityId, PolicyDigest, PolicyId};

macro_rules! digests {
    ($($resource:ident, $id:ident, $map:ident;)*) => {$(
        impl Mapped for $resource {
            const MAP: MapSpec = maps::$map;
            type AbiKey = u32;
            type AbiRow = [u8; 16];

            fn key_out(key: &$id, _: &mut Names) -> Option<u32> {
                Some(key.0)
            }
            fn row_out(_: &$id, row: &Digest, _: &mut Names) -> Result<[u8; 16], DriverError> {
                Ok(row.0)
            }
            fn key_in(key: &u32, _: &mut Names) -> Option<$id> {
                Some($id(*key))
            }
            fn row_in(row: &[u8; 16], _: &mut Names) -> Digest {
                Digest(*row)
            }
        }
    )*};
}

digests! {
    IdentityDigest, IdentityId, IDENTITY_DIGEST;
    PolicyDigest, PolicyId, POLICY_DIGEST;
}
