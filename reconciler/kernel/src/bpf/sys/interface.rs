//! Interface names and numbers of the network namespace this thread is in.

use std::ffi::{CStr, CString};
use std::io;

/// The number of an interface; `None`: there is none of this name.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The name of an interface; `None`: there is none with this number.
pub(crate) fn name_of(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the `IF_NAMESIZE` bytes that if_indextoname(3) may write.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned)
}

/// All interfaces as `(number, name)`, in the kernel's order.
pub(crate) fn interfaces() -> io::Result<Vec<(u32, String)>> {
    // SAFETY: no arguments; the result is owned by us until it is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut out = Vec::new();
    for i in 0.. {
        // SAFETY: the array ends with an entry of index 0 and a null name (if_nameindex(3)), at
        // which the loop stops; all entries before it are valid.
        let entry = unsafe { &*list.add(i) };
        if entry.if_index == 0 || entry.if_name.is_null() {
            break;
        }
        // SAFETY: the names of an if_nameindex(3) array are NUL-terminated strings.
        let name = unsafe { CStr::from_ptr(entry.if_name) };
        if let Ok(name) = name.to_str() {
            out.push((entry.if_index, name.to_owned()));
        }
    }
    // SAFETY: `list` came from if_nameindex(3) and is not used after this.
    unsafe { libc::if_freenameindex(list) };
    Ok(out)
}
