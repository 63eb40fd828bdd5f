//! Snapshots over the in-memory network: the receiver reads straight from the sender's reader.

use std::io::{self, Read};
use std::sync::Arc;

use super::endpoint::{Endpoint, NotConnected};
use crate::{Refusal, SnapshotEnvelope, SnapshotSendError};

/// Sends one snapshot, on the thread that the caller made for it.
pub(super) fn send(
    from: &Arc<Endpoint>,
    envelope: SnapshotEnvelope,
    content: Box<dyn Read + Send>,
) -> Result<(), SnapshotSendError> {
    let SnapshotEnvelope { to, head, len } = envelope;
    let id = from.identity.id;
    let unreachable = || SnapshotSendError::Unreachable {
        id: to,
        source: io::ErrorKind::ConnectionRefused.into(),
    };
    if from.crew.sleep(from.net.delay(id, to)) {
        return Err(SnapshotSendError::Stopped);
    }
    let there = from.net.reach(id, to).ok_or_else(unreachable)?;
    if !there.is_admitted(from) {
        from.connect(&there).map_err(|why| match why {
            NotConnected::Unreachable => unreachable(),
            NotConnected::WeRefused(refusal) | NotConnected::Refused(refusal) => {
                SnapshotSendError::Refused(refusal)
            }
        })?;
    }
    if there.is_paused() {
        return Err(SnapshotSendError::Refused(Refusal::Busy));
    }
    let (handler, inside) = there.inside("mem-snapshot").ok_or_else(unreachable)?;
    let mut content =
        Content { from, there: &there, content, declared: len, read: 0, failure: None };
    let result = handler.receive_snapshot(id, head, len, &mut content);
    drop(inside);
    there.counters.peer(id, |peer| match result {
        Ok(()) => peer.snapshots_received += 1,
        Err(_) => peer.snapshots_refused += 1,
    });
    match (result, content.failure) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(failure)) => Err(failure),
        (Err(refusal), None) => Err(SnapshotSendError::Refused(refusal)),
    }
}

struct Content<'a> {
    from: &'a Arc<Endpoint>,
    there: &'a Arc<Endpoint>,
    content: Box<dyn Read + Send>,
    declared: u64,
    read: u64,
    /// What went wrong on the sender's side, which the receiver sees only as a broken connection.
    failure: Option<SnapshotSendError>,
}

impl Content<'_> {
    fn fail(&mut self, failure: SnapshotSendError) -> io::Error {
        self.failure.get_or_insert(failure);
        io::ErrorKind::UnexpectedEof.into()
    }

    /// Whatever would have broken a connection by now.
    fn broken(&self) -> Option<SnapshotSendError> {
        let (from, to) = (self.from.identity.id, self.there.identity.id);
        if self.from.crew.is_stopping() {
            Some(SnapshotSendError::Stopped)
        } else if !self.from.knows(to) {
            Some(SnapshotSendError::PeerRemoved)
        } else if self.there.crew.is_stopping()
            || self.from.net.is_cut(from, to)
            || self.from.net.is_cut(to, from)
        {
            Some(SnapshotSendError::Lost(io::ErrorKind::ConnectionReset.into()))
        } else {
            None
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(failure) = self.broken() {
            return Err(self.fail(failure));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = self.declared - self.read;
        let mut probe = [0];
        let at_end = left == 0;
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let target = if at_end { &mut probe[..] } else { &mut buffer[..room] };
        let wrong = |read| SnapshotSendError::WrongLength { declared: self.declared, read };
        match self.content.read(target) {
            Ok(0) if at_end => Ok(0),
            Ok(count) if at_end => Err(self.fail(wrong(self.read + count as u64))),
            Ok(0) => Err(self.fail(wrong(self.read))),
            Ok(count) => {
                self.read += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.fail(SnapshotSendError::Content(error))),
        }
    }
}
