//! Waking whoever looks after the log.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Rung by those who must not wait, heard by those who do their work for them. A ring that comes while nobody listens is
/// heard by the next who does.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    /// Waits until it has rung more than `heard` times, for at most `limit`. Says whether it has.
    pub(crate) fn listen(&self, heard: &mut u64, limit: Duration) -> bool {
        let mut rings = self.rings.lock();
        if *rings == *heard {
            self.rung.wait_for(&mut rings, limit);
        }
        let new = *rings != *heard;
        *heard = *rings;
        new
    }
}
