//! Where a member's data is: in memory, or on a simulated disk.

use std::sync::Arc;

use oarlock_raftnode::bootstrap::{Boot, BootError, Metadata, Recovered, boot, is_initialised};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::wal::testing::{SimDisk, Unsynced};
use oarlock_raftnode::{
    LogBatch, LogStore, MemSnapshots, MemStore, SnapshotHead, SnapshotStore, WalOptions, WalStore,
};

/// A cluster of so many founders.
pub(crate) fn founders(count: u16) -> Cluster {
    let founders: Vec<_> =
        (1..=count).map(|n| (format!("m{n}"), [format!("http://127.0.0.1:{n}")])).collect();
    Cluster::from_initial("token", &founders).expect("distinct names and URLs")
}

/// A member's data, and the store that has it open.
pub(crate) enum Place {
    Memory { log: MemStore, snapshots: MemSnapshots },
    Disk { disk: SimDisk, open: Option<WalStore> },
}

pub(crate) fn on_every_store(test: impl Fn(&mut Place)) {
    test(&mut Place::memory());
    test(&mut Place::disk());
}

impl Place {
    pub(crate) fn memory() -> Self {
        Self::Memory { log: MemStore::new(), snapshots: MemSnapshots::new() }
    }

    pub(crate) fn disk() -> Self {
        Self::Disk { disk: SimDisk::new(), open: None }
    }

    /// Opens what is there; makes it if nothing is.
    pub(crate) fn open(&mut self) -> (&mut dyn LogStore, Arc<dyn SnapshotStore>) {
        self.try_open().expect("what a crash leaves opens")
    }

    fn try_open(&mut self) -> Option<(&mut dyn LogStore, Arc<dyn SnapshotStore>)> {
        match self {
            Self::Memory { log, snapshots } => Some((log, Arc::new(snapshots.clone()))),
            Self::Disk { disk, open } => {
                if open.is_none() {
                    let options = WalOptions::new("/data").segment_size(64 << 10);
                    let options = options.vfs(Arc::new(disk.clone())).maintainer(false);
                    *open = Some(options.open_or_create().ok()?);
                }
                let store = open.as_mut()?;
                let snapshots = store.snapshots();
                Some((store, snapshots))
            }
        }
    }

    pub(crate) fn boot(&mut self, how: &Boot) -> Result<Recovered, BootError> {
        let (log, snapshots) = self.open();
        boot(log, &*snapshots, how)
    }

    /// A boot during which the power may go.
    pub(crate) fn try_boot(&mut self, how: &Boot) -> Result<Recovered, String> {
        let (log, snapshots) = self.try_open().ok_or("it does not even open")?;
        boot(log, &*snapshots, how).map_err(|error| error.to_string())
    }

    /// Founds a cluster of so many, of which this is the first member.
    pub(crate) fn found(&mut self, members: u16) -> Recovered {
        let cluster = founders(members);
        let id = cluster.members().next().expect("at least one").id;
        self.boot(&Boot::New { id, cluster }).expect("an empty place")
    }

    /// Power loss: everything unsynced is gone.
    pub(crate) fn crash(&mut self) {
        self.reboot(0);
    }

    pub(crate) fn reboot(&mut self, guise: u64) {
        match self {
            Self::Memory { log, .. } => *log = log.crash(),
            Self::Disk { disk, open } => {
                // First the power, then the process: closing would still write.
                *disk = disk.reboot(match guise {
                    0 => Unsynced::Lost,
                    1 => Unsynced::Kept,
                    seed => Unsynced::Random(seed),
                });
                *open = None;
            }
        }
    }

    pub(crate) fn cut_power_after(&mut self, changes: u64) {
        if let Self::Disk { disk, .. } = self {
            disk.cut_power_after(changes);
        }
    }

    /// Whether the last cut came too late to hit anything.
    pub(crate) fn untouched_by_the_cut(&self) -> bool {
        matches!(self, Self::Disk { disk, .. } if !disk.is_off())
    }

    pub(crate) fn log_is_initialised(&mut self) -> bool {
        is_initialised(self.open().0).expect("readable")
    }

    pub(crate) fn metadata(&mut self) -> Metadata {
        let state = self.open().0.state().expect("readable");
        Metadata::decode(state.metadata).expect("booted before")
    }

    /// Everything that the log holds.
    pub(crate) fn entries(&mut self) -> Vec<Entry> {
        let reader = self.open().0.reader();
        let (first, last) = (reader.first_index(), reader.last_index());
        reader.entries(first, last + 1, u64::MAX).expect("readable")
    }

    /// Writes and syncs, as a running node would.
    pub(crate) fn write(&mut self, batch: &LogBatch<'_>) {
        let (log, _) = self.open();
        log.append(batch).expect("it fits");
        log.sync().expect("no fault");
    }

    /// Stores a snapshot of nothing but its head, and marks it.
    pub(crate) fn snapshot(&mut self, head: &SnapshotHead) {
        self.store_snapshot(head);
        self.write(&LogBatch { compact: Some(head.mark.clone()), ..LogBatch::default() });
    }

    pub(crate) fn store_snapshot(&mut self, head: &SnapshotHead) {
        let (_, snapshots) = self.open();
        let mut sink = snapshots.create(head.id()).expect("room");
        head.write_to(&mut sink).expect("room");
        sink.commit().expect("room");
    }
}
