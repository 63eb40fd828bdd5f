//! Checks that need no state: made before a request is proposed, so that a senseless one never reaches the log.
//!
//! They are those of etcd's `server/etcdserver/api/v3rpc/key.go`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Rejection;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request,
    request_op::Request,
};

/// Checks a read.
pub(crate) fn check_range(request: &RangeRequest) -> Result<(), Rejection> {
    if request.key.is_empty() {
        return Err(Rejection::EmptyKey);
    }
    let order = range_request::SortOrder::try_from(request.sort_order);
    let target = range_request::SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() { Err(Rejection::InvalidSortOption) } else { Ok(()) }
}

/// Checks a write.
pub(crate) fn check_put(request: &PutRequest) -> Result<(), Rejection> {
    if request.key.is_empty() {
        Err(Rejection::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Rejection::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Rejection::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a delete.
pub(crate) fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Rejection> {
    if request.key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction and everything in it: at most `max_ops` in any list, nested transactions sharing what their
/// parents leave, and no key written twice on any path through it.
pub(crate) fn check_txn(request: &TxnRequest, max_ops: usize) -> Result<(), Rejection> {
    check_shape(request, max_ops)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

fn check_shape(request: &TxnRequest, max_ops: usize) -> Result<(), Rejection> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(ops) else { return Err(Rejection::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Rejection::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(Request::RequestTxn(txn)) => check_shape(txn, left)?,
            None => return Err(Rejection::KeyNotFound), // what etcd says
        }
    }
    Ok(())
}

/// What one list of operations may write, on any path through its nested transactions.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Ranges,
}

impl Writes {
    /// Adds a put that happens beside everything gathered so far.
    fn put(&mut self, key: Bytes) -> Result<(), Rejection> {
        if self.deletes.contains(&key) || !self.puts.insert(key) {
            Err(Rejection::DuplicateKey)
        } else {
            Ok(())
        }
    }
}

/// A set of keys, as ranges that neither overlap nor touch: a request can hold tens of thousands of them in nested
/// transactions, and checking it must not take their square.
#[derive(Default)]
struct Ranges(BTreeMap<Bytes, End>);

/// Where a range ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Never => true,
        }
    }
}

impl Ranges {
    /// Adds the keys of a request's `key` and `range_end`.
    fn add(&mut self, key: &Bytes, range_end: &Bytes) {
        let end = match range_end.as_ref() {
            [] => End::Before([key, &[0][..]].concat().into()), // the next key there can be
            [0] => End::Never,
            _ => End::Before(range_end.clone()),
        };
        if end.is_after(key) {
            self.insert(key.clone(), end);
        }
    }

    fn insert(&mut self, mut from: Bytes, mut end: End) {
        // Whatever begins at or before our end and ends after our beginning becomes a part of us.
        while let Some((other_from, other_end)) = self.last_up_to(&end) {
            if !other_end.is_after(&from) && *other_end != End::Before(from.clone()) {
                break;
            }
            let other_from = other_from.clone();
            end = end.max(other_end.clone());
            self.0.remove(&other_from);
            from = from.min(other_from);
        }
        self.0.insert(from, end);
    }

    /// The last range that begins at or before `end`.
    fn last_up_to(&self, end: &End) -> Option<(&Bytes, &End)> {
        match end {
            End::Before(end) => self.0.range::<Bytes, _>(..=end).next_back(),
            End::Never => self.0.last_key_value(),
        }
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.0.range::<Bytes, _>(..=key).next_back().is_some_and(|(_, end)| end.is_after(key))
    }

    fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|(from, end)| self.insert(from, end));
    }
}

/// Gathers what `ops` write; two writes of one key are an error unless they are in the two branches of one nested
/// transaction, of which only one is taken.
fn writes(ops: &[RequestOp]) -> Result<Writes, Rejection> {
    let mut all = Writes::default();
    let requests = || ops.iter().filter_map(|op| op.request.as_ref());
    for request in requests() {
        if let Request::RequestDeleteRange(delete) = request {
            all.deletes.add(&delete.key, &delete.range_end);
        }
    }
    for request in requests() {
        let Request::RequestTxn(txn) = request else { continue };
        let (then, otherwise) = (writes(&txn.success)?, writes(&txn.failure)?);
        // The branches may write the same keys: only one of them is taken.
        let both: BTreeSet<Bytes> = then.puts.into_iter().chain(otherwise.puts).collect();
        both.into_iter().try_for_each(|key| all.put(key))?;
        all.deletes.extend(then.deletes);
        all.deletes.extend(otherwise.deletes);
    }
    for request in requests() {
        if let Request::RequestPut(put) = request {
            all.put(put.key.clone())?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Ranges hold exactly the keys that one of the added ones holds, and never overlap.
        #[test]
        fn ranges_are_the_union_of_what_was_added(
            added in proptest::collection::vec((0..20_u8, proptest::option::of(0..21_u8)), 0..12),
        ) {
            let mut ranges = Ranges::default();
            for (key, end) in &added {
                // Key 0 would make "\0", which means something else as an end.
                let end = end.map_or(Bytes::new(), |end| vec![end + 1].into());
                ranges.add(&vec![key + 1].into(), &end);
            }
            for key in 0..22_u8 {
                let expected = added.iter().any(|(from, end)| end.map_or(key == *from, |end| key >= *from && key < end));
                prop_assert_eq!(ranges.contains(&vec![key + 1].into()), expected, "{}", key);
            }
            let ends: Vec<_> = ranges.0.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| !pair[0].1.is_after(pair[1].0)));
        }
    }
}
