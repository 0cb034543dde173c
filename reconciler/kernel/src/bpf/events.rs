//! The ring buffer of events. It has one consumer: what one reader took, no other sees.

use super::pins::{self, Pins};
use aya::maps::{Map, MapData, RingBuf};
use cilium_abi::event::Event;
use cilium_abi::maps::EVENTS;
use cilium_engine::driver::DriverError;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use zerocopy::FromBytes;

/// A reader of events. The programs wake nobody (a wake-up per event costs the packet more than its whole
/// way): look every few milliseconds with [`Self::next_event`]; its descriptor only tells at the moment of
/// asking whether there is something.
pub struct Events {
    ring: RingBuf<MapData>,
    map_id: u32,
    pins: Pins,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("map_id", &self.map_id).finish_non_exhaustive()
    }
}

impl Events {
    /// Opens the ring buffer; `None`: it is not there yet.
    ///
    /// # Errors
    /// It cannot be opened or mapped.
    pub fn open(bpf_dir: &Path) -> Result<Option<Self>, DriverError> {
        let pins = Pins { root: bpf_dir.to_path_buf() };
        let Some(map) = pins.open_map(&EVENTS)? else { return Ok(None) };
        let map_id = map.info.id;
        let wrong = |e: aya::maps::MapError| DriverError::new(format!("open the ring buffer of events: {e}"));
        let data = MapData::from_fd(map.into_fd()).map_err(wrong)?;
        let ring = Map::from_map_data(data).and_then(RingBuf::try_from).map_err(wrong)?;
        Ok(Some(Self { ring, map_id, pins }))
    }

    /// The next event, if there is one; never waits. Records of another size are passed over.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let record = self.ring.next()?;
            if let Ok(event) = Event::read_from_bytes(&record) {
                return Some(event);
            }
        }
    }

    /// Whether the pinned ring buffer is still this one. A resized one replaces it: open anew.
    ///
    /// # Errors
    /// The pin cannot be read.
    pub fn is_current(&self) -> Result<bool, DriverError> {
        let pinned = pins::open_map(&self.pins.map(&EVENTS))?;
        Ok(pinned.is_some_and(|map| map.info.id == self.map_id))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// A reader may be moved to a thread of its own.
const _: fn() = || {
    fn moves<T: Send>() {}
    moves::<Events>();
};
