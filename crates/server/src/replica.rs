//! The key-value machine as the node drives it.

use std::io;

use oarlock_raftnode::{
    ApplyError, Committed, RestoreError, SnapshotId, SnapshotView, StateMachine,
};

use crate::kv::{Image, KvMachine, Outcome};

impl StateMachine for KvMachine {
    type Output = Outcome;

    fn apply(&mut self, entry: &Committed<'_>) -> Result<Outcome, ApplyError> {
        Ok(Self::apply(self, entry.index, entry.data)?)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        Ok(Box::new(self.image()))
    }

    fn restore(&mut self, at: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError> {
        Ok(Self::restore(self, at.index, content)?)
    }

    fn size(&self) -> u64 {
        self.bytes()
    }
}

impl SnapshotView for Image {
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        self.write(to)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oarlock_raftnode::testing::{MachineFixture, state_machine};

    use super::*;
    use crate::kv::encode;
    use crate::pb::{
        etcdserverpb::{
            DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request,
        },
        oarlockpb::command::Op,
    };

    struct Replicas;

    impl MachineFixture for Replicas {
        type Machine = KvMachine;
        /// Revision, digest, and every key with everything that is known of it.
        type State = (i64, u64, Vec<String>);

        fn create(&mut self) -> KvMachine {
            KvMachine::default()
        }

        fn command(&self, n: u64) -> Bytes {
            let key = Bytes::from(format!("key{}", n % 11));
            let put = |value: String| PutRequest {
                key: key.clone(),
                value: value.into(),
                ..Default::default()
            };
            encode(match n % 5 {
                4 => Op::DeleteRange(DeleteRangeRequest { key, ..Default::default() }),
                3 => Op::Txn(TxnRequest {
                    success: vec![RequestOp {
                        request: Some(Request::RequestPut(put(format!("txn {n}")))),
                    }],
                    ..Default::default()
                }),
                _ => Op::Put(put(format!("value {n}"))),
            })
        }

        fn state(&self, machine: &KvMachine) -> Self::State {
            let view = machine.published().view();
            let keys = view.state.iter().map(|(key, item)| format!("{key:?} {item:?}")).collect();
            (view.state.revision(), view.digest, keys)
        }
    }

    #[test]
    fn the_key_value_machine_keeps_the_promises_of_a_state_machine() {
        state_machine(&mut Replicas);
    }
}
