//! Every state that a crash can leave, one by one: each workload is crashed after each of its writes, syncs and changes
//! of names, with every subset of what was not synced (old, new, zeros, garbage) where these are few, and many of them
//! where they are not; some recoveries are crashed in the same way, and the recoveries from those.
//!
//! `cargo xtask crash-states` tries two million. `OARLOCK_STATES` is how many, over all workloads; `OARLOCK_SEED` where
//! the seeds begin; `OARLOCK_STATE` one that failed.

#![expect(clippy::print_stdout, reason = "counts are for whoever started it")]

mod checker;
mod player;
mod workloads;

use checker::{Checker, Crash};
use player::Player;

/// How many states are tried by default, which is in a debug build.
const STATES: u64 = 1_600;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// A state that failed: workload, seed, crashes.
fn replay() -> Option<(String, u64, Vec<Crash>)> {
    let text = std::env::var("OARLOCK_STATE").ok()?;
    let words: Vec<&str> = text.split('/').collect();
    let [workload, seed, crashes @ ..] = &words[..] else { panic!("{text:?} is no state") };
    let crashes = crashes.chunks(2).map(|pair| pair.join("/").parse().expect("a crash"));
    Some((workload.to_string(), seed.parse().expect("a seed"), crashes.collect()))
}

fn enumerate(workload: &str) {
    let &(name, play) =
        workloads::ALL.iter().find(|(name, _)| *name == workload).expect("a workload");
    let share = number("OARLOCK_STATES", STATES).div_ceil(workloads::ALL.len() as u64);
    let play = |seed: u64| {
        let mut player = Player::new(seed, workloads::first_segment(name));
        play(&mut player);
        player.story()
    };
    if let Some((wanted, seed, crashes)) = replay() {
        if wanted == name {
            let mut checker = Checker::new(u64::MAX, Some(crashes));
            checker.name = format!("{name}/{seed}");
            checker.story(&play(seed), 0, seed);
            println!("replayed {name}/{seed}: {:?}", checker.counts);
        }
        return;
    }
    let mut checker = Checker::new(share, None);
    let first = number("OARLOCK_SEED", 0);
    let (mut seeds, mut barren) = (0, 0);
    for seed in first.. {
        let story = play(seed);
        let points = story.disk.crash_points().count() as u64;
        // Several seeds each, and of each point as much as that leaves.
        let most = (share / (4 * points)).clamp(12, 1024) as usize;
        checker.name = format!("{name}/{seed}");
        let before = checker.counts.states;
        checker.story(&story, most, seed);
        seeds += 1;
        // Two seeds may tell the same story; many in a row mean that there is no other.
        barren = if checker.counts.states > before { 0 } else { barren + 1 };
        assert!(barren < 16, "nothing new in 16 seeds up to {}", checker.name);
        if checker.done() {
            break;
        }
    }
    let checker::Counts { states, points, nested, torn, rewritten } = checker.counts;
    println!(
        "states: {name}: {states} of {seeds} seeds and {points} crash points; {nested} inside a recovery, \
         {torn} torn, {rewritten} rewritten"
    );
    assert!(torn + rewritten > states / 20, "hardly anything was in doubt");
}

macro_rules! workloads {
    ($($test:ident: $workload:literal;)*) => {
        $(#[test]
        fn $test() {
            enumerate($workload);
        })*

        #[test]
        fn every_workload_is_enumerated() {
            assert_eq!(workloads::ALL.map(|(name, _)| name), [$($workload),*]);
        }
    };
}

workloads! {
    append_survives_every_crash: "append";
    batches_of_several_frames_survive_every_crash: "frames";
    vectored_writes_survive_every_crash: "vectored";
    rolls_survive_every_crash: "roll";
    unprepared_rolls_survive_every_crash: "roll-unprepared";
    overwriting_survives_every_crash: "overwrite";
    overwriting_across_segments_survives_every_crash: "overwrite-across";
    releasing_survives_every_crash: "release";
    recycling_survives_every_crash: "recycle";
    compacting_survives_every_crash: "compact";
    installing_survives_every_crash: "install";
    snapshots_survive_every_crash: "snapshot";
    sealing_survives_every_crash: "seal";
    idle_marks_survive_every_crash: "idle";
    closing_survives_every_crash: "reopen";
    killed_processes_survive_every_crash: "kill";
    filling_the_disk_survives_every_crash: "full";
    second_lives_survive_every_crash: "second-life";
}
