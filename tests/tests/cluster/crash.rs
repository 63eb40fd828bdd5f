//! `cargo xtask crash`, short.

use oarlock_tests::{CrashOptions, Failure, Outcome, Scratch, crash_loop, scenario, server_binary};

fn short(scratch: &Scratch, members: usize, rounds: u32) -> Outcome {
    let seed = fastrand::u64(..);
    let again = format!(
        "cargo xtask crash --members {members} --rounds {rounds} --writers 8 --seed {seed}"
    );
    let options = CrashOptions { server: server_binary()?, rounds, members, writers: 8, seed };
    let report = crash_loop(scratch.path(), &options, &mut |line| eprintln!("{line}"))
        .map_err(|failure| Failure::new(format!("{again}: {failure}")))?;
    assert!(report.lost.is_empty(), "{again}\n{}", report.lost.join("\n"));
    assert!(report.acked > 0, "{again}: nothing was acknowledged");
    eprintln!("acked {}, unknown {}, lost 0", report.acked, report.unknown);
    Ok(())
}

#[test]
fn kill_9_of_one_member_loses_nothing() {
    scenario("crash-1", |scratch| short(scratch, 1, 6));
}

#[test]
fn kill_9_of_one_or_all_of_three_loses_nothing() {
    scenario("crash-3", |scratch| short(scratch, 3, 4));
}
