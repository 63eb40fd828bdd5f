//! What any [`StateMachine`] promises.

use std::fmt;
use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;

use super::Check;
use crate::{Committed, SnapshotId, SnapshotView, StateMachine};

/// How the suite makes a state machine and looks at its state.
pub trait MachineFixture {
    /// The machine under test.
    type Machine: StateMachine;
    /// A comparable view of its state; everything that matters should show in it.
    type State: PartialEq + fmt::Debug;

    /// A machine with nothing applied.
    fn create(&mut self) -> Self::Machine;

    /// The `n`-th command of an endless sequence, from 0. They should differ, with every kind among the first fifty.
    fn command(&self, n: u64) -> Bytes;

    /// The view of a machine's state.
    fn state(&self, machine: &Self::Machine) -> Self::State;
}

/// Checks everything that [`StateMachine`] promises, as far as it can be seen from outside.
///
/// # Panics
/// When the machine breaks a promise; the message says which.
pub fn state_machine<F: MachineFixture>(fixture: &mut F) {
    super::run(&state_machine_checks(), fixture);
}

/// The promises of a [`StateMachine`], one by one.
#[must_use]
pub fn state_machine_checks<F: MachineFixture>() -> Vec<Check<F>> {
    vec![
        Check::new("the same commands lead to the same state", same_commands_same_state),
        Check::new("a snapshot holds the whole state", a_snapshot_holds_the_whole_state),
        Check::new("an empty state can be snapshotted", an_empty_state_can_be_snapshotted),
        Check::new("what was restored goes on alike", what_was_restored_goes_on_alike),
        Check::new("a view is of one instant", a_view_is_of_one_instant),
        Check::new(
            "a view is written on another thread while commands are applied",
            a_view_is_written_while_commands_are_applied,
        ),
        Check::new("a restore replaces what was there", a_restore_replaces_what_was_there),
        Check::new("a restore takes its content in pieces", a_restore_takes_its_content_in_pieces),
        Check::new("a restore reads to the end", a_restore_reads_to_the_end),
        Check::new("a restore that fails changes nothing", a_restore_that_fails_changes_nothing),
        Check::new("a view passes on its writer's error", a_view_passes_on_its_writer_s_error),
        Check::new("it never claims what it was not given", it_never_claims_what_it_was_not_given),
    ]
}

/// Commands that the suite applies before it looks.
const SOME: u64 = 60;
/// Where the indexes of the suite's log begin: its first entries are no commands.
const OFFSET: u64 = 4;

/// Applies commands `from..to`, with a gap in the indexes now and then, as in a log.
fn apply<F: MachineFixture>(fixture: &F, machine: &mut F::Machine, from: u64, to: u64) {
    for n in from..to {
        let data = fixture.command(n);
        let entry = Committed { index: index(n), term: 1 + n / 20, data: &data };
        machine.apply(&entry).unwrap_or_else(|error| panic!("command {n}: {error}"));
    }
}

const fn index(n: u64) -> u64 {
    OFFSET + n + n / 7
}

/// The snapshot after commands `0..n`.
const fn at(n: u64) -> SnapshotId {
    match n {
        0 => SnapshotId { index: 1, term: 1 },
        _ => SnapshotId { index: index(n - 1), term: 1 + (n - 1) / 20 },
    }
}

fn after<F: MachineFixture>(fixture: &mut F, n: u64) -> F::Machine {
    let mut machine = fixture.create();
    apply(fixture, &mut machine, 0, n);
    machine
}

fn written(view: &mut dyn SnapshotView) -> Vec<u8> {
    let mut content = Vec::new();
    view.write_to(&mut content).expect("memory takes anything");
    content
}

fn snapshot<M: StateMachine>(machine: &mut M) -> Vec<u8> {
    written(&mut *machine.snapshot().expect("a view"))
}

fn restore<M: StateMachine>(machine: &mut M, at: SnapshotId, content: &[u8]) {
    machine.restore(at, &mut Cursor::new(content)).expect("whole content");
}

fn same_commands_same_state<F: MachineFixture>(fixture: &mut F) {
    let (mut one, mut other) = (fixture.create(), fixture.create());
    for n in 0..SOME {
        apply(fixture, &mut one, n, n + 1);
        apply(fixture, &mut other, n, n + 1);
        assert_eq!(fixture.state(&one), fixture.state(&other), "after command {n}");
    }
    let empty = fixture.create();
    assert_ne!(
        fixture.state(&one),
        fixture.state(&empty),
        "the commands of the fixture do nothing"
    );
}

fn a_snapshot_holds_the_whole_state<F: MachineFixture>(fixture: &mut F) {
    for n in [1, 2, SOME] {
        let mut machine = after(fixture, n);
        let content = snapshot(&mut machine);
        let mut restored = fixture.create();
        restore(&mut restored, at(n), &content);
        assert_eq!(fixture.state(&restored), fixture.state(&machine), "after {n} commands");
    }
}

fn an_empty_state_can_be_snapshotted<F: MachineFixture>(fixture: &mut F) {
    let content = snapshot(&mut fixture.create());
    let (mut restored, empty) = (fixture.create(), fixture.create());
    restore(&mut restored, at(0), &content);
    assert_eq!(fixture.state(&restored), fixture.state(&empty));
}

fn what_was_restored_goes_on_alike<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, SOME);
    let content = snapshot(&mut machine);
    let mut restored = fixture.create();
    restore(&mut restored, at(SOME), &content);
    apply(fixture, &mut machine, SOME, 2 * SOME);
    apply(fixture, &mut restored, SOME, 2 * SOME);
    assert_eq!(fixture.state(&restored), fixture.state(&machine), "what does not show differs");
}

fn a_view_is_of_one_instant<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, SOME);
    let then = fixture.state(&machine);
    let mut view = machine.snapshot().expect("a view");
    apply(fixture, &mut machine, SOME, 2 * SOME);
    let mut restored = fixture.create();
    restore(&mut restored, at(SOME), &written(&mut *view));
    assert_eq!(fixture.state(&restored), then, "what was applied later is in it");
}

fn a_view_is_written_while_commands_are_applied<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, SOME);
    let then = fixture.state(&machine);
    let mut view = machine.snapshot().expect("a view");
    let content = std::thread::scope(|scope| {
        let writing = scope.spawn(move || written(&mut *view));
        apply(fixture, &mut machine, SOME, 4 * SOME);
        writing.join().expect("the view does not panic")
    });
    let mut restored = fixture.create();
    restore(&mut restored, at(SOME), &content);
    assert_eq!(fixture.state(&restored), then);
}

fn a_restore_replaces_what_was_there<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, 5);
    let content = snapshot(&mut machine);
    let mut used = fixture.create();
    // What it held is of a history that the snapshot's does not continue.
    apply(fixture, &mut used, 20, 20 + SOME);
    let later = SnapshotId { index: index(30 + SOME), term: 90 };
    restore(&mut used, later, &content);
    assert_eq!(fixture.state(&used), fixture.state(&machine), "something is left of before");
}

/// Gives the content in pieces of a few bytes, then an error if there is to be one.
struct Pieces<'a> {
    content: &'a [u8],
    piece: usize,
    fail: bool,
    ended: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.content.is_empty() {
            self.ended = true;
            if self.fail {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the last chunk is damaged",
                ));
            }
            return Ok(0);
        }
        self.piece = self.piece % 5 + 1;
        let len = self.piece.min(into.len()).min(self.content.len());
        let (now, later) = self.content.split_at(len);
        into[..len].copy_from_slice(now);
        self.content = later;
        Ok(len)
    }
}

fn a_restore_takes_its_content_in_pieces<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, SOME);
    let content = snapshot(&mut machine);
    let mut restored = fixture.create();
    let mut pieces = Pieces { content: &content, piece: 0, fail: false, ended: false };
    restored.restore(at(SOME), &mut pieces).expect("whole content");
    assert_eq!(fixture.state(&restored), fixture.state(&machine));
}

fn a_restore_reads_to_the_end<F: MachineFixture>(fixture: &mut F) {
    let content = snapshot(&mut after(fixture, SOME));
    let mut pieces = Pieces { content: &content, piece: 0, fail: false, ended: false };
    fixture.create().restore(at(SOME), &mut pieces).expect("whole content");
    assert!(pieces.ended, "only the end of the content tells that its last chunk is whole");
}

fn a_restore_that_fails_changes_nothing<F: MachineFixture>(fixture: &mut F) {
    let content = snapshot(&mut after(fixture, SOME));
    for cut in [0, 1, content.len() / 2, content.len().saturating_sub(1), content.len()] {
        let mut used = after(fixture, 3);
        let before = fixture.state(&used);
        let mut pieces = Pieces { content: &content[..cut], piece: 0, fail: true, ended: false };
        let restored = used.restore(at(SOME), &mut pieces);
        assert!(restored.is_err(), "the content could not be read beyond {cut} bytes");
        assert_eq!(fixture.state(&used), before, "what failed after {cut} bytes must not show");
    }
}

/// Takes so many bytes and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.0);
        self.0 -= len;
        if len == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn a_view_passes_on_its_writer_s_error<F: MachineFixture>(fixture: &mut F) {
    let mut machine = after(fixture, SOME);
    let len = snapshot(&mut machine).len();
    for room in [0, len / 2, len.saturating_sub(1)] {
        let mut view = machine.snapshot().expect("a view");
        let said = view.write_to(&mut Full(room));
        assert!(said.is_err(), "{room} bytes were taken of {len}, and it says that all were");
    }
}

fn it_never_claims_what_it_was_not_given<F: MachineFixture>(fixture: &mut F) {
    let mut machine = fixture.create();
    assert_eq!(machine.applied_index(), 0, "it holds nothing");
    for n in 0..SOME {
        apply(fixture, &mut machine, n, n + 1);
        let claimed = machine.applied_index();
        assert!(claimed <= index(n), "it says {claimed} and was given {}", index(n));
    }
    let content = snapshot(&mut machine);
    let mut restored = fixture.create();
    restore(&mut restored, at(SOME), &content);
    let claimed = restored.applied_index();
    assert!(claimed <= at(SOME).index, "it says {claimed} after a snapshot at {}", at(SOME));
}
