//! What etcd documents of its key-value API, as tables, and a model.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    KvMachine, Rejection, Reply, check_put, check_range, check_txn, encode, range, read_txn,
};
use crate::pb::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
        TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
    },
    oarlockpb::command::Op,
};

/// A machine and the index of its next entry.
#[derive(Default)]
struct Store {
    machine: KvMachine,
    index: u64,
}

impl Store {
    fn apply(&mut self, op: Op) -> Result<Reply, Rejection> {
        self.index += 1;
        self.machine.apply(self.index, &encode(op)).expect("a command")
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        match self.apply(Op::Put(put(key, value))) {
            Ok(Reply::Put(response)) => response.header.expect("always").revision,
            other => panic!("{other:?}"),
        }
    }

    fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Rejection> {
        check_txn(&request, 128)?;
        match self.apply(Op::Txn(request))? {
            Reply::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Rejection> {
        range(&self.machine.published().state(), request)
    }

    fn get(&self, key: &str) -> Option<(i64, i64, i64, String)> {
        let response = self.range(&get(key)).expect("latest");
        let kv = response.kvs.first()?;
        let value = String::from_utf8(kv.value.to_vec()).expect("text");
        Some((kv.create_revision, kv.mod_revision, kv.version, value))
    }

    fn revision(&self) -> i64 {
        self.machine.published().state().revision()
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

fn between(key: &str, end: &str) -> RangeRequest {
    RangeRequest { range_end: bytes(end), ..get(key) }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn op_put(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn op_delete(key: &str, end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: false,
    }))
}

fn op_txn(txn: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(txn))
}

fn compare(key: &str, result: CompareResult, union: TargetUnion) -> Compare {
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: bytes(key),
        result: result.into(),
        target: target.into(),
        target_union: Some(union),
        ..Default::default()
    }
}

fn keys(response: &RangeResponse) -> Vec<&str> {
    response.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).expect("text")).collect()
}

/// a, b, c, d written in the order b, d, a, c, then a again: revisions b 2, d 3, a 4 and 6, c 5.
fn four() -> Store {
    let mut store = Store::default();
    for (key, value) in [("b", "2"), ("d", "1"), ("a", "x"), ("c", "3"), ("a", "4")] {
        store.put(key, value);
    }
    store
}

#[test]
fn revisions_begin_at_one_and_each_write_makes_one() {
    let mut store = Store::default();
    assert_eq!((store.revision(), store.get("k")), (1, None));
    assert_eq!(store.put("k", "v1"), 2);
    assert_eq!(store.put("k", "v2"), 3);
    assert_eq!(store.get("k"), Some((2, 3, 2, "v2".into())));
    let Ok(Reply::DeleteRange(deleted)) = store.apply(Op::DeleteRange(DeleteRangeRequest {
        key: bytes("k"),
        prev_kv: true,
        ..Default::default()
    })) else {
        panic!("a delete is answered as one")
    };
    assert_eq!((deleted.deleted, deleted.header.expect("always").revision), (1, 4));
    assert_eq!(deleted.prev_kvs[0].version, 2);
    assert_eq!(store.put("k", "v3"), 5);
    assert_eq!(store.get("k"), Some((5, 5, 1, "v3".into())), "a key that was deleted begins anew");
}

#[test]
fn deleting_nothing_makes_no_revision() {
    let mut store = four();
    let before = store.revision();
    let reply = store
        .apply(Op::DeleteRange(DeleteRangeRequest { key: bytes("zzz"), ..Default::default() }));
    let Ok(Reply::DeleteRange(deleted)) = reply else { panic!("a delete is answered as one") };
    assert_eq!((deleted.deleted, deleted.header.expect("always").revision), (0, before));
    assert_eq!(store.revision(), before);
}

#[test]
fn ranges_are_what_etcd_says() {
    let store = four();
    let cases: [(&str, &str, &[&str]); 8] = [
        ("a", "", &["a"]),
        ("a", "c", &["a", "b"]),
        ("b", "\0", &["b", "c", "d"]),
        ("\0", "\0", &["a", "b", "c", "d"]),
        ("c", "a", &[]),
        ("c", "c", &[]),
        ("e", "\0", &[]),
        ("aa", "bb", &["b"]),
    ];
    for (key, end, expected) in cases {
        let response = store.range(&between(key, end)).expect("latest");
        assert_eq!(
            (keys(&response).as_slice(), response.count),
            (expected, expected.len() as i64),
            "[{key:?}, {end:?})"
        );
        assert!(!response.more);
    }
}

#[test]
fn limit_counts_on_and_says_that_there_is_more() {
    let store = four();
    for (limit, expected, more) in
        [(0, 4, false), (1, 1, true), (3, 3, true), (4, 4, false), (9, 4, false), (-1, 4, false)]
    {
        let response = store.range(&RangeRequest { limit, ..between("a", "\0") }).expect("latest");
        assert_eq!(
            (response.kvs.len(), response.more, response.count),
            (expected, more, 4),
            "limit {limit}"
        );
    }
}

#[test]
fn answers_are_sorted_before_they_are_cut() {
    let store = four();
    let cases: [(SortTarget, SortOrder, i64, &[&str]); 7] = [
        (SortTarget::Key, SortOrder::Descend, 0, &["d", "c", "b", "a"]),
        (SortTarget::Key, SortOrder::Descend, 1, &["d"]),
        (SortTarget::Version, SortOrder::Descend, 1, &["a"]),
        (SortTarget::Create, SortOrder::Ascend, 2, &["b", "d"]),
        (SortTarget::Mod, SortOrder::Ascend, 0, &["b", "d", "c", "a"]),
        (SortTarget::Mod, SortOrder::None, 0, &["b", "d", "c", "a"]),
        (SortTarget::Value, SortOrder::Ascend, 3, &["d", "b", "c"]),
    ];
    for (target, order, limit, expected) in cases {
        let request = RangeRequest {
            sort_target: target.into(),
            sort_order: order.into(),
            limit,
            ..between("a", "\0")
        };
        assert_eq!(
            keys(&store.range(&request).expect("latest")),
            expected,
            "{target:?} {order:?} {limit}"
        );
    }
}

#[test]
fn revision_filters_prune_the_keys_and_not_the_count() {
    let store = four();
    let all = || between("a", "\0");
    let cases: [(RangeRequest, &[&str]); 5] = [
        (RangeRequest { min_mod_revision: 5, ..all() }, &["a", "c"]),
        (RangeRequest { max_mod_revision: 3, ..all() }, &["b", "d"]),
        (RangeRequest { min_create_revision: 4, ..all() }, &["a", "c"]),
        (RangeRequest { max_create_revision: 4, ..all() }, &["a", "b", "d"]),
        (RangeRequest { min_mod_revision: 3, limit: 2, ..all() }, &["a", "c"]),
    ];
    for (request, expected) in cases {
        let response = store.range(&request).expect("latest");
        assert_eq!((keys(&response).as_slice(), response.count), (expected, 4), "{request:?}");
    }
}

#[test]
fn keys_only_and_count_only_leave_out_what_they_say() {
    let store = four();
    let response =
        store.range(&RangeRequest { keys_only: true, ..between("a", "\0") }).expect("latest");
    assert!(
        response.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0)
            && response.kvs.len() == 4
    );
    let response = store
        .range(&RangeRequest { count_only: true, limit: 1, ..between("a", "\0") })
        .expect("latest");
    assert_eq!((response.count, response.kvs.len(), response.more), (4, 0, false));
}

#[test]
fn past_is_compacted_and_future_is_future() {
    let store = four();
    let at = |revision| {
        store.range(&RangeRequest { revision, ..get("a") }).map(|response| response.count)
    };
    assert_eq!(at(5), Err(Rejection::Compacted));
    assert_eq!(at(6), Ok(1));
    assert_eq!(at(7), Err(Rejection::FutureRevision));
    assert_eq!(at(-3), Ok(1), "as in etcd, nothing above 0 means the latest");
}

#[test]
fn put_options_do_what_etcd_says() {
    let mut store = four();
    let missing = PutRequest { ignore_value: true, ..put("new", "") };
    assert_eq!(store.apply(Op::Put(missing)), Err(Rejection::KeyNotFound));
    assert_eq!(
        store.apply(Op::Put(PutRequest { ignore_lease: true, ..put("new", "v") })),
        Err(Rejection::KeyNotFound)
    );
    assert_eq!(
        store.apply(Op::Put(PutRequest { lease: 7, ..put("a", "v") })),
        Err(Rejection::LeaseNotFound)
    );
    assert_eq!(store.revision(), 6, "what is refused makes no revision");
    let Ok(Reply::Put(response)) =
        store.apply(Op::Put(PutRequest { prev_kv: true, ignore_value: true, ..put("a", "") }))
    else {
        panic!("a put is answered as one")
    };
    assert_eq!(response.prev_kv.map(|kv| (kv.value, kv.version)), Some((bytes("4"), 2)));
    assert_eq!(store.get("a"), Some((4, 7, 3, "4".into())));
}

#[test]
fn requests_without_sense_never_reach_the_log() {
    assert_eq!(check_put(&put("", "v")), Err(Rejection::EmptyKey));
    assert_eq!(
        check_put(&PutRequest { ignore_value: true, ..put("k", "v") }),
        Err(Rejection::ValueProvided)
    );
    assert_eq!(
        check_put(&PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") }),
        Err(Rejection::LeaseProvided)
    );
    assert_eq!(check_range(&get("")), Err(Rejection::EmptyKey));
    assert_eq!(
        check_range(&RangeRequest { sort_order: 9, ..get("k") }),
        Err(Rejection::InvalidSortOption)
    );
    let many = |count: usize| TxnRequest {
        success: (0..count).map(|number| op_put(&number.to_string(), "")).collect(),
        ..Default::default()
    };
    assert_eq!(check_txn(&many(128), 128), Ok(()));
    assert_eq!(check_txn(&many(129), 128), Err(Rejection::TooManyOps));
    let nested = TxnRequest { success: vec![op_txn(many(128))], ..Default::default() };
    assert_eq!(
        check_txn(&nested, 128),
        Err(Rejection::TooManyOps),
        "children share what the parent leaves"
    );
    let empty = TxnRequest { failure: vec![RequestOp::default()], ..Default::default() };
    assert_eq!(check_txn(&empty, 128), Err(Rejection::KeyNotFound));
}

#[test]
fn no_key_is_written_twice_on_any_path() {
    let txn = |success: Vec<RequestOp>, failure: Vec<RequestOp>| TxnRequest {
        success,
        failure,
        ..Default::default()
    };
    let twice = Err(Rejection::DuplicateKey);
    let cases = [
        (txn(vec![op_put("a", "1"), op_put("a", "2")], vec![]), twice),
        (txn(vec![op_put("a", "1")], vec![op_put("a", "2")]), Ok(())),
        (txn(vec![op_put("a", "1"), op_delete("a", "")], vec![]), twice),
        (txn(vec![op_delete("a", "c"), op_put("b", "1")], vec![]), twice),
        (txn(vec![op_delete("a", "c"), op_put("c", "1")], vec![]), Ok(())),
        (txn(vec![op_delete("a", "\0"), op_put("zz", "1")], vec![]), twice),
        (txn(vec![op_delete("a", ""), op_delete("a", "")], vec![]), Ok(())),
        (txn(vec![op_put("a", "1"), op_txn(txn(vec![op_put("a", "2")], vec![]))], vec![]), twice),
        (txn(vec![op_txn(txn(vec![op_put("a", "1")], vec![op_put("a", "2")]))], vec![]), Ok(())),
        (
            txn(
                vec![
                    op_txn(txn(vec![op_put("a", "1")], vec![])),
                    op_txn(txn(vec![], vec![op_put("a", "2")])),
                ],
                vec![],
            ),
            twice,
        ),
        (txn(vec![op_delete("a", ""), op_txn(txn(vec![], vec![op_put("a", "2")]))], vec![]), twice),
        (txn(vec![op_txn(txn(vec![op_delete("a", "")], vec![])), op_put("a", "1")], vec![]), twice),
    ];
    for (request, expected) in cases {
        assert_eq!(check_txn(&request, 128), expected, "{request:?}");
    }
}

#[test]
fn comparisons_hold_as_etcd_says() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let store = four(); // a: create 4, mod 6, version 2, value "4"
    let cases = [
        (compare("a", Equal, TargetUnion::Version(2)), true),
        (compare("a", Greater, TargetUnion::CreateRevision(3)), true),
        (compare("a", Less, TargetUnion::ModRevision(6)), false),
        (compare("a", NotEqual, TargetUnion::Value(bytes("4"))), false),
        (compare("a", Equal, TargetUnion::Lease(0)), true),
        (compare("none", Equal, TargetUnion::Version(0)), true),
        (compare("none", Equal, TargetUnion::CreateRevision(0)), true),
        (compare("none", NotEqual, TargetUnion::Value(bytes("x"))), false),
        (
            Compare { target_union: None, ..compare("none", Equal, TargetUnion::ModRevision(0)) },
            true,
        ),
        (
            Compare { range_end: bytes("\0"), ..compare("a", Greater, TargetUnion::Version(0)) },
            true,
        ),
        (Compare { range_end: bytes("\0"), ..compare("a", Equal, TargetUnion::Version(1)) }, false),
    ];
    for (condition, expected) in cases {
        let request = TxnRequest { compare: vec![condition], ..Default::default() };
        let response =
            read_txn(&store.machine.published().state(), &request).expect("no operations");
        assert_eq!(response.succeeded, expected, "{request:?}");
    }
}

#[test]
fn a_transaction_is_one_revision_and_sees_its_own_writes() {
    let mut store = four();
    let request = TxnRequest {
        compare: vec![compare("a", CompareResult::Equal, TargetUnion::Version(2))],
        success: vec![
            op(Request::RequestRange(get("e"))),
            op_put("e", "5"),
            op(Request::RequestRange(get("e"))),
            op(Request::RequestRange(RangeRequest { revision: 6, ..get("e") })),
            op_delete("b", ""),
            op_txn(TxnRequest {
                // Compared with the state before the whole transaction, in which e is not there.
                compare: vec![compare("e", CompareResult::Equal, TargetUnion::Version(0))],
                success: vec![op_put("f", "6")],
                failure: vec![op_put("g", "7")],
            }),
        ],
        failure: vec![op_put("never", "")],
    };
    let response = store.txn(request).expect("valid");
    assert!(response.succeeded);
    assert_eq!((response.header.expect("always").revision, store.revision()), (7, 7));
    let counts: Vec<_> = response
        .responses
        .iter()
        .map(|response| match response.response.as_ref().expect("each is answered") {
            Response::ResponseRange(range) => {
                (range.count, range.header.map(|header| header.revision))
            }
            Response::ResponsePut(put) => (-1, put.header.map(|header| header.revision)),
            Response::ResponseDeleteRange(delete) => {
                (-2, delete.header.map(|header| header.revision))
            }
            Response::ResponseTxn(txn) => (-3, txn.header.map(|header| header.revision)),
        })
        .collect();
    assert_eq!(
        counts,
        [(0, Some(6)), (-1, Some(7)), (1, Some(7)), (0, Some(7)), (-2, Some(7)), (-3, Some(7))]
    );
    assert_eq!(store.get("f"), Some((7, 7, 1, "6".into())));
    assert_eq!((store.get("b"), store.get("g"), store.get("never")), (None, None, None));
}

#[test]
fn a_transaction_that_cannot_be_done_has_no_effect() {
    let mut store = four();
    for bad in [
        op(Request::RequestRange(RangeRequest { revision: 99, ..get("a") })),
        op(Request::RequestPut(PutRequest { ignore_value: true, ..put("none", "") })),
        op_txn(TxnRequest {
            success: vec![op(Request::RequestPut(PutRequest { lease: 1, ..put("x", "") }))],
            ..Default::default()
        }),
    ] {
        let request = TxnRequest { success: vec![op_put("new", "v"), bad], ..Default::default() };
        assert!(store.txn(request).is_err());
        assert_eq!((store.revision(), store.get("new")), (6, None));
    }
}

#[test]
fn unknown_commands_stop_the_machine() {
    let mut machine = KvMachine::default();
    assert!(machine.apply(1, &Bytes::new()).is_err(), "no kind, or one from a newer version");
    assert!(machine.apply(1, &Bytes::from_static(&[0xff, 0xff])).is_err());
}

#[test]
fn values_do_not_hold_the_log_alive() {
    let mut machine = KvMachine::default();
    let entry = encode(Op::Put(put("key", "value")));
    let range = entry.as_ptr_range();
    machine.apply(1, &entry).expect("a command").expect("a put");
    let state = machine.published().state();
    let (key, item) = state.iter().next().expect("one key");
    assert!(!range.contains(&key.as_ptr()) && !range.contains(&item.value.as_ptr()));
}

#[test]
fn a_damaged_snapshot_leaves_the_state_as_it_was() {
    let mut store = four();
    let mut image = Vec::new();
    store.machine.image().write(&mut image).expect("memory");
    store.put("later", "v");
    let last = image.len() - 1;
    image[last] ^= 1;
    assert!(store.machine.restore(99, &mut image.as_slice()).is_err());
    assert_eq!((store.revision(), store.machine.published().view().index), (7, 6));
    image[last] ^= 1;
    store.machine.restore(99, &mut image.as_slice()).expect("whole again");
    assert_eq!(
        (store.revision(), store.machine.published().view().index, store.get("later")),
        (6, 99, None)
    );
}

/// An operation of the model test.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Swap(u8, u8, u8),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6_u8;
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key.clone(), key.clone()).prop_map(|(from, end)| Step::Delete(from, end)),
        2 => (key.clone(), any::<u8>(), any::<u8>()).prop_map(|(key, old, new)| Step::Swap(key, old % 4, new % 4)),
        1 => Just(Step::Snapshot),
    ]
}

proptest! {
    /// Whatever is done, the machine holds what a plain map with etcd's counters holds; a machine restored from a
    /// snapshot at any point goes on the same, digest included.
    #[test]
    fn machine_agrees_with_a_plain_map(steps in proptest::collection::vec(step(), 1..60)) {
        let name = |key: u8| format!("k{key}");
        let mut store = Store::default();
        let mut twin = Store::default();
        let mut model: BTreeMap<String, (i64, i64, i64, String)> = BTreeMap::new();
        let mut revision = 1;
        let write = |model: &mut BTreeMap<_, _>, key: String, value: String, revision: i64| {
            let entry: &mut (i64, i64, i64, String) = model.entry(key).or_insert((revision, 0, 0, String::new()));
            *entry = (entry.0, revision, entry.2 + 1, value);
        };
        for step in steps {
            let command = match step {
                Step::Put(key, value) => {
                    revision += 1;
                    write(&mut model, name(key), (value % 4).to_string(), revision);
                    Op::Put(put(&name(key), &(value % 4).to_string()))
                }
                Step::Delete(from, end) => {
                    let (from, end) = (name(from), name(end));
                    let before = model.len();
                    model.retain(|key, _| *key < from || *key >= end);
                    revision += i64::from(model.len() != before);
                    Op::DeleteRange(DeleteRangeRequest { key: bytes(&from), range_end: bytes(&end), prev_kv: false })
                }
                Step::Swap(key, old, new) => {
                    if model.get(&name(key)).is_some_and(|item| item.3 == old.to_string()) {
                        revision += 1;
                        write(&mut model, name(key), new.to_string(), revision);
                    }
                    let equal = compare(&name(key), CompareResult::Equal, TargetUnion::Value(bytes(&old.to_string())));
                    Op::Txn(TxnRequest {
                        compare: vec![equal],
                        success: vec![op_put(&name(key), &new.to_string())],
                        failure: vec![op(Request::RequestRange(get(&name(key))))],
                    })
                }
                Step::Snapshot => {
                    let mut image = Vec::new();
                    store.machine.image().write(&mut image).expect("memory");
                    twin = Store { index: store.index, ..Store::default() };
                    twin.machine.restore(store.index, &mut image.as_slice()).expect("whole");
                    continue;
                }
            };
            let reply = store.apply(command.clone());
            if twin.index + 1 == store.index {
                prop_assert_eq!(twin.apply(command), reply);
                let (one, other) = (store.machine.published().view(), twin.machine.published().view());
                prop_assert_eq!((one.digest, one.index, one.state.bytes()), (other.digest, other.index, other.state.bytes()));
            }
            prop_assert_eq!(store.revision(), revision);
            let state = store.machine.published().state();
            let found: BTreeMap<String, (i64, i64, i64, String)> = state
                .iter()
                .map(|(key, _)| String::from_utf8(key.to_vec()).expect("text"))
                .map(|key| (key.clone(), store.get(&key).expect("listed")))
                .collect();
            prop_assert_eq!(&found, &model);
        }
    }
}
