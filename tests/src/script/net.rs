//! What is on its way between nodes: one queue per direction, in order unless a script says otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

/// One thing on its way, as bytes: it passes the same encoder and decoder as on a real wire.
#[derive(Clone)]
pub(super) struct Packet {
    /// What kind, as the metrics name it: `append`, `vote`, `forward`, ...
    pub(super) label: &'static str,
    /// How it reads.
    pub(super) text: String,
    pub(super) head: Bytes,
    pub(super) payloads: Vec<Bytes>,
    /// What comes with a snapshot: its index, and the content.
    pub(super) content: Option<(u64, Bytes)>,
}

/// A direction between two nodes.
pub(super) type Link = (u64, u64);

#[derive(Default)]
pub(super) struct Net {
    queues: BTreeMap<Link, VecDeque<Packet>>,
    cut: BTreeSet<Link>,
    /// Held up on their way, until they are let go.
    delayed: Vec<(Link, Packet)>,
    /// Snapshots that were lost; their senders have to be told (O10).
    pub(super) lost_snapshots: Vec<Link>,
}

impl Net {
    /// Sends; lost if the link is cut.
    pub(super) fn send(&mut self, link: Link, packet: Packet) {
        if self.cut.contains(&link) {
            self.lose(link, &packet);
        } else {
            self.queues.entry(link).or_default().push_back(packet);
        }
    }

    fn lose(&mut self, link: Link, packet: &Packet) {
        if packet.content.is_some() {
            self.lost_snapshots.push(link);
        }
    }

    /// Takes the first packet, or the first with this label.
    pub(super) fn take(&mut self, link: Link, label: Option<&str>) -> Option<Packet> {
        let queue = self.queues.get_mut(&link)?;
        let place =
            queue.iter().position(|packet| label.is_none_or(|label| packet.label == label))?;
        queue.remove(place)
    }

    /// Loses the first packet, or the first with this label.
    pub(super) fn lose_one(&mut self, link: Link, label: Option<&str>) -> Option<Packet> {
        let packet = self.take(link, label)?;
        self.lose(link, &packet);
        Some(packet)
    }

    /// Puts a second copy of the first packet, or of the first with this label, behind it.
    pub(super) fn duplicate(&mut self, link: Link, label: Option<&str>) -> Option<Packet> {
        let queue = self.queues.get_mut(&link)?;
        let place =
            queue.iter().position(|packet| label.is_none_or(|label| packet.label == label))?;
        let packet = queue[place].clone();
        queue.insert(place + 1, packet.clone());
        Some(packet)
    }

    /// Holds up the first packet, or the first with this label.
    pub(super) fn delay(&mut self, link: Link, label: Option<&str>) -> bool {
        let packet = self.take(link, label);
        let found = packet.is_some();
        self.delayed.extend(packet.map(|packet| (link, packet)));
        found
    }

    /// Lets go what was held up.
    pub(super) fn resume(&mut self) {
        for (link, packet) in std::mem::take(&mut self.delayed) {
            self.send(link, packet);
        }
    }

    /// Lets the packet at `from` overtake all before it.
    pub(super) fn overtake(&mut self, link: Link, from: usize) -> Option<&Packet> {
        let queue = self.queues.get_mut(&link)?;
        let packet = queue.remove(from)?;
        queue.push_front(packet);
        queue.front()
    }

    pub(super) fn cut(&mut self, link: Link) {
        self.cut.insert(link);
        while self.lose_one(link, None).is_some() {}
    }

    pub(super) fn heal(&mut self, link: Option<Link>) {
        match link {
            Some(link) => {
                self.cut.remove(&link);
            }
            None => self.cut.clear(),
        }
    }

    pub(super) fn is_cut(&self, link: Link) -> bool {
        self.cut.contains(&link)
    }

    /// The links with something on them, in order.
    pub(super) fn busy(&self) -> Vec<Link> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link).collect()
    }

    pub(super) fn len(&self, link: Link) -> usize {
        self.queues.get(&link).map_or(0, VecDeque::len)
    }

    /// The oldest snapshot that is on its way from a node.
    pub(super) fn oldest_snapshot(&self, from: u64) -> Option<u64> {
        let queued =
            self.queues.iter().flat_map(|(link, queue)| queue.iter().map(|packet| (*link, packet)));
        let all = queued.chain(self.delayed.iter().map(|(link, packet)| (*link, packet)));
        let own = all.filter(|(link, _)| link.0 == from);
        own.filter_map(|(_, packet)| packet.content.as_ref()).map(|(index, _)| *index).min()
    }

    pub(super) fn packets(&self, link: Link) -> impl Iterator<Item = &Packet> {
        self.queues.get(&link).into_iter().flatten()
    }
}
