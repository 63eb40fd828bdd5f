//! A blocking client for etcd's v3 API: one connection, one thread, every call with a deadline.

use crate::{Outcome, pb};
use http_path::PathAndQuery;
use prost::Message;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codegen::http::uri as http_path;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Talks to one server. A call that fails says so; nothing is tried twice, so that what was acknowledged is known.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
    deadline: Duration,
}

/// A key as the server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision that wrote it last.
    pub mod_revision: i64,
    /// How often it was written since it was created.
    pub version: i64,
}

/// What a read answered.
#[derive(Clone, Debug)]
pub struct Page {
    /// The store's revision when it was read.
    pub revision: i64,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it short.
    pub more: bool,
}

/// A member as the cluster lists it.
#[derive(Clone, Debug)]
pub struct ListedMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has started once.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
    /// Its client URLs; none until it has started once.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The leader it knows, or 0.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Its committed index.
    pub index: u64,
    /// Its applied index.
    pub applied: u64,
    /// The revision of its store.
    pub revision: i64,
    /// Whether it has no vote.
    pub is_learner: bool,
}

impl Client {
    /// For the server at `url`; connects with the first call.
    ///
    /// # Errors
    /// If `url` is none.
    pub fn new(url: &str, deadline: Duration) -> Outcome<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint =
            Endpoint::from_shared(url.to_owned())?.connect_timeout(Duration::from_secs(2));
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        Ok(Self { runtime, channel, deadline })
    }

    fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let call = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await
        };
        let bounded =
            self.runtime.block_on(async { tokio::time::timeout(self.deadline, call).await });
        match bounded {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::new(
                Code::DeadlineExceeded,
                format!("no answer within {:?}", self.deadline),
            )),
        }
    }

    /// Writes a key and returns the revision that wrote it.
    ///
    /// # Errors
    /// The server's; the write may still have happened unless the code says otherwise.
    pub fn put(&self, key: &str, value: &str) -> Result<i64, Status> {
        let request = pb::PutRequest { key: key.into(), value: value.into() };
        let answer: pb::PutResponse = self.call("/etcdserverpb.KV/Put", request)?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// The server's.
    pub fn get(&self, key: &str) -> Result<Option<KeyValue>, Status> {
        Ok(self.range(key, "", 0, false)?.kvs.pop())
    }

    /// Reads a key from what this member has applied.
    ///
    /// # Errors
    /// The server's.
    pub fn get_serializable(&self, key: &str) -> Result<Option<KeyValue>, Status> {
        Ok(self.range(key, "", 0, true)?.kvs.pop())
    }

    /// Reads the keys in `[key, end)`, or `key` alone if `end` is empty; `limit` 0 is none.
    ///
    /// # Errors
    /// The server's.
    pub fn range(
        &self,
        key: &str,
        end: &str,
        limit: i64,
        serializable: bool,
    ) -> Result<Page, Status> {
        let request = pb::RangeRequest {
            key: key.into(),
            range_end: end.into(),
            limit,
            serializable,
            ..Default::default()
        };
        let answer: pb::RangeResponse = self.call("/etcdserverpb.KV/Range", request)?;
        Ok(Page {
            revision: answer.header.unwrap_or_default().revision,
            kvs: answer.kvs.into_iter().map(KeyValue::from).collect(),
            more: answer.more,
        })
    }

    /// How many keys begin with `prefix`, linearizably.
    ///
    /// # Errors
    /// The server's.
    pub fn count(&self, prefix: &str) -> Result<i64, Status> {
        let request = pb::RangeRequest {
            key: prefix.into(),
            range_end: after(prefix).into(),
            count_only: true,
            ..Default::default()
        };
        Ok(self.call::<_, pb::RangeResponse>("/etcdserverpb.KV/Range", request)?.count)
    }

    /// Every key that begins with `prefix`, linearizably, a thousand at a time.
    ///
    /// # Errors
    /// The server's.
    pub fn prefix(&self, prefix: &str) -> Result<Page, Status> {
        let end = after(prefix);
        let first = if prefix.is_empty() { "\0" } else { prefix };
        let mut all = self.range(first, &end, 1000, false)?;
        while all.more {
            let from = all.kvs.last().map_or_else(String::new, |kv| format!("{}\0", kv.key));
            let page = self.range(&from, &end, 1000, false)?;
            all.kvs.extend(page.kvs);
            all.revision = all.revision.max(page.revision);
            all.more = page.more;
        }
        Ok(all)
    }

    /// Deletes a key and says whether it was there.
    ///
    /// # Errors
    /// The server's.
    pub fn delete(&self, key: &str) -> Result<bool, Status> {
        let request = pb::DeleteRangeRequest { key: key.into(), range_end: Vec::new() };
        Ok(self
            .call::<_, pb::DeleteRangeResponse>("/etcdserverpb.KV/DeleteRange", request)?
            .deleted
            == 1)
    }

    /// Writes `value` if the key was last written by `revision`, and says whether it was.
    ///
    /// # Errors
    /// The server's.
    pub fn put_if(&self, key: &str, revision: i64, value: &str) -> Result<bool, Status> {
        let compare = pb::Compare {
            result: pb::CompareResult::Equal.into(),
            target: pb::CompareTarget::Mod.into(),
            key: key.into(),
            union: Some(pb::CompareUnion::ModRevision(revision)),
        };
        let put = pb::Request::Put(pb::PutRequest { key: key.into(), value: value.into() });
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(put) }],
            failure: Vec::new(),
        };
        Ok(self.call::<_, pb::TxnResponse>("/etcdserverpb.KV/Txn", request)?.succeeded)
    }

    /// The members, as of a linearizable read.
    ///
    /// # Errors
    /// The server's.
    pub fn members(&self) -> Result<Vec<ListedMember>, Status> {
        let request = pb::MemberListRequest { linearizable: true };
        let answer: pb::MemberListResponse =
            self.call("/etcdserverpb.Cluster/MemberList", request)?;
        Ok(answer.members.into_iter().map(ListedMember::from).collect())
    }

    /// Adds a member and returns its id.
    ///
    /// # Errors
    /// The server's.
    pub fn member_add(&self, peer_url: &str, is_learner: bool) -> Result<u64, Status> {
        let request = pb::MemberAddRequest { peer_urls: vec![peer_url.to_owned()], is_learner };
        let answer: pb::MemberAddResponse =
            self.call("/etcdserverpb.Cluster/MemberAdd", request)?;
        Ok(answer.member.unwrap_or_default().id)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// The server's.
    pub fn member_remove(&self, id: u64) -> Result<(), Status> {
        self.call::<_, pb::MemberListResponse>(
            "/etcdserverpb.Cluster/MemberRemove",
            pb::MemberIdRequest { id },
        )?;
        Ok(())
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// The server's.
    pub fn member_promote(&self, id: u64) -> Result<(), Status> {
        self.call::<_, pb::MemberListResponse>(
            "/etcdserverpb.Cluster/MemberPromote",
            pb::MemberIdRequest { id },
        )?;
        Ok(())
    }

    /// What this member says of itself.
    ///
    /// # Errors
    /// The server's.
    pub fn status(&self) -> Result<MemberStatus, Status> {
        let answer: pb::StatusResponse =
            self.call("/etcdserverpb.Maintenance/Status", pb::StatusRequest {})?;
        let header = answer.header.unwrap_or_default();
        Ok(MemberStatus {
            id: header.member_id,
            cluster_id: header.cluster_id,
            leader: answer.leader,
            term: answer.raft_term,
            index: answer.raft_index,
            applied: answer.raft_applied_index,
            revision: header.revision,
            is_learner: answer.is_learner,
        })
    }

    /// Asks the leader, which must be this member, to hand over to `target`.
    ///
    /// # Errors
    /// The server's.
    pub fn move_leader(&self, target: u64) -> Result<(), Status> {
        let request = pb::MoveLeaderRequest { target_id: target };
        self.call::<_, pb::MoveLeaderResponse>("/etcdserverpb.Maintenance/MoveLeader", request)?;
        Ok(())
    }
}

/// The end of the range of all keys that begin with `prefix`: the prefix with its last byte raised (ours are ASCII),
/// or etcd's spelling of "no end".
fn after(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    match bytes.last_mut() {
        Some(last) => *last += 1,
        None => bytes.push(0),
    }
    String::from_utf8(bytes).unwrap_or_default()
}

impl From<pb::KeyValue> for KeyValue {
    fn from(kv: pb::KeyValue) -> Self {
        Self {
            key: String::from_utf8_lossy(&kv.key).into_owned(),
            value: String::from_utf8_lossy(&kv.value).into_owned(),
            mod_revision: kv.mod_revision,
            version: kv.version,
        }
    }
}

impl From<pb::Member> for ListedMember {
    fn from(member: pb::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_there_is_an_error_in_time() {
        let url = format!("http://127.0.0.1:{}", crate::free_port().expect("one of many"));
        let client = Client::new(&url, Duration::from_secs(5)).expect("a url");
        assert_eq!(client.put("k", "v").expect_err("nobody there").code(), Code::Unavailable);
    }

    #[test]
    fn a_server_that_never_answers_is_an_error_in_time() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", silent.local_addr().expect("bound"));
        let client = Client::new(&url, Duration::from_millis(200)).expect("a url");
        assert_eq!(client.get("k").expect_err("silence").code(), Code::DeadlineExceeded);
    }

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        assert_eq!(after("r1/"), "r10");
        assert_eq!(after("a"), "b");
        assert_eq!(after(""), "\0");
    }
}
