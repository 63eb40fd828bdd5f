use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const fn id(origin: u64, incarnation: u64, sequence: u64) -> ProposalId {
    ProposalId { origin, incarnation, sequence }
}

#[test]
fn each_id_is_first_once_in_any_order() {
    let mut window = Window::new();
    for sequence in [5, 1, 3, 2, 4, 0] {
        assert_eq!(window.accept(id(1, 1, sequence)), Verdict::First, "{sequence}");
    }
    for sequence in 0..=5 {
        assert_eq!(window.accept(id(1, 1, sequence)), Verdict::Duplicate, "{sequence}");
    }
    assert_eq!(window.accept(id(2, 1, 3)), Verdict::First, "origins do not meet");
}

#[test]
fn what_is_too_old_to_tell_has_no_effect() {
    let mut window = Window::new();
    assert_eq!(window.accept(id(1, 1, 10)), Verdict::First);
    assert_eq!(window.accept(id(1, 1, 10 + Window::SPAN)), Verdict::First);
    assert_eq!(window.accept(id(1, 1, 10)), Verdict::Stale);
    assert_eq!(window.accept(id(1, 1, 11)), Verdict::First, "just within");
    assert_eq!(window.accept(id(1, 1, u64::MAX)), Verdict::First, "a jump to the end");
    assert_eq!(window.accept(id(1, 1, 10 + Window::SPAN)), Verdict::Stale);
}

#[test]
fn a_new_life_replaces_the_old_one() {
    let mut window = Window::new();
    assert_eq!(window.accept(id(1, 1, 7)), Verdict::First);
    assert_eq!(window.accept(id(1, 2, 7)), Verdict::First, "another life, another count");
    assert_eq!(window.accept(id(1, 1, 8)), Verdict::Stale, "sent before its proposer died");
    assert_eq!(window.accept(id(1, 2, 7)), Verdict::Duplicate);
}

#[test]
fn a_removed_origin_is_closed_until_its_next_life() {
    let mut window = Window::new();
    window.accept(id(1, 3, 7));
    let open = window.encode().len();
    window.close(1);
    window.close(99);
    assert_eq!(window.origins(), 1, "closing nobody remembers nobody");
    assert!(window.encode().len() < open.min(20));
    assert_eq!(window.accept(id(1, 3, 8)), Verdict::Stale);
    assert_eq!(window.accept(id(1, 2, 8)), Verdict::Stale);
    assert_eq!(Window::decode(&window.encode()), Ok(window.clone()));
    assert_eq!(window.accept(id(1, 4, 1)), Verdict::First, "a rescued member lives again");
}

#[test]
fn it_stays_small_and_its_places_are_used_again() {
    let mut window = Window::new();
    for sequence in 0..50_000 {
        assert_eq!(window.accept(id(u64::MAX, 1, sequence)), Verdict::First, "{sequence}");
    }
    assert!(window.encode().len() < 2200, "{} bytes", window.encode().len());
}

#[test]
fn inconsistent_bytes_are_refused() {
    let record = |origin: u64, highest: u64, seen: &[u8], closed: bool| OriginRecord {
        origin,
        incarnation: 1,
        highest,
        seen: bytes::Bytes::copy_from_slice(seen),
        closed,
    };
    let decode = |origins: Vec<OriginRecord>| {
        Window::decode(&prost::Message::encode_to_vec(&WindowRecord { origins }))
    };
    let one = [2, 0, 0, 0, 0, 0, 0, 0];
    assert!(decode(vec![record(1, 1, &one, false)]).is_ok());
    for bad in [
        vec![record(2, 1, &one, false), record(1, 1, &one, false)],
        vec![record(1, 1, &one, false), record(1, 1, &one, false)],
        vec![record(1, 1, &one[..7], false)],
        vec![record(1, 1, &[one, [0; 8]].concat(), false)],
        vec![record(1, 1, &[1; 8 * 257], false)],
        vec![record(1, 0, &one, false)],
        vec![record(1, 1, &[6, 0, 0, 0, 0, 0, 0, 0], false)],
        vec![record(1, 1, &[], true)],
        vec![record(1, 0, &one, true)],
    ] {
        assert!(matches!(decode(bad.clone()), Err(WindowError::Inconsistent(_))), "{bad:?}");
    }
    assert!(matches!(Window::decode(b"\xff"), Err(WindowError::Malformed(_))));
}

/// The plainest window: it remembers everything.
#[derive(Default)]
struct Model {
    seen: BTreeMap<u64, (u64, BTreeSet<u64>)>,
}

impl Model {
    fn accept(&mut self, id: ProposalId) -> Verdict {
        let (incarnation, seen) = self.seen.entry(id.origin).or_default();
        if id.incarnation < *incarnation {
            return Verdict::Stale;
        }
        if id.incarnation > *incarnation {
            (*incarnation, *seen) = (id.incarnation, BTreeSet::new());
        }
        if seen
            .last()
            .is_some_and(|highest| *highest >= id.sequence && highest - id.sequence >= SPAN)
        {
            return Verdict::Stale;
        }
        if seen.insert(id.sequence) { Verdict::First } else { Verdict::Duplicate }
    }
}

proptest! {
    #[test]
    fn it_judges_like_one_that_remembers_everything(
        ids in proptest::collection::vec((1_u64..3, 1_u64..3, prop_oneof![0_u64..40, 0..3 * SPAN]), 0..200),
        restart_every in 1_usize..20,
    ) {
        let (mut window, mut model) = (Window::new(), Model::default());
        for (n, (origin, incarnation, sequence)) in ids.into_iter().enumerate() {
            let id = id(origin, incarnation, sequence);
            prop_assert_eq!(window.accept(id), model.accept(id), "{:?}", id);
            if n % restart_every == 0 {
                // A member that restored a snapshot judges like one that did not.
                let restored = Window::decode(&window.encode()).expect("just encoded");
                prop_assert_eq!(&restored, &window);
                window = restored;
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok(window) = Window::decode(&bytes) {
            prop_assert_eq!(Window::decode(&window.encode()), Ok(window));
        }
    }
}
