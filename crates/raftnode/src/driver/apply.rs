//! The ready-made apply thread: a [`StateMachine`] on top of the handoff.

use std::sync::mpsc::{Sender, SyncSender};

use super::handoff::ApplyQueue;
use super::panicked;
use super::step::Step;
use crate::core::MembersApplied;
use crate::{ApplyError, StateMachine};

/// Works until the node ends, or the state machine fails; then drops `_finished`, by which the node knows.
pub(super) fn serve<S: StateMachine>(
    _finished: Sender<()>,
    mut queue: ApplyQueue<S::Output>,
    mut machine: S,
) {
    let pull = std::panic::AssertUnwindSafe(|| apply_all(&mut machine, &mut queue));
    if let Err(panic) = std::panic::catch_unwind(pull) {
        queue.fail(panicked("oarlock-apply", &*panic));
    }
}

fn apply_all<S: StateMachine>(machine: &mut S, queue: &mut ApplyQueue<S::Output>) {
    while let Some(mut apply) = queue.recv() {
        while let Some(step) = apply.step() {
            let outcome: Result<(), ApplyError> = match step {
                Step::Command(command) => {
                    machine.apply(&command.committed()).map(|output| apply.answer(&command, output))
                }
                Step::Members(cluster) => {
                    machine.members_changed(&cluster);
                    Ok(())
                }
                Step::Snapshot { id, mut content } => machine.restore(id, &mut *content),
            };
            if let Err(error) = outcome {
                return apply.fail(error);
            }
        }
        apply.done();
        if queue.snapshot_due(machine.size()) {
            match machine.snapshot() {
                Ok(view) => queue.snapshot(view),
                Err(error) => return queue.fail_at_applied(error),
            }
        }
    }
}

/// The other end of the questions that an apply loop asks the node thread.
pub(super) fn reply(to: &SyncSender<MembersApplied>, members: MembersApplied) {
    let _ = to.try_send(members); // it has room for the one answer, or nobody waits any more
}
