//! Whatever bytes stand in a map, its rows can be named, so that what is not wanted can be removed.

use super::Mapped;
use super::ipcache::{prefix_in, prefix_out};
use crate::bpf::ifname::Names;
use cilium_abi::ipcache::PrefixKey;
use cilium_engine::state::{
    Backend, Device, Endpoint, EndpointConfig, Frontend, IdentityDigest, Policy, PolicyDigest, RevNat,
    RevNatId, Slot, SourceRange, SourceRangeKey,
};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

fn named<R: Mapped>(bytes: &[u8]) {
    let mut names = Names::default();
    let key = R::AbiKey::read_from_prefix(bytes).expect("more bytes than any key has").0;
    let row = R::AbiRow::read_from_suffix(bytes).expect("more bytes than any row has").1;
    if let Some(named) = R::key_in(&key, &mut names) {
        let again = R::key_out(&named, &mut names).expect("what was read can be written");
        assert_eq!(again.as_bytes(), key.as_bytes(), "{named:?}");
        let row = R::row_in(&row, &mut names);
        assert!(!row.to_string().is_empty());
        // What can be written reads back as what it was written from.
        if let Ok(out) = R::row_out(&named, &row, &mut names) {
            assert_eq!(R::row_in(&out, &mut names), row);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_have_a_name(bytes in proptest::collection::vec(any::<u8>(), 256)) {
        named::<Backend>(&bytes);
        named::<RevNat>(&bytes);
        named::<Slot>(&bytes);
        named::<Frontend>(&bytes);
        named::<IdentityDigest>(&bytes);
        named::<Policy>(&bytes);
        named::<PolicyDigest>(&bytes);
        named::<Endpoint>(&bytes);
        named::<EndpointConfig>(&bytes);
        named::<Device>(&bytes);
    }

    #[test]
    fn any_prefix_has_a_name(prefix_len in 0u32..=128, v4: bool, words: [u32; 4]) {
        let addr = if v4 { cilium_abi::Address::v4(words[3]) } else { cilium_abi::Address { words } };
        let key = PrefixKey { prefix_len, addr };
        let again = prefix_out(&prefix_in(&key));
        prop_assert_eq!(again.prefix_len, key.prefix_len);
        // What is behind the prefix is not part of the name: the trie does not look at it.
        let bits = |key: &PrefixKey| {
            let bytes: [u8; 16] = key.addr.as_bytes().try_into().expect("an address");
            u128::from_be_bytes(bytes).checked_shr(128 - prefix_len).unwrap_or(0)
        };
        prop_assert_eq!(bits(&again), bits(&key));
        let range = SourceRangeKey { rev_nat: RevNatId(7), net: prefix_in(&key).0 };
        let mut names = Names::default();
        let out = SourceRange::key_out(&range, &mut names).expect("any range can be written");
        prop_assert_eq!((out.prefix_len, out.rev_nat), (32 + prefix_len, 7));
        prop_assert_eq!(SourceRange::key_in(&out, &mut names), Some(range));
    }
}
