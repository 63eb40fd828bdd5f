//! The key-value machine as the node drives it.

use std::io;

use oarlock_raftnode::{
    ApplyError, Committed, RestoreError, SnapshotId, SnapshotView, StateMachine,
};

use crate::kv::{Image, KvMachine, Outcome};

impl StateMachine for KvMachine {
    type Output = Outcome;

    fn apply(&mut self, entry: &Committed<'_>) -> Result<Outcome, ApplyError> {
        Ok(Self::apply(self, entry.index, entry.data)?)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        Ok(Box::new(self.image()))
    }

    fn restore(&mut self, at: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError> {
        Ok(Self::restore(self, at.index, content)?)
    }

    fn size(&self) -> u64 {
        self.bytes()
    }
}

impl SnapshotView for Image {
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        self.write(to)
    }
}
