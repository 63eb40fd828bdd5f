//! Every way to begin, on every store, through crashes, faults and damage.

mod checks;
mod life;
mod passes;
mod place;
#[path = "../support/read_through.rs"]
mod read_through;
mod standalone;
mod welcome;

use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, BootError, Metadata, Recovered, boot, is_initialised};
use oarlock_raftnode::membership::{Change, Cluster, Member};
use oarlock_raftnode::raft::eraftpb::EntryType;
use oarlock_raftnode::{LogStore, MemSnapshots, MemStore};

use place::{Place, founders, on_every_store};

/// What etcd's first start writes: an AddNode per founder, of term 1, all committed.
#[test]
fn founding_writes_one_entry_per_founder() {
    on_every_store(|place| {
        let cluster = founders(3);
        let id = cluster.members().next().expect("three").id;
        let first = place.boot(&Boot::New { id, cluster: cluster.clone() }).expect("empty");
        assert_eq!((first.id, first.incarnation, first.rescue_epoch), (id, 1, 0));
        assert_eq!((first.first_index, first.last_index, first.applied()), (1, 3, 0));
        let state = &first.hard_state;
        assert_eq!((state.term, state.vote, state.commit), (1, 0, 3));
        assert_eq!(first.cluster, Cluster::new(cluster.id()), "empty: a joiner replays the same");
        assert_eq!(first.contacts, cluster.members().cloned().collect::<Vec<_>>());
        assert!(first.birth != 0 && first.snapshot.is_none());

        let entries = place.entries();
        assert!(entries.iter().all(|e| e.get_entry_type() == EntryType::EntryConfChange));
        place.crash();
        let again = place.boot(&Boot::Restart).expect("all of it was synced");
        assert_eq!((again.id, again.incarnation, again.birth), (id, 2, first.birth));
        assert_eq!((again.hard_state.commit, again.last_index), (3, 3));
        assert_eq!(again.contacts, first.contacts);
        assert_eq!(place.entries(), entries);
    });
}

#[test]
fn joining_writes_only_whose_log_it_is() {
    on_every_store(|place| {
        let mut cluster = founders(3);
        let joiner = Member::joining(["http://127.0.0.1:4"], 1);
        cluster.apply(&Change::AddLearner(joiner.clone())).expect("new");
        let boot = Boot::Join { id: joiner.id, cluster: cluster.clone() };
        let first = place.boot(&boot).expect("empty");
        assert_eq!((first.first_index, first.last_index, first.hard_state.term), (1, 0, 0));
        assert_eq!(first.cluster.id(), cluster.id());
        assert_eq!(first.contacts.len(), 4, "whom to dial before the log tells");
        place.crash();
        let again = place.boot(&Boot::Restart).expect("it may crash before it hears of anything");
        assert_eq!((again.id, again.incarnation, again.contacts.len()), (joiner.id, 2, 4));
    });
}

#[test]
fn each_start_is_a_new_life_of_the_same_birth() {
    on_every_store(|place| {
        let first = place.found(1);
        for incarnation in 2..6 {
            if incarnation % 2 == 0 {
                place.crash();
            }
            let next = place.boot(&Boot::Restart).expect("as it was");
            assert_eq!((next.incarnation, next.birth), (incarnation, first.birth));
        }
    });
    let births: std::collections::BTreeSet<_> =
        (0..50).map(|_| Place::memory().found(1).birth).collect();
    assert_eq!(births.len(), 50, "another directory is another birth");
}

/// A power cut after every single change to the disk, in each of several guises.
#[test]
fn a_crash_at_any_step_of_a_boot_leaves_a_log_that_boots() {
    let mut cuts = 0;
    for guise in 0..6 {
        for cut in 0.. {
            let mut place = Place::disk();
            let found = Boot::New {
                id: founders(3).members().next().expect("three").id,
                cluster: founders(3),
            };
            place.cut_power_after(cut);
            let first = place.try_boot(&found).ok();
            let mut spared = place.untouched_by_the_cut();
            place.reboot(guise);
            let whole = place.log_is_initialised();
            assert!(
                first.is_none() || whole,
                "cut {cut}, guise {guise}: a boot that returned is durable"
            );
            if !whole {
                place
                    .boot(&found)
                    .unwrap_or_else(|error| panic!("cut {cut}, guise {guise}: {error}"));
            }
            let before = place.metadata().incarnation;

            // And the next start, too.
            place.cut_power_after(cut);
            let second = place.try_boot(&Boot::Restart).ok();
            spared &= place.untouched_by_the_cut();
            place.reboot(guise);
            let third = place.boot(&Boot::Restart);
            let third = third.unwrap_or_else(|error| panic!("cut {cut}, guise {guise}: {error}"));
            assert!(third.incarnation > before, "cut {cut}, guise {guise}: a life was used twice");
            assert!(second.is_none_or(|second| second.incarnation < third.incarnation));
            assert_eq!(
                (third.last_index, third.hard_state.commit),
                (3, 3),
                "cut {cut}, guise {guise}"
            );
            if spared {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 30, "only {cuts} cuts: nothing was tested");
}

/// A process that dies between write and sync; what the disk keeps is its own affair.
#[test]
fn an_unsynced_boot_is_there_whole_or_not_at_all() {
    for kept in 0..=1 {
        let mut log = MemStore::new();
        let snapshots = MemSnapshots::new();
        let cluster = founders(3);
        let id = cluster.members().next().expect("three").id;
        log.fail_next_sync();
        let found = Boot::New { id, cluster };
        assert!(matches!(boot(&mut log, &snapshots, &found), Err(BootError::Log(_))));
        let mut log = log.crash_keeping(kept);
        let kept = kept == 1;
        assert_eq!(is_initialised(&log).expect("readable"), kept);
        let next = if kept { Boot::Restart } else { found };
        let recovered = boot(&mut log, &snapshots, &next).expect("as before, or as after");
        assert_eq!(recovered.last_index, 3);
    }
}

#[test]
fn metadata_reads_back_or_is_an_error() {
    let metadata = Metadata {
        id: 1,
        cluster_id: 2,
        birth: 3,
        incarnation: 4,
        rescue_epoch: 5,
        contacts: founders(2).members().cloned().collect(),
        promised: Duration::from_millis(500),
    };
    assert_eq!(Metadata::decode(metadata.encode()), Ok(metadata.clone()));
    let encoded = metadata.encode();
    for len in 0..encoded.len() {
        // Cut off between two fields it may still be protobuf; it is never another member's.
        if let Ok(shorter) = Metadata::decode(encoded.slice(..len)) {
            assert_eq!((shorter.id, shorter.birth), (1, 3));
        }
    }
    for broken in [
        Metadata { id: 0, ..metadata.clone() },
        Metadata { cluster_id: 0, ..metadata.clone() },
        Metadata { birth: 0, ..metadata.clone() },
        Metadata { incarnation: 0, ..metadata },
    ] {
        assert!(Metadata::decode(broken.encode()).is_err(), "{broken:?}");
    }
}

/// The store's own failure passes through as it is, and nothing is half done.
#[test]
fn a_full_disk_is_told_as_such() {
    let mut log = MemStore::new();
    log.set_full(true);
    let cluster = founders(1);
    let id = cluster.members().next().expect("one").id;
    let found = Boot::New { id, cluster };
    let result: Result<Recovered, _> = boot(&mut log, &MemSnapshots::new(), &found);
    assert!(matches!(result, Err(BootError::Log(oarlock_raftnode::LogError::NoSpace { .. }))));
    assert_eq!(log.state().expect("readable").metadata, "");
    log.set_full(false);
    boot(&mut log, &MemSnapshots::new(), &found).expect("there is room now");
}
