//! Any sequence of operations, reopenings and crashes included, against the plain model.

use oarlock_wal::testing::{SimDisk, Unsynced};
use oarlock_wal::{Error, HardState, Recovery, SnapshotMark};
use proptest::prelude::*;

use crate::util::{DIR, Model, SMALL, Spec, large, options, reopen};

/// Raw numbers; what they mean depends on the state they meet.
#[derive(Clone, Debug)]
enum Op {
    Append {
        back: u64,
        count: u64,
        len: usize,
        state: bool,
        metadata: bool,
    },
    Compact {
        back: u64,
    },
    Install {
        ahead: u64,
        count: u64,
    },
    Release {
        back: u64,
    },
    /// Down to so many segments.
    Retain {
        segments: u64,
    },
    Sync,
    Prepare,
    Finish,
    Idle,
    /// Closed, and opened again by footers or by frames.
    Close {
        verify: bool,
    },
    Kill {
        verify: bool,
    },
    /// Opened by somebody beside, who only reads.
    Beside,
    PowerCut(u64),
    Wrong(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let append = (0_u64..6, 1_u64..12, 0_usize..1500, any::<bool>(), any::<bool>());
    prop_oneof![
        8 => append.prop_map(|(back, count, len, state, metadata)| Op::Append {
            back: back.saturating_sub(3), count, len, state, metadata
        }),
        2 => (0_u64..20).prop_map(|back| Op::Compact { back }),
        1 => (0_u64..9, 0_u64..3).prop_map(|(ahead, count)| Op::Install { ahead, count }),
        2 => (0_u64..9).prop_map(|back| Op::Release { back }),
        1 => (1_u64..5).prop_map(|segments| Op::Retain { segments }),
        2 => Just(Op::Sync),
        1 => Just(Op::Prepare),
        1 => Just(Op::Finish),
        1 => Just(Op::Idle),
        1 => any::<bool>().prop_map(|verify| Op::Close { verify }),
        1 => any::<bool>().prop_map(|verify| Op::Kill { verify }),
        1 => Just(Op::Beside),
        1 => any::<u64>().prop_map(Op::PowerCut),
        1 => (0_u8..6).prop_map(Op::Wrong),
    ]
}

fn term_of(model: &Model, index: u64) -> Option<u64> {
    let marked = model.mark.as_ref().filter(|mark| mark.index == index).map(|mark| mark.term);
    model.entries.get(&index).map(|e| e.term).or(marked)
}

/// What a well-behaved owner would write for this operation.
fn spec_of(op: &Op, model: &Model, term: u64) -> Option<Spec> {
    let covered = model.mark.as_ref().map_or(0, |mark| mark.index);
    match *op {
        Op::Append { back, count, len, state, metadata } => {
            let first = (model.last + 1).saturating_sub(back).max(covered + 1);
            Some(Spec {
                entries: large(first..first + count, term, len),
                hard_state: state.then_some(HardState { term, vote: back, commit: covered }),
                metadata: metadata.then(|| format!("{term} {len}").into()),
                ..Spec::default()
            })
        }
        Op::Compact { back } => {
            let index = model.last.saturating_sub(back).max(covered);
            let term = term_of(model, index)?;
            let mark = SnapshotMark::new(index, term, format!("conf {index}"));
            Some(Spec { compact: Some(mark), ..Spec::default() })
        }
        Op::Install { ahead, count } => {
            let index = covered.max((model.last + ahead).saturating_sub(4));
            let mark = SnapshotMark::new(index, term, "installed");
            let entries = large(index + 1..index + 1 + count, term, 50);
            Some(Spec { install: Some(mark), entries, ..Spec::default() })
        }
        _ => None,
    }
}

/// `PROPTEST_CASES` asks for more, or less.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_log_says_what_the_model_says(ops in prop::collection::vec(op(), 1..60)) {
        let mut disk = SimDisk::new();
        let mut log = options(&disk).create(DIR, b"me").expect("creates");
        let first = Model { metadata: "me".into(), released: 1, ..Model::default() };
        // The states since the last one that was promised, and the present one last.
        let mut since = vec![first];
        for (number, op) in ops.iter().enumerate() {
            let mut model = since.last().expect("has one").clone();
            if let Some(spec) = spec_of(op, &model, 1 + number as u64) {
                let ticket = log.append(&spec.batch()).expect("a valid batch");
                prop_assert!(ticket <= log.append(&Spec::default().batch()).expect("empty"));
                model.apply(&spec);
                since.push(model);
            } else {
                let covered = model.mark.as_ref().map_or(0, |mark| mark.index);
                let (first, last) = (log.first_index(), log.last_index());
                match *op {
                    Op::Release { back } => {
                        let before = (covered + 1).saturating_sub(back);
                        log.release(before).expect("covered");
                        prop_assert!(log.first_index() <= first.max(before));
                        model.released = model.released.max(before);
                        since = vec![model];
                    }
                    Op::Sync => {
                        log.sync().expect("syncs");
                        since = vec![model];
                    }
                    Op::Retain { segments } => {
                        let size = segments * SMALL;
                        log.release_to_size(size).expect("releases what is covered");
                        prop_assert!(log.first_index() <= first.max(covered + 1));
                        // One more may have to stand for the entry before the first when it is opened again.
                        let wanted = (log.first_index() + 1).min(covered + 1);
                        model.released = model.released.max(wanted);
                        since = vec![model];
                    }
                    Op::Prepare => drop(log.prepare().expect("prepares")),
                    Op::Finish => drop(log.finish_segment().expect("finishes")),
                    Op::Idle => drop(log.idle().expect("marks")),
                    Op::Beside => {
                        let beside = options(&disk).open_read_only(DIR).expect("whole");
                        // Of what was released, one entry more may be gone for whoever has only the disk to go by.
                        let begin = beside.first_index();
                        prop_assert!(first <= begin && begin <= model.released.max(first));
                        prop_assert_eq!(beside.last_index(), last);
                        prop_assert_eq!(&beside.metadata(), &log.metadata());
                        prop_assert_eq!(beside.hard_state(), log.hard_state());
                        prop_assert_eq!(beside.snapshot(), log.snapshot());
                        let read = beside.entries(begin..last + 1, u64::MAX).expect("whole");
                        prop_assert_eq!(read, log.entries(begin..last + 1, u64::MAX).expect("whole"));
                    }
                    Op::Close { verify } => {
                        log.close().expect("closes");
                        let read = options(&disk).open_read_only(DIR).expect("opens");
                        prop_assert_eq!(&read.recovery().damaged_footers[..], []);
                        log = options(&disk).verify(verify).open(DIR).expect("opens");
                        let Recovery { torn, rewritten, .. } = log.recovery();
                        prop_assert_eq!((torn, *rewritten), (&None, 0));
                        since = vec![model];
                    }
                    Op::Kill { verify } => {
                        disk = disk.kill();
                        log = options(&disk).verify(verify).open(DIR).expect("opens");
                        since = vec![model];
                    }
                    Op::PowerCut(seed) => {
                        disk = disk.reboot(Unsynced::Random(seed));
                        log = reopen(&disk).expect("opens");
                        let (released, states) = (model.released, since.clone());
                        let found = states.into_iter().rev().find_map(|state| {
                            let state = Model { released, ..state };
                            state.difference(&log).is_none().then_some(state)
                        });
                        prop_assert!(found.is_some(), "lost or invented something");
                        since = found.into_iter().collect();
                    }
                    Op::Wrong(which) => {
                        let gap = Spec::of(large(last + 2..last + 3, 1, 1));
                        let below = Spec::of(large(covered..covered + 1, 1, 1));
                        let mut hole = Spec::of(large(last + 1..last + 4, 1, 1));
                        hole.entries.remove(1);
                        let mark = |index| Some(SnapshotMark::new(index, 1, ""));
                        let beyond = Spec { compact: mark(last + 1), ..Spec::default() };
                        let term = Spec::of(large(last + 1..last + 2, 1 << 56, 1));
                        let huge = Spec::of(large(last + 1..last + 2, 1, 20_480));
                        let specs = [gap, below, hole, beyond, term, huge];
                        let refused = log.append(&specs[which as usize].batch());
                        let expected = match which {
                            0..=2 => matches!(refused, Err(Error::Gap { .. })),
                            3 => matches!(refused, Err(Error::MarkOutOfRange { .. })),
                            4 => matches!(refused, Err(Error::TermTooLarge { .. })),
                            _ => matches!(refused, Err(Error::TooLarge { .. })),
                        };
                        prop_assert!(expected, "{refused:?}");
                        let refused = log.release(covered + 2);
                        prop_assert!(matches!(refused, Err(Error::NotCovered { .. })), "{refused:?}");
                    }
                    _ => {} // a mark that the model has no term for
                }
            }
            let difference = since.last().expect("has one").difference(&log);
            prop_assert_eq!(difference, None, "after operation {} of {:?}", number, ops);
        }
    }
}
