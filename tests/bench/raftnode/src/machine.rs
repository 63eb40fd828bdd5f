//! The least that can be replicated: a count.

use std::io;

use oarlock_raftnode::{
    ApplyError, Committed, RestoreError, SnapshotId, SnapshotView, StateMachine,
};

/// Counts what is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, _: &Committed<'_>) -> Result<u64, ApplyError> {
        self.0 += 1;
        Ok(self.0)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        Ok(Box::new(self.clone()))
    }

    fn restore(&mut self, _: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.0 = u64::from_be_bytes(bytes.as_slice().try_into()?);
        Ok(())
    }
}

impl SnapshotView for Counter {
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&self.0.to_be_bytes())
    }
}
