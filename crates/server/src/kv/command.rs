//! Commands as they stand in the log, and what applying one answers.

use bytes::Bytes;
use prost::Message;

use super::{Rejection, State, txn::Write};
use crate::pb::{
    etcdserverpb::{DeleteRangeResponse, PutResponse, ResponseHeader, TxnResponse},
    oarlockpb::{Command, command::Op},
};

/// What a command that took effect answers. Headers hold the revision alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
}

impl Reply {
    /// The header, to be completed with cluster, member and term.
    pub(crate) fn header_mut(&mut self) -> &mut ResponseHeader {
        let header = match self {
            Self::Put(response) => &mut response.header,
            Self::DeleteRange(response) => &mut response.header,
            Self::Txn(response) => &mut response.header,
        };
        header.get_or_insert_default()
    }
}

/// Why the bytes of an entry are no command that this version knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Not the message it should be.
    #[error("the entry does not hold a command: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A kind from a newer version. Skipping it would make this member differ from the others.
    #[error("the entry holds a command of a kind that this version does not know")]
    UnknownKind,
}

/// The bytes to propose for `op`.
pub(crate) fn encode(op: Op) -> Bytes {
    Command { op: Some(op) }.encode_to_vec().into()
}

/// The command that `data` holds.
///
/// # Errors
/// [`CommandError`], for bytes that no version up to this one wrote.
pub(crate) fn decode(data: Bytes) -> Result<Op, CommandError> {
    Command::decode(data)?.op.ok_or(CommandError::UnknownKind)
}

/// Applies `op` to `state`: the state after it and the answer, or the refusal of a command that changes nothing.
pub(super) fn apply(state: &State, op: &Op) -> Result<(State, Reply), Rejection> {
    let mut write = Write::new(state);
    let reply = match op {
        Op::Put(put) => Reply::Put(write.put(put)?),
        Op::DeleteRange(delete) => Reply::DeleteRange(write.delete_range(delete)),
        Op::Txn(txn) => Reply::Txn(write.txn(txn)?),
    };
    Ok((write.finish(), reply))
}

/// The command in `data` in a few words, for people; keys are shown, values are not.
pub(crate) fn describe(data: Bytes) -> String {
    let key = |key: &Bytes| format!("{:?}", String::from_utf8_lossy(key));
    match decode(data) {
        Ok(Op::Put(put)) => format!("put {}, {} bytes", key(&put.key), put.value.len()),
        Ok(Op::DeleteRange(delete)) if delete.range_end.is_empty() => {
            format!("delete {}", key(&delete.key))
        }
        Ok(Op::DeleteRange(delete)) => {
            format!("delete {} to {}", key(&delete.key), key(&delete.range_end))
        }
        Ok(Op::Txn(txn)) => format!(
            "txn, {} compares, {} operations if they hold, {} if not",
            txn.compare.len(),
            txn.success.len(),
            txn.failure.len()
        ),
        Err(error) => error.to_string(),
    }
}
