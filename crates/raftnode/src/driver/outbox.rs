//! What the node sends: messages, forwarded proposals, snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_transport::{Envelope, Transport};
use raft::eraftpb::{Message, MessageType};

use super::peers::{Heartbeats, Known};
use super::shared::Shared;
use super::snapshots::Sending;
use crate::core::prune_messages;
use crate::hex::Hex;
use crate::wire::{self, Forward, ForwardReply, WireError};

pub(super) struct Outbox {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    pub(super) known: Known,
    pub(super) sending: Sending,
    pub(super) heartbeats: Heartbeats,
    warned: Option<Instant>,
}

impl Outbox {
    pub(super) fn new(shared: Arc<Shared>, transport: Arc<dyn Transport>) -> Self {
        Self {
            shared,
            transport,
            known: Known::default(),
            sending: Sending::default(),
            heartbeats: Heartbeats::default(),
            warned: None,
        }
    }

    pub(super) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Sends messages in order, except those that must not or need not be sent (O10).
    pub(super) fn send(&mut self, messages: Vec<Message>, gone: &BTreeSet<u64>) {
        let mut envelopes = Vec::with_capacity(messages.len());
        for message in prune_messages(messages, gone) {
            match message.get_msg_type() {
                MessageType::MsgSnapshot => {
                    self.sending.send(&self.shared, &*self.transport, &message);
                    continue;
                }
                MessageType::MsgHeartbeat => self.observe_heartbeat(message.to),
                _ => {}
            }
            self.push(&mut envelopes, wire::encode(&message));
        }
        if !envelopes.is_empty() {
            self.transport.send(envelopes);
        }
    }

    pub(super) fn forward(&self, to: u64, forward: &Forward) {
        self.shared.counters.forwards.add(1);
        let mut envelopes = Vec::new();
        self.push(&mut envelopes, wire::encode_forward(to, forward));
        self.transport.send(envelopes);
    }

    pub(super) fn forward_reply(&self, to: u64, reply: &ForwardReply) {
        if matches!(reply, ForwardReply::Accepted { .. }) {
            self.shared.counters.forwards_accepted.add(1);
        }
        let mut envelopes = Vec::new();
        self.push(&mut envelopes, wire::encode_forward_reply(to, reply));
        self.transport.send(envelopes);
    }

    fn push(&self, envelopes: &mut Vec<Envelope>, encoded: Result<Envelope, WireError>) {
        match encoded {
            Ok(envelope) => envelopes.push(envelope),
            Err(error) => {
                log::error!(id:% = Hex(self.shared.id), error:%; "a message cannot be sent");
            }
        }
    }

    /// Reports a heartbeat that leaves later than twice its interval: the node thread is overloaded, or was blocked
    /// (O11).
    fn observe_heartbeat(&mut self, to: u64) {
        let interval = self.shared.config.heartbeat_interval;
        if interval.is_zero() {
            return;
        }
        let now = Instant::now();
        if let Some(late) = self.heartbeats.observe(to, now, 2 * interval) {
            self.shared.counters.heartbeats_late.add(1);
            self.shared.observer.heartbeat_late(to, late);
            if self.warned.is_none_or(|last| now - last > Duration::from_secs(10)) {
                self.warned = Some(now);
                log::warn!(
                    id:% = Hex(self.shared.id), to:% = Hex(to), late:?;
                    "a heartbeat left late: the node is overloaded, or its disk is slow"
                );
            }
        }
    }
}
