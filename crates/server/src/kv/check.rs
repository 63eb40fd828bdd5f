//! Checks that need no state: made before a request is proposed, so that a senseless one never reaches the log.
//!
//! They are those of etcd's `server/etcdserver/api/v3rpc/key.go`.

use std::collections::BTreeSet;

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
    deletes: Vec<(Bytes, Bytes)>,
}

impl Writes {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(from, end)| match end.as_ref() {
            [] => key == from,
            [0] => key >= from,
            end => key >= from && key < end,
        })
    }

    /// Adds a put that happens beside everything gathered so far.
    fn put(&mut self, key: &Bytes) -> Result<(), Rejection> {
        if self.deletes(key) || !self.puts.insert(key.clone()) {
            Err(Rejection::DuplicateKey)
        } else {
            Ok(())
        }
    }
}

/// Gathers what `ops` write; two writes of one key are an error unless they are in the two branches of one nested
/// transaction, of which only one is taken.
fn writes(ops: &[RequestOp]) -> Result<Writes, Rejection> {
    let mut all = Writes::default();
    let requests = || ops.iter().filter_map(|op| op.request.as_ref());
    for request in requests() {
        if let Request::RequestDeleteRange(delete) = request {
            all.deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for request in requests() {
        let Request::RequestTxn(txn) = request else { continue };
        let (then, otherwise) = (writes(&txn.success)?, writes(&txn.failure)?);
        then.puts.iter().try_for_each(|key| all.put(key))?;
        for key in otherwise.puts.difference(&then.puts) {
            all.put(key)?;
        }
        all.deletes.extend(then.deletes);
        all.deletes.extend(otherwise.deletes);
    }
    for request in requests() {
        if let Request::RequestPut(put) = request {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}
