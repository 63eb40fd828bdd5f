//! The API over a backend of one member without a cluster, spoken to by a real gRPC client over a socket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use oarlock_membership::{Change, ChangeError, Cluster, Member};
use parking_lot::Mutex;
use tonic::{Code, Request, Status, transport::Channel};

use super::{Api, Error, Limits, explain_unserved};
use crate::{
    backend::{Backend, Vitals},
    kv::{KvMachine, Published, Rejection, Reply},
    pb::etcdserverpb::{
        AlarmRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
        MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, PutRequest, RangeRequest,
        RequestOp, StatusRequest, TxnRequest, cluster_client::ClusterClient, kv_client::KvClient,
        maintenance_client::MaintenanceClient, request_op::Request as Op,
    },
};

/// Member 1 of a cluster of its own, which fails as it is told.
#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    machine: Mutex<KvMachine>,
    published: Published,
    cluster: Mutex<Arc<Cluster>>,
    vitals: Mutex<Vitals>,
    failure: Mutex<Option<Error>>,
    reads: AtomicU64,
    proposals: AtomicU64,
}

impl Fake {
    fn new() -> Self {
        let machine = KvMachine::default();
        let mut cluster = Cluster::new(9);
        let own = Member {
            id: 1,
            name: "one".into(),
            peer_urls: vec!["http://h1:1".into()],
            ..Member::default()
        };
        cluster.apply(&Change::AddVoter(own)).expect("the first");
        Self(Arc::new(Inner {
            published: machine.published(),
            machine: Mutex::new(machine),
            cluster: Mutex::new(Arc::new(cluster)),
            vitals: Mutex::new(Vitals {
                cluster_id: 9,
                member_id: 1,
                term: 3,
                leader: 1,
                ..Vitals::default()
            }),
            failure: Mutex::new(None),
            reads: AtomicU64::new(0),
            proposals: AtomicU64::new(0),
        }))
    }

    fn fail(&self, error: Error) {
        *self.0.failure.lock() = Some(error);
    }

    fn outcome(&self) -> Result<(), Error> {
        self.0.failure.lock().take().map_or(Ok(()), Err)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Cluster) -> Result<(), ChangeError>,
    ) -> Result<Arc<Cluster>, Error> {
        self.outcome()?;
        let mut cluster = self.0.cluster.lock();
        let mut next = Cluster::clone(&cluster);
        change(&mut next).map_err(Error::from)?;
        *cluster = Arc::new(next);
        Ok(Arc::clone(&cluster))
    }
}

impl Backend for Fake {
    async fn propose(&self, command: Bytes) -> Result<Reply, Error> {
        self.outcome()?;
        let index = self.0.proposals.fetch_add(1, Ordering::Relaxed) + 1;
        let outcome = self.0.machine.lock().apply(index, &command).expect("a command");
        outcome.map_err(Error::from)
    }

    async fn read_index(&self) -> Result<(), Error> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.outcome()
    }

    async fn change_members(&self, change: Change) -> Result<Arc<Cluster>, Error> {
        self.change(|cluster| cluster.apply(&change).map(|_| ()))
    }

    async fn update_member(&self, id: u64, peer_urls: Vec<String>) -> Result<Arc<Cluster>, Error> {
        self.change(|cluster| cluster.update_peer_urls(id, &peer_urls))
    }

    async fn learner_is_ready(&self, _: u64) -> Result<(), Error> {
        self.outcome()
    }

    async fn transfer_leader(&self, to: u64) -> Result<(), Error> {
        self.outcome()?;
        self.0.vitals.lock().leader = to;
        Ok(())
    }

    fn active_since(&self, _: u64) -> Option<Instant> {
        None
    }

    fn vitals(&self) -> Vitals {
        *self.0.vitals.lock()
    }

    async fn complaints(&self) -> Vec<String> {
        Vec::new()
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.0.cluster.lock())
    }

    fn kv(&self) -> &Published {
        &self.0.published
    }
}

struct Served {
    fake: Fake,
    channel: Channel,
}

impl Served {
    async fn start(limits: Limits) -> Self {
        let fake = Fake::new();
        let app = Api::new(fake.clone(), limits)
            .routes()
            .into_axum_router()
            .layer(axum::middleware::from_fn(explain_unserved));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("a URL")
            .connect()
            .await
            .expect("served");
        Self { fake, channel }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }
}

const LIMITS: Limits = Limits {
    max_request_bytes: 1000,
    max_txn_ops: 3,
    quota_bytes: Some(2000),
    strict_reconfig_check: true,
};

fn put(key: &str, value: impl Into<Vec<u8>>) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.into().into(), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[track_caller]
fn assert_status<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.expect_err(message);
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test]
async fn answers_have_whole_headers() {
    let served = Served::start(LIMITS).await;
    let header =
        served.kv().put(put("k", "v")).await.expect("served").into_inner().header.expect("always");
    assert_eq!(
        (header.cluster_id, header.member_id, header.revision, header.raft_term),
        (9, 1, 2, 3)
    );
    let response = served.kv().range(get("k")).await.expect("served").into_inner();
    assert_eq!(
        (response.kvs[0].value.as_ref(), response.header.expect("always").member_id),
        (&b"v"[..], 1)
    );
}

#[tokio::test]
async fn only_serializable_reads_spare_the_leader() {
    let served = Served::start(LIMITS).await;
    let read = |serializable| RangeRequest { serializable, ..get("k") };
    let txn = |serializable| TxnRequest {
        success: vec![RequestOp { request: Some(Op::RequestRange(read(serializable))) }],
        ..Default::default()
    };
    served.kv().range(read(true)).await.expect("served");
    served.kv().txn(txn(true)).await.expect("served");
    assert_eq!(served.fake.0.reads.load(Ordering::Relaxed), 0);
    served.kv().range(read(false)).await.expect("served");
    served.kv().txn(txn(false)).await.expect("served");
    assert_eq!(served.fake.0.reads.load(Ordering::Relaxed), 2);
    // Nothing but a comparison, alone or nested: nobody said that a stale one will do.
    served.kv().txn(TxnRequest::default()).await.expect("served");
    let nested =
        RequestOp { request: Some(Op::RequestTxn(TxnRequest { ..TxnRequest::default() })) };
    let nested = TxnRequest { success: vec![nested], ..TxnRequest::default() };
    served.kv().txn(nested).await.expect("served");
    assert_eq!(served.fake.0.reads.load(Ordering::Relaxed), 4);
    assert_eq!(
        served.fake.0.proposals.load(Ordering::Relaxed),
        0,
        "a transaction that only reads is no entry"
    );
}

#[tokio::test]
async fn errors_have_etcds_words_and_codes() {
    let served = Served::start(LIMITS).await;
    let failures = [
        (Error::TooManyRequests, Code::ResourceExhausted, "etcdserver: too many requests"),
        (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
        (Error::TimedOut, Code::Unavailable, "etcdserver: request timed out"),
        (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
        (Error::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
        (Error::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
        (
            Error::Rejected(Rejection::LeaseNotFound),
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
    ];
    for (error, code, message) in failures {
        served.fake.fail(error);
        assert_status(served.kv().put(put("k", "v")).await, code, message);
    }
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    served.kv().put(put("k", "v")).await.expect("served");
    served.kv().put(put("k", "v")).await.expect("served");
    let past = served.kv().range(RangeRequest { revision: 2, ..get("k") }).await;
    assert_status(past, Code::OutOfRange, compacted);
    let future = served.kv().range(RangeRequest { revision: 9, ..get("k") }).await;
    assert_status(
        future,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    assert_status(
        served.kv().put(put("", "v")).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    let ops = vec![RequestOp { request: Some(Op::RequestRange(get("k"))) }; 4];
    let many = served.kv().txn(TxnRequest { success: ops, ..Default::default() }).await;
    assert_status(many, Code::InvalidArgument, "etcdserver: too many operations in txn request");
}

#[tokio::test]
async fn large_requests_and_a_full_store_are_refused() {
    let served = Served::start(LIMITS).await;
    let large = served.kv().put(put("k", vec![0; 1000])).await;
    assert_status(large, Code::InvalidArgument, "etcdserver: request is too large");
    let huge = served.kv().put(put("k", vec![0; 600 << 10])).await;
    assert_status(
        huge,
        Code::ResourceExhausted,
        "grpc: received message larger than max (614407 vs. 525288)",
    );
    for key in ["a", "b", "c"] {
        served.kv().put(put(key, vec![0; 900])).await.ok();
    }
    let full = served.kv().put(put("d", "v")).await;
    assert_status(full, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    let delete =
        crate::pb::etcdserverpb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    served.kv().delete_range(delete).await.expect("deleting is how one gets out of it");
    served.kv().put(put("d", "v")).await.expect("there is space again");
}

#[tokio::test]
async fn members_are_listed_added_promoted_updated_and_removed() {
    let served = Served::start(LIMITS).await;
    let mut cluster = served.cluster();
    let add =
        |url: &str, is_learner| MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    for nobody_can_dial in ["h2:1", "https://h2:1"] {
        let bad = cluster.member_add(add(nobody_can_dial, true)).await;
        assert_status(bad, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    }
    let same = cluster.member_add(add("http://h1:1", true)).await;
    assert_status(same, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    let added =
        cluster.member_add(add("http://h2:1", true)).await.expect("the first learner").into_inner();
    let learner = added.member.expect("the new one");
    assert!(learner.is_learner && added.members.len() == 2);
    let second = cluster.member_add(add("http://h3:1", true)).await;
    assert_status(
        second,
        Code::FailedPrecondition,
        "etcdserver: too many learner members in cluster",
    );
    let id = learner.id;
    let promote = cluster.member_promote(MemberPromoteRequest { id }).await;
    let not_started = "etcdserver: re-configuration failed due to not enough started members";
    assert_status(promote, Code::FailedPrecondition, not_started);
    let unknown = cluster.member_promote(MemberPromoteRequest { id: 77 }).await;
    assert_status(unknown, Code::NotFound, "etcdserver: member not found");
    let voter = cluster.member_promote(MemberPromoteRequest { id: 1 }).await;
    assert_status(voter, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    let update = MemberUpdateRequest { id, peer_ur_ls: vec!["http://h2:2".into()] };
    let members = cluster.member_update(update).await.expect("a free URL").into_inner().members;
    assert!(members.iter().any(|member| member.peer_ur_ls == ["http://h2:2"] && member.is_learner));
    cluster.member_remove(MemberRemoveRequest { id }).await.expect("a learner");
    let again = cluster.member_remove(MemberRemoveRequest { id }).await;
    assert_status(again, Code::NotFound, "etcdserver: member not found");
    let last = cluster.member_remove(MemberRemoveRequest { id: 1 }).await;
    assert_status(last, Code::FailedPrecondition, not_started);
    served.fake.fail(Error::NoLeader);
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await;
    assert_status(list, Code::Unavailable, "etcdserver: no leader");
    let list = cluster.member_list(MemberListRequest { linearizable: false }).await.expect("local");
    assert_eq!(list.into_inner().members.len(), 1);
}

#[tokio::test]
async fn learners_serve_serializable_reads_and_their_status_alone() {
    let served = Served::start(LIMITS).await;
    let mut cluster = Cluster::new(9);
    let own = Member { id: 1, name: "one".into(), is_learner: true, ..Member::default() };
    cluster.apply(&Change::AddLearner(own)).expect("the first");
    *served.fake.0.cluster.lock() = Arc::new(cluster);
    let message = "etcdserver: rpc not supported for learner";
    assert_status(served.kv().range(get("k")).await, Code::Unavailable, message);
    assert_status(served.kv().put(put("k", "v")).await, Code::Unavailable, message);
    served.kv().range(RangeRequest { serializable: true, ..get("k") }).await.expect("served");
    assert!(
        served
            .maintenance()
            .status(StatusRequest {})
            .await
            .expect("served")
            .into_inner()
            .is_learner
    );
}

#[tokio::test]
async fn leadership_moves_from_the_leader_to_a_voter() {
    let served = Served::start(LIMITS).await;
    let to = |target_id| MoveLeaderRequest { target_id };
    let mut client = served.maintenance();
    assert_status(
        client.move_leader(to(5)).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
    served.fake.0.vitals.lock().leader = 2;
    assert_status(
        client.move_leader(to(1)).await,
        Code::FailedPrecondition,
        "etcdserver: not leader",
    );
    served.fake.0.vitals.lock().leader = 1;
    client.move_leader(to(1)).await.expect("to a voter");
}

#[tokio::test]
async fn status_says_what_is_wrong() {
    let served = Served::start(LIMITS).await;
    let mut client = served.maintenance();
    let status = client.status(StatusRequest {}).await.expect("served").into_inner();
    assert!(status.version.starts_with("3.5.") && status.errors.is_empty());
    served.fake.0.vitals.lock().leader = 0;
    let status = client.status(StatusRequest {}).await.expect("served").into_inner();
    assert_eq!(status.errors, ["etcdserver: no leader"]);
    assert!(
        client.alarm(AlarmRequest::default()).await.expect("served").into_inner().alarms.is_empty()
    );
}

#[tokio::test]
async fn clients_can_insist_on_a_leader() {
    let served = Served::start(LIMITS).await;
    served.fake.0.vitals.lock().leader = 0;
    let mut request = Request::new(RangeRequest { serializable: true, ..get("k") });
    served
        .kv()
        .range(RangeRequest { serializable: true, ..get("k") })
        .await
        .expect("does not insist");
    request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    assert_status(served.kv().range(request).await, Code::Unavailable, "etcdserver: no leader");
}

#[tokio::test]
async fn what_is_not_served_says_so_in_a_sentence() {
    let served = Served::start(LIMITS).await;
    for (path, sentence) in [
        ("/etcdserverpb.Watch/Watch", "oarlock: watches are not served yet"),
        ("/etcdserverpb.Lease/LeaseGrant", "oarlock: leases are not served yet"),
        ("/etcdserverpb.Auth/AuthEnable", "oarlock: users and roles are not served yet"),
        (
            "/etcdserverpb.KV/Compact",
            "oarlock: only the latest revision is kept, so there is nothing to compact",
        ),
        ("/nobody.Knows/It", "oarlock: there is no such method"),
    ] {
        let mut client = tonic::client::Grpc::new(served.channel.clone());
        client.ready().await.expect("connected");
        let codec = tonic_prost::ProstCodec::<StatusRequest, StatusRequest>::default();
        let path_and_query = axum::http::uri::PathAndQuery::from_static(path);
        let answer = client.unary(Request::new(StatusRequest {}), path_and_query, codec).await;
        assert_status(answer, Code::Unimplemented, sentence);
    }
}
