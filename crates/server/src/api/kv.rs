//! `etcdserverpb.KV`: reads and writes of keys.

use prost::Message;
use tonic::{Request, Response, async_trait};

use super::{Answer, Api, Error};
use crate::{
    backend::Backend,
    kv::{self, Reply},
    pb::{
        etcdserverpb::{
            DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
            RangeResponse, RequestOp, TxnRequest, TxnResponse, kv_server::Kv, request_op,
        },
        oarlockpb::command::Op,
    },
};

#[async_trait]
impl<B: Backend> Kv for Api<B> {
    async fn range(&self, request: Request<RangeRequest>) -> Answer<RangeResponse> {
        self.require_leader(&request)?;
        let request = request.into_inner();
        kv::check_range(&request)?;
        if !request.serializable {
            self.require_voter()?;
            self.backend.read_index().await?; // O24
        }
        let mut response = kv::range(&self.backend.kv().state(), &request)?;
        response.header = response.header.map(|header| self.header_at(header.revision));
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Answer<PutResponse> {
        self.require_leader(&request)?;
        let request = request.into_inner();
        kv::check_put(&request)?;
        self.check_quota()?;
        match self.write(Op::Put(request)).await? {
            Reply::Put(response) => Ok(Response::new(response)),
            other => Err(mismatch(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Answer<DeleteRangeResponse> {
        self.require_leader(&request)?;
        let request = request.into_inner();
        kv::check_delete_range(&request)?;
        match self.write(Op::DeleteRange(request)).await? {
            Reply::DeleteRange(response) => Ok(Response::new(response)),
            other => Err(mismatch(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Answer<TxnResponse> {
        self.require_leader(&request)?;
        let request = request.into_inner();
        kv::check_txn(&request, self.limits.max_txn_ops)?;
        if any(&request, &|op| !matches!(op, request_op::Request::RequestRange(_))) {
            if any(&request, &|op| matches!(op, request_op::Request::RequestPut(_))) {
                self.check_quota()?;
            }
            return match self.write(Op::Txn(request)).await? {
                Reply::Txn(response) => Ok(Response::new(response)),
                other => Err(mismatch(&other)),
            };
        }
        // Nothing but reads: no entry in the log.
        if !is_serializable(&request) {
            self.require_voter()?;
            self.backend.read_index().await?; // O24
        }
        let mut response = kv::read_txn(&self.backend.kv().state(), &request)?;
        response.header = response.header.map(|header| self.header_at(header.revision));
        Ok(Response::new(response))
    }
}

impl<B: Backend> Api<B> {
    /// Replicates `op`; answers once it is durable on a majority and applied here.
    async fn write(&self, op: Op) -> Result<Reply, Error> {
        self.require_voter()?;
        let command = kv::encode(op);
        if command.len() > self.limits.max_request_bytes {
            return Err(Error::TooLarge);
        }
        let mut reply = self.backend.propose(command).await?;
        let header = reply.header_mut();
        *header = self.header_at(header.revision);
        Ok(reply)
    }

    fn check_quota(&self) -> Result<(), Error> {
        let full =
            self.limits.quota_bytes.is_some_and(|quota| self.backend.kv().state().bytes() >= quota);
        if full { Err(Error::NoSpace) } else { Ok(()) }
    }
}

/// Whether the client said that it wants no more than this member's own state: every read says so, and there is one. A
/// comparison cannot say it, so one that stands for itself, in a nested transaction too, is answered from a linearizable
/// state; etcd's `isTxnSerializable` lets one without any reads be stale.
fn is_serializable(txn: &TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).peekable();
    let serializable = |op: &RequestOp| matches!(&op.request, Some(request_op::Request::RequestRange(range)) if range.serializable);
    ops.peek().is_some() && ops.all(serializable)
}

/// Whether any operation of the transaction, nested ones included, is as `test` says. A nested transaction itself is
/// not asked about.
fn any(txn: &TxnRequest, test: &dyn Fn(&request_op::Request) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).any(|RequestOp { request }| match request {
        Some(request_op::Request::RequestTxn(nested)) => any(nested, test),
        Some(request) => test(request),
        None => false,
    })
}

/// An answer to another question: a bug, said as one.
fn mismatch(reply: &Reply) -> tonic::Status {
    log::error!(bytes = reply_len(reply); "a command was answered with the reply of another kind");
    tonic::Status::internal("oarlock: the command was answered with the reply of another kind")
}

fn reply_len(reply: &Reply) -> usize {
    match reply {
        Reply::Put(response) => response.encoded_len(),
        Reply::DeleteRange(response) => response.encoded_len(),
        Reply::Txn(response) => response.encoded_len(),
    }
}
