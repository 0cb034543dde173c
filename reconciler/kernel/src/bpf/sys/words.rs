//! An array of 32-bit words, mapped into memory: for those of which user space writes many at once.

use super::{MapFd, invalid};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel gives each element of an array a multiple of eight bytes.
const ELEMENT: usize = 8;
/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;

/// The words of an array map. Programs see each write at once.
#[derive(Debug)]
pub(crate) struct Words {
    first: NonNull<u8>,
    count: usize,
}

impl MapFd {
    /// Maps an array of words into memory. It must have been made with `BPF_F_MMAPABLE`.
    pub(crate) fn words(&self) -> io::Result<Words> {
        if self.info.kind != ARRAY || self.row_size() != size_of::<u32>() {
            return Err(invalid("no array of words"));
        }
        let count = self.info.max_entries as usize;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is there.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * ELEMENT,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.fd().as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or_else(|| invalid("mapped at address 0"))?;
        Ok(Words { first, count })
    }
}

impl Words {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn word(&self, at: usize) -> Option<&AtomicU32> {
        // SAFETY: the element lies within the mapping, which lives as long as `self` and starts at a page;
        // others read and write its words whole.
        (at < self.count).then(|| unsafe { self.first.add(at * ELEMENT).cast::<AtomicU32>().as_ref() })
    }

    /// The word at a place; `None`: there is no such place.
    pub(crate) fn get(&self, at: usize) -> Option<u32> {
        self.word(at).map(|word| word.load(Ordering::Acquire))
    }

    /// Sets a word, if there is such a place.
    pub(crate) fn set(&self, at: usize, to: u32) {
        if let Some(word) = self.word(at) {
            word.store(to, Ordering::Release);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nobody refers to any more. Unmapping what is mapped does not fail.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * ELEMENT) };
    }
}
