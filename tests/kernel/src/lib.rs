//! Tests against this kernel: packet fixtures and network namespaces.
