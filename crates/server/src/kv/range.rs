//! Reads.

use std::cmp::Ordering;

use super::{Rejection, State};
use crate::pb::{
    etcdserverpb::{
        RangeRequest, RangeResponse, ResponseHeader,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

/// Answers `request` from `state`. The header holds the revision alone.
///
/// # Errors
/// [`Rejection::FutureRevision`] and [`Rejection::Compacted`] for any explicit revision but the latest: earlier
/// states are not kept.
pub(crate) fn range(state: &State, request: &RangeRequest) -> Result<RangeResponse, Rejection> {
    check_revision(request.revision, state.revision())?;
    Ok(read(state, request, state.revision()))
}

/// Whether a read at `asked` can be answered by a state at `current`; 0 and less ask for the latest.
pub(super) fn check_revision(asked: i64, current: i64) -> Result<(), Rejection> {
    match asked.cmp(&current) {
        _ if asked <= 0 => Ok(()),
        Ordering::Less => Err(Rejection::Compacted),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(Rejection::FutureRevision),
    }
}

/// Reads `state` whatever revision is asked for; `revision` goes into the header.
pub(super) fn read(state: &State, request: &RangeRequest, revision: i64) -> RangeResponse {
    let mut response = RangeResponse {
        header: Some(ResponseHeader { revision, ..Default::default() }),
        ..Default::default()
    };
    if request.count_only {
        response.count = state.scan(&request.key, &request.range_end).count() as i64;
        return response;
    }

    // The limit applies to what is left after filters, in the order asked for. etcd stops early only when it need
    // not see every key, and so do we: with a target but no order it sorts what the limit let through.
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let stop = limit.filter(|_| request.sort_order() == SortOrder::None && !has_filter(request));
    let mut count = 0;
    let mut found = Vec::new();
    for (key, item) in state.scan(&request.key, &request.range_end) {
        count += 1;
        if stop.is_some_and(|limit| found.len() > limit) {
            continue; // still counted: `count` is of the whole range
        }
        if passes(request, item.mod_revision, item.create_revision) {
            found.push(item.to_key_value(key));
        }
    }
    sort(&mut found, request);
    if let Some(limit) = limit.filter(|limit| found.len() > *limit) {
        found.truncate(limit);
        response.more = true;
    }
    if request.keys_only {
        found.iter_mut().for_each(|kv| kv.value.clear());
    }
    response.kvs = found;
    response.count = count;
    response
}

fn has_filter(request: &RangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|bound| *bound != 0)
}

fn passes(request: &RangeRequest, modified: i64, created: i64) -> bool {
    let at_least = |bound: i64, revision: i64| bound == 0 || revision >= bound;
    let at_most = |bound: i64, revision: i64| bound == 0 || revision <= bound;
    at_least(request.min_mod_revision, modified)
        && at_most(request.max_mod_revision, modified)
        && at_least(request.min_create_revision, created)
        && at_most(request.max_create_revision, created)
}

/// Sorts by what was asked for; equals stay in key order.
fn sort(found: &mut [KeyValue], request: &RangeRequest) {
    let by: fn(&KeyValue, &KeyValue) -> Ordering = match request.sort_target() {
        SortTarget::Key => |a, b| a.key.cmp(&b.key),
        SortTarget::Version => |a, b| a.version.cmp(&b.version),
        SortTarget::Create => |a, b| a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => |a, b| a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => |a, b| a.value.cmp(&b.value),
    };
    match (request.sort_order(), request.sort_target()) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => {} // as scanned
        (SortOrder::None | SortOrder::Ascend, _) => found.sort_by(by),
        (SortOrder::Descend, _) => found.sort_by(|a, b| by(b, a)),
    }
}
