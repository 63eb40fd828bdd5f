//! How a node ends: in order, and within bounds (O14). [`Node::finish`] is the order.

use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use super::events::Data;
use super::node::{Node, status};
use crate::chain::Chain;
use crate::core::Event;
use crate::failpoint::fail_point;
use crate::hex::Hex;
use crate::planted::planted;
use crate::{NodeEnd, ProposeError, ReadError, Role, TransferError};

impl Node {
    pub(super) fn on_stop(&mut self, transfer_until: Option<Instant>) {
        match transfer_until {
            Some(until) if self.hand_over() => self.leaving = Some(until),
            _ => self.ending = Some(NodeEnd::Stopped),
        }
    }

    /// Starts to transfer leadership before the node stops; returns whether there is a voter to take over.
    pub(super) fn hand_over(&mut self) -> bool {
        let Some(to) = self.core.successor() else { return false };
        let begun = self.core.handle_transfer(to).is_ok();
        if begun {
            log::info!(id:% = Hex(self.shared.id), to:% = Hex(to); "handing over leadership before stopping");
        }
        begun
    }

    /// Stops accepting, finishes the write in progress, stops the transport, closes the log; each within bounds (O14).
    pub(super) fn finish(mut self, end: NodeEnd) {
        let timeout = self.shared.config.stop_timeout;
        let id = self.shared.id;
        fail_point!("raftBeforeStop", id);
        for data in self.shared.inbox.close() {
            match data {
                Data::Propose { proposal, .. } => self.refuse(proposal.id(), ProposeError::Stopped),
                Data::Transfer { resolver, .. } => resolver.resolve(Err(TransferError::Stopped)),
                _ => {} // reads resolve as stopped when they are dropped, and messages may be lost
            }
        }
        self.core.refuse_waiting(&ProposeError::Stopped);
        while let Some(event) = self.core.poll_event() {
            if let Event::Refused { id, error } = event {
                self.refuse(id, error);
            }
        }
        self.threads.stop.store(true, Ordering::Relaxed);
        let written = self.threads.writer.drain(timeout);
        fail_point!("raftBeforeTransportStop", id);
        if planted("log-closed-before-transport") {
            self.threads.writer.close(timeout);
        }
        self.out.transport().stop();
        fail_point!("raftAfterTransportStop", id);
        self.shared.inbox.gone(); // which also ends every wait of the apply loop for this thread
        drop(self.threads.apply);
        let applied =
            self.threads.apply_done.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected);
        let read = self.threads.reader.close(timeout);
        fail_point!("raftBeforeLogClose", id);
        let closed = self.threads.writer.close(timeout);
        fail_point!("raftAfterLogClose", id);
        if !(written && applied && read && closed) {
            log::warn!(id:% = Hex(id), written, applied, read, closed; "a thread did not end in time; it is left behind");
        }
        self.reads.refuse_all(&ReadError::Stopped);
        self.waiters.close();
        match &end {
            NodeEnd::Failed(error) => {
                log::error!(id:% = Hex(id), error:% = Chain(&**error); "the node has failed");
            }
            NodeEnd::Stopped | NodeEnd::Removed => {
                log::info!(id:% = Hex(id), end:?; "the node has ended");
            }
        }
        self.shared.observer.ended(&end);
        let status = status(&self.core, &self.shared, &self.out, self.unapplied);
        self.shared.publish(|published| {
            published.status = status;
            (published.vitals.role, published.vitals.leader) = (Role::Follower, 0);
            published.end = Some(end);
        });
    }
}
