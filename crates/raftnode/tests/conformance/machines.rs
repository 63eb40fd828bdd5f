//! State machines that break one promise each.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;

use bytes::Bytes;
use oarlock_raftnode::testing::{MachineFixture, state_machine, state_machine_checks};
use oarlock_raftnode::{
    ApplyError, Committed, RestoreError, SnapshotId, SnapshotView, StateMachine,
};
use parking_lot::Mutex;

use crate::each_check_catches_its_bug;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    DependsOnTheInstance,
    LeavesOutKeys,
    RefusesNothing,
    LeavesOutWhatIsHidden,
    SharesItsState,
    WritesOnItsOwnThreadOnly,
    Merges,
    ReadsOnce,
    StopsWhenItHasEnough,
    ClearsFirst,
    IgnoresReadErrors,
    IgnoresWriteErrors,
    ClaimsTooMuch,
}

const BUGS: [(&str, Bug); 13] = [
    ("the same commands lead to the same state", Bug::DependsOnTheInstance),
    ("a snapshot holds the whole state", Bug::LeavesOutKeys),
    ("an empty state can be snapshotted", Bug::RefusesNothing),
    ("what was restored goes on alike", Bug::LeavesOutWhatIsHidden),
    ("a view is of one instant", Bug::SharesItsState),
    (
        "a view is written on another thread while commands are applied",
        Bug::WritesOnItsOwnThreadOnly,
    ),
    ("a restore replaces what was there", Bug::Merges),
    ("a restore takes its content in pieces", Bug::ReadsOnce),
    ("a restore reads to the end", Bug::StopsWhenItHasEnough),
    ("a restore that fails changes nothing", Bug::ClearsFirst),
    ("a restore that fails changes nothing", Bug::IgnoresReadErrors),
    ("a view passes on its writer's error", Bug::IgnoresWriteErrors),
    ("it never claims what it was not given", Bug::ClaimsTooMuch),
];

/// Keys and values, which show, and a number that every value depends on, which does not.
#[derive(Clone, Debug, Default)]
struct Content {
    hidden: u64,
    shown: BTreeMap<u64, u64>,
}

struct Machine {
    bug: Option<Bug>,
    content: Arc<Mutex<Content>>,
    instance: u64,
    applied: u64,
}

struct View {
    bug: Option<Bug>,
    content: Arc<Mutex<Content>>,
    thread: ThreadId,
}

impl StateMachine for Machine {
    type Output = u64;

    fn apply(&mut self, entry: &Committed<'_>) -> Result<u64, ApplyError> {
        let n = u64::from_be_bytes(entry.data[..].try_into()?);
        let mut content = self.content.lock();
        content.hidden = content.hidden.wrapping_mul(31).wrapping_add(n);
        let mut value = content.hidden;
        if self.bug == Some(Bug::DependsOnTheInstance) {
            value ^= self.instance;
        }
        if n % 5 == 4 {
            content.shown.remove(&(n % 13));
        } else {
            content.shown.insert(n % 13, value);
        }
        self.applied = entry.index;
        Ok(value)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        let content = match self.bug {
            Some(Bug::SharesItsState) => Arc::clone(&self.content),
            _ => Arc::new(Mutex::new(self.content.lock().clone())),
        };
        Ok(Box::new(View { bug: self.bug, content, thread: std::thread::current().id() }))
    }

    fn restore(&mut self, _: SnapshotId, from: &mut dyn Read) -> Result<(), RestoreError> {
        if self.bug == Some(Bug::ClearsFirst) {
            *self.content.lock() = Content::default();
        }
        let mut text = String::new();
        match self.bug {
            Some(Bug::ReadsOnce) => {
                let mut buffer = vec![0; 1 << 20];
                let len = from.read(&mut buffer)?;
                text = String::from_utf8(buffer[..len].to_vec())?;
            }
            Some(Bug::StopsWhenItHasEnough) => {
                let mut from = BufReader::with_capacity(1, from);
                from.read_line(&mut text)?;
                let lines: usize =
                    text.split(' ').next().unwrap_or("0").trim().parse().unwrap_or(0);
                for _ in 0..lines {
                    from.read_line(&mut text)?;
                }
            }
            Some(Bug::IgnoresReadErrors) => drop(from.read_to_string(&mut text)),
            _ => drop(from.read_to_string(&mut text)?),
        }
        let mut lines = text.lines();
        let mut restored = Content::default();
        if let Some((_, hidden)) = lines.next().and_then(|first| first.split_once(' ')) {
            restored.hidden = hidden.parse()?;
        } else if self.bug == Some(Bug::RefusesNothing) {
            return Err("there is nothing in it".into());
        }
        for line in lines {
            let (key, value) = line.split_once(' ').ok_or("no value")?;
            restored.shown.insert(key.parse()?, value.parse()?);
        }
        let mut content = self.content.lock();
        if self.bug == Some(Bug::Merges) {
            content.shown.append(&mut restored.shown);
        } else {
            *content = restored;
        }
        Ok(())
    }

    fn applied_index(&self) -> u64 {
        if self.bug == Some(Bug::ClaimsTooMuch) { self.applied + 1 } else { 0 }
    }
}

impl SnapshotView for View {
    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
        if self.bug == Some(Bug::WritesOnItsOwnThreadOnly)
            && self.thread != std::thread::current().id()
        {
            return Err(io::Error::other("on the wrong thread"));
        }
        let Content { mut hidden, mut shown } = self.content.lock().clone();
        if hidden == 0 && shown.is_empty() {
            return Ok(());
        }
        if self.bug == Some(Bug::LeavesOutKeys) {
            shown.retain(|key, _| key % 2 == 0);
        }
        if self.bug == Some(Bug::LeavesOutWhatIsHidden) {
            hidden = 0;
        }
        let mut write = || {
            writeln!(to, "{} {hidden}", shown.len())?;
            shown.iter().try_for_each(|(key, value)| writeln!(to, "{key} {value}"))
        };
        match (self.bug, write()) {
            (Some(Bug::IgnoresWriteErrors), _) => Ok(()),
            (_, written) => written,
        }
    }
}

struct Fixture(Option<Bug>);

impl MachineFixture for Fixture {
    type Machine = Machine;
    type State = BTreeMap<u64, u64>;

    fn create(&mut self) -> Machine {
        static INSTANCES: AtomicU64 = AtomicU64::new(0);
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        Machine { bug: self.0, content: Arc::default(), instance, applied: 0 }
    }

    fn command(&self, n: u64) -> Bytes {
        (n + 1).to_be_bytes().to_vec().into()
    }

    fn state(&self, machine: &Machine) -> BTreeMap<u64, u64> {
        machine.content.lock().shown.clone()
    }
}

#[test]
fn a_machine_without_a_bug_passes() {
    state_machine(&mut Fixture(None));
}

#[test]
fn each_check_of_a_machine_catches_what_breaks_its_promise() {
    each_check_catches_its_bug(&state_machine_checks(), &BUGS, Fixture);
}
