//! Keys, values and revisions at one instant.

use std::ops::Bound;

use bytes::Bytes;
use rpds::RedBlackTreeMapSync;

use crate::pb::mvccpb::KeyValue;

/// Bytes that a key costs beside its own and its value's: three counters, two buffers, one node of the map.
const KEY_OVERHEAD: u64 = 128;

/// What the map holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The revision that brought the key into being.
    pub(crate) create_revision: i64,
    /// The revision of its latest write.
    pub(crate) mod_revision: i64,
    /// Writes since it came into being.
    pub(crate) version: i64,
    /// Its value.
    pub(crate) value: Bytes,
}

impl Item {
    /// The item as the API shows it.
    pub(crate) fn to_key_value(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            value: self.value.clone(),
            lease: 0,
        }
    }
}

/// All keys at one revision. A clone costs nothing and never changes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    items: RedBlackTreeMapSync<Bytes, Item>,
    revision: i64,
    bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// No keys, at revision 1: the first write makes revision 2, as in etcd.
    pub(crate) fn new() -> Self {
        Self { items: RedBlackTreeMapSync::default(), revision: 1, bytes: 0 }
    }

    /// The revision of the latest write.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.items.size()
    }

    /// The item under `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// The keys from `key` to before `range_end`, ascending; see [`span`].
    pub(crate) fn scan<'a>(
        &'a self,
        key: &'a [u8],
        range_end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, &'a Item)> {
        span(key, range_end).into_iter().flat_map(|span| self.items.range::<[u8], _>(span))
    }

    /// Every key, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Item)> {
        self.items.iter()
    }

    /// Says that writes at `revision` follow.
    pub(crate) fn set_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Puts `item` under `key`.
    pub(crate) fn insert(&mut self, key: Bytes, item: Item) {
        if let Some(old) = self.items.get(&key) {
            self.bytes -= weight(&key, &old.value);
        }
        self.bytes += weight(&key, &item.value);
        self.items.insert_mut(key, item);
    }

    /// Takes `key` away; whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Some(old) = self.items.get(key) else { return false };
        self.bytes -= weight(key, &old.value);
        self.items.remove_mut(key)
    }
}

/// Where a range begins and ends.
type Span<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds that `key` and `range_end` mean in etcd's API: no end is the one key, an end of one zero byte is
/// everything from `key` on, and an end that is not after `key` is nothing.
fn span<'a>(key: &'a [u8], range_end: &'a [u8]) -> Option<Span<'a>> {
    match range_end {
        [] => Some((Bound::Included(key), Bound::Included(key))),
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        end if end <= key => None,
        end => Some((Bound::Included(key), Bound::Excluded(end))),
    }
}

fn weight(key: &[u8], value: &[u8]) -> u64 {
    key.len() as u64 + value.len() as u64 + KEY_OVERHEAD
}
