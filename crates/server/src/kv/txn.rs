//! Writes: puts, deletes and transactions, each at one new revision or without any effect.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{
    Rejection, State,
    range::{check_revision, read},
    state::Item,
};
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};

/// One command on its way through the state: every write of it is made at `base.revision() + 1`.
///
/// Dropping it without [`Write::finish`] leaves no trace.
pub(super) struct Write<'a> {
    base: &'a State,
    next: State,
    changed: bool,
}

impl<'a> Write<'a> {
    pub(super) fn new(base: &'a State) -> Self {
        Self { base, next: base.clone(), changed: false }
    }

    /// The state after the command.
    pub(super) fn finish(mut self) -> State {
        self.next.set_revision(self.revision());
        self.next
    }

    /// The revision of the state as it is now: a command that wrote nothing makes no revision.
    fn revision(&self) -> i64 {
        self.base.revision() + i64::from(self.changed)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision(), ..Default::default() })
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Rejection> {
        check_put(self.base, request)?;
        Ok(self.do_put(request))
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed: Vec<_> = self
            .next
            .scan(&request.key, &request.range_end)
            .map(|(key, item)| (key.clone(), request.prev_kv.then(|| item.to_key_value(key))))
            .collect();
        let deleted = doomed.len() as i64;
        let mut prev_kvs = Vec::new();
        for (key, held) in doomed {
            self.changed |= self.next.remove(&key);
            prev_kvs.extend(held);
        }
        DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    /// Compares first, in nested transactions too, all against the state before the command; then checks the
    /// operations on the path taken; then does them in order. As in etcd, an operation that cannot be done refuses
    /// the whole transaction.
    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Rejection> {
        let path = Path::choose(self.base, request);
        path.check(self.base, request)?;
        Ok(self.do_txn(request, &path))
    }

    fn do_put(&mut self, request: &PutRequest) -> PutResponse {
        let held = self.next.get(&request.key);
        let prev_kv = held.filter(|_| request.prev_kv).map(|item| item.to_key_value(&request.key));
        let revision = self.base.revision() + 1;
        // The request's buffers may be slices of a log segment or of a whole message: copied, so that a small value
        // that lives long does not hold them alive.
        let value = match held {
            Some(item) if request.ignore_value => item.value.clone(),
            _ => Bytes::copy_from_slice(&request.value),
        };
        let item = Item {
            create_revision: held.map_or(revision, |item| item.create_revision),
            mod_revision: revision,
            version: held.map_or(1, |item| item.version + 1),
            value,
        };
        self.next.insert(Bytes::copy_from_slice(&request.key), item);
        self.changed = true;
        PutResponse { header: self.header(), prev_kv }
    }

    fn do_txn(&mut self, request: &TxnRequest, path: &Path) -> TxnResponse {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in path.branch(request) {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    // A read at the revision before the transaction sees that state, even after a write in it.
                    let state = if range.revision > 0 { self.base } else { &self.next };
                    Some(Response::ResponseRange(read(state, range, self.revision())))
                }
                Some(Request::RequestPut(put)) => Some(Response::ResponsePut(self.do_put(put))),
                Some(Request::RequestDeleteRange(delete)) => {
                    Some(Response::ResponseDeleteRange(self.delete_range(delete)))
                }
                Some(Request::RequestTxn(txn)) => {
                    nested.next().map(|path| Response::ResponseTxn(self.do_txn(txn, path)))
                }
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        TxnResponse { header: self.header(), succeeded: path.succeeded, responses }
    }
}

/// Answers a transaction that only reads, from `state`. It is not replicated.
///
/// # Errors
/// As for the reads in it.
pub(crate) fn read_txn(state: &State, request: &TxnRequest) -> Result<TxnResponse, Rejection> {
    Write::new(state).txn(request)
}

/// Which branch a transaction takes, and which ones the transactions nested in that branch take, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Self>,
}

impl Path {
    fn choose(state: &State, request: &TxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|compare| holds(state, compare));
        let mut path = Self { succeeded, nested: Vec::new() };
        path.nested = path
            .branch(request)
            .iter()
            .filter_map(nested)
            .map(|txn| Self::choose(state, txn))
            .collect();
        path
    }

    fn branch<'r>(&self, request: &'r TxnRequest) -> &'r [RequestOp] {
        if self.succeeded { &request.success } else { &request.failure }
    }

    /// Whether everything on the path can be done.
    fn check(&self, state: &State, request: &TxnRequest) -> Result<(), Rejection> {
        let branch = self.branch(request);
        for op in branch {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    check_revision(range.revision, state.revision())?;
                }
                Some(Request::RequestPut(put)) => check_put(state, put)?,
                _ => {}
            }
        }
        branch
            .iter()
            .filter_map(nested)
            .zip(&self.nested)
            .try_for_each(|(txn, path)| path.check(state, txn))
    }
}

fn nested(op: &RequestOp) -> Option<&TxnRequest> {
    match &op.request {
        Some(Request::RequestTxn(txn)) => Some(txn),
        _ => None,
    }
}

fn check_put(state: &State, request: &PutRequest) -> Result<(), Rejection> {
    if request.lease != 0 {
        Err(Rejection::LeaseNotFound)
    } else if (request.ignore_value || request.ignore_lease) && state.get(&request.key).is_none() {
        Err(Rejection::KeyNotFound)
    } else {
        Ok(())
    }
}

/// Whether `compare` holds for every key of its range. A range without keys is compared as one key with nothing but
/// zeros; on values it never holds, since an absent value is not an empty one.
fn holds(state: &State, compare: &Compare) -> bool {
    let mut found = state.scan(&compare.key, &compare.range_end).map(|(_, item)| item).peekable();
    if found.peek().is_none() {
        let nothing = Item { create_revision: 0, mod_revision: 0, version: 0, value: Bytes::new() };
        return compare.target() != CompareTarget::Value && item_holds(&nothing, compare);
    }
    found.all(|item| item_holds(item, compare))
}

fn item_holds(item: &Item, compare: &Compare) -> bool {
    let union = compare.target_union.as_ref();
    let given = |pick: fn(&TargetUnion) -> Option<i64>| union.and_then(pick).unwrap_or(0);
    let order = match compare.target() {
        CompareTarget::Version => item.version.cmp(&given(|union| match union {
            TargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        CompareTarget::Create => item.create_revision.cmp(&given(|union| match union {
            TargetUnion::CreateRevision(revision) => Some(*revision),
            _ => None,
        })),
        CompareTarget::Mod => item.mod_revision.cmp(&given(|union| match union {
            TargetUnion::ModRevision(revision) => Some(*revision),
            _ => None,
        })),
        CompareTarget::Value => match union {
            Some(TargetUnion::Value(value)) => item.value.cmp(value),
            _ => item.value.as_ref().cmp(&[]),
        },
        CompareTarget::Lease => 0.cmp(&given(|union| match union {
            TargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
    };
    match compare.result() {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}
