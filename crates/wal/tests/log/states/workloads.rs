//! What is crashed: one thing that the log does in each, its sizes drawn from the seed.

use super::player::Player;
use crate::util::SMALL;

/// A name, and the workload.
pub(crate) type Workload = (&'static str, fn(&mut Player));

/// The size of a workload's first segment.
pub(crate) fn first_segment(workload: &str) -> u64 {
    if workload == "vectored" { 4 * SMALL } else { SMALL }
}

pub(crate) const ALL: [Workload; 18] = [
    ("append", append),
    ("frames", frames),
    ("vectored", vectored),
    ("roll", roll),
    ("roll-unprepared", roll_unprepared),
    ("overwrite", overwrite),
    ("overwrite-across", overwrite_across),
    ("release", release),
    ("recycle", recycle),
    ("compact", compact),
    ("install", install),
    ("snapshot", snapshot),
    ("seal", seal),
    ("idle", idle),
    ("reopen", reopen),
    ("kill", kill),
    ("full", full),
    ("second-life", second_life),
];

/// About a segment's worth of entries.
const SEGMENT: (u64, usize) = (11, 1600);

fn fill(p: &mut Player) {
    let (count, len) = SEGMENT;
    let odd = p.rng.usize(..100);
    p.more(count, len + odd);
}

fn append(p: &mut Player) {
    for _ in 0..6 {
        let (count, len) = (p.rng.u64(1..5), [0, 7, 30, 600][p.rng.usize(..4)]);
        p.more(count, len);
        if p.rng.u8(..3) > 0 {
            p.sync();
        }
    }
    p.sync();
    p.state();
    p.sync();
}

fn frames(p: &mut Player) {
    for _ in 0..4 {
        let (count, len) = (p.rng.u64(1..4), p.rng.usize(..400));
        p.everything(count, len);
        if p.rng.bool() {
            p.sync();
        }
    }
    p.install(3, 2, "conf");
    p.sync();
    p.everything(2, 100);
}

/// Batches so large that payloads are written from where they are.
fn vectored(p: &mut Player) {
    let odd = p.rng.usize(..900);
    p.more(20, 3300 + odd);
    if p.rng.bool() {
        p.sync();
    }
    p.overwrite(2, 1);
    p.sync();
    p.more(1, 20);
}

fn roll(p: &mut Player) {
    p.prepare();
    for _ in 0..3 {
        fill(p);
        if p.rng.bool() {
            p.sync();
        }
        p.more(1, 40);
        if p.rng.bool() {
            p.sync();
            p.prepare();
            p.finish();
        }
    }
    p.sync();
}

fn roll_unprepared(p: &mut Player) {
    for _ in 0..2 {
        fill(p);
        p.more(2, 900);
        if p.rng.bool() {
            p.sync();
        }
    }
    p.sync();
    p.finish();
    p.idle();
}

fn overwrite(p: &mut Player) {
    p.more(5, 60);
    p.sync();
    for _ in 0..4 {
        let (back, count) = (p.rng.u64(..5), p.rng.u64(1..4));
        p.overwrite(back, count);
        if p.rng.bool() {
            p.sync();
        }
        p.more(2, 50);
    }
    p.sync();
}

fn overwrite_across(p: &mut Player) {
    p.prepare();
    fill(p);
    p.sync();
    fill(p);
    // What is overwritten may be in a footer by then, or be about to go into one.
    if p.rng.u8(..4) > 0 {
        p.sync();
    }
    if p.rng.bool() {
        p.finish();
    }
    let back = p.rng.u64(8..20);
    p.overwrite(back, 3);
    if p.rng.bool() {
        p.sync();
    }
    p.finish();
    fill(p);
    fill(p);
    p.sync();
    p.finish();
    p.idle();
}

fn release(p: &mut Player) {
    p.prepare();
    for _ in 0..3 {
        fill(p);
        p.sync();
    }
    p.finish();
    let back = p.rng.u64(..12);
    p.compact(back, "conf");
    if p.rng.bool() {
        p.more(1, 10);
    }
    p.release(p.covered() + 1);
    p.more(2, 30);
    p.sync();
    p.compact(0, "conf");
    p.release(p.covered() + 1);
}

/// Released segments come back as new ones, again and again.
fn recycle(p: &mut Player) {
    for _ in 0..5 {
        p.prepare();
        fill(p);
        if p.rng.bool() {
            p.more(3, 200);
        }
        p.sync();
        p.compact(1, "conf");
        p.release(p.covered());
        p.finish();
        if p.rng.u8(..4) == 0 {
            p.idle();
        }
    }
    p.overwrite(1, 2);
    p.sync();
    assert!(p.recycled() > 1, "nothing was recycled");
    if p.rng.bool() {
        p.more(4, 300);
        p.kill(); // a torn tail over old frames, or what looks like one
        p.more(3, 500);
    }
    p.prepare();
    fill(p);
    p.more(2, 700);
    p.finish();
}

fn compact(p: &mut Player) {
    let (count, len) = (p.rng.u64(5..20), p.rng.usize(..500));
    p.more(count, len);
    p.compact(4, "one");
    p.sync();
    p.more(2, len / 2);
    p.compact(1, "two");
    p.overwrite(1, 2);
    p.sync();
    p.compact(0, "three");
}

fn install(p: &mut Player) {
    p.more(6, 80);
    p.sync();
    let ahead = p.rng.i64(-4..4);
    p.install(ahead, 0, "conf");
    if p.rng.bool() {
        p.sync();
    }
    p.more(2, 40);
    fill(p);
    p.sync();
    let ahead = p.rng.i64(-9..9);
    let count = p.rng.u64(..3);
    p.install(ahead, count, "conf");
    p.more(1, 10);
    p.sync();
    p.release(p.covered() + 1);
    p.finish();
    p.more(1, 10);
}

/// With the files that the marks stand for.
fn snapshot(p: &mut Player) {
    fill(p);
    p.sync();
    p.more(2, 30);
    let back = p.rng.u64(..3);
    p.snapshot(back);
    fill(p);
    p.snapshot(1);
    p.receive(5, 1);
    p.more(2, 60);
    if p.rng.bool() {
        p.sync();
    }
    p.snapshot(0);
    p.kill();
    p.more(1, 20);
    p.snapshot(0);
}

/// Segments that were left get their footers, one after the other, and are read by them.
fn seal(p: &mut Player) {
    for _ in 0..3 {
        fill(p);
        if p.rng.u8(..4) == 0 {
            let count = p.rng.u64(..3);
            p.install(2, count, "conf");
        }
        if p.rng.bool() {
            p.sync();
        }
    }
    p.more(1, 10);
    p.sync();
    p.finish();
    let back = p.rng.u64(..25);
    p.overwrite(back, 2);
    if p.rng.bool() {
        p.reopen();
    }
    fill(p);
    fill(p);
    p.sync();
    p.finish();
    if p.rng.bool() {
        p.kill();
    } else {
        p.close();
    }
}

fn idle(p: &mut Player) {
    for _ in 0..5 {
        let count = p.rng.u64(1..4);
        p.more(count, 100);
        if p.rng.u8(..4) > 0 {
            p.sync();
        }
        p.idle();
    }
    p.prepare();
    fill(p);
    p.idle();
    p.sync();
    p.idle();
    p.finish();
    p.prepare();
}

/// Clean closes, and what is done in between.
fn reopen(p: &mut Player) {
    for _ in 0..4 {
        let count = p.rng.u64(1..6);
        p.more(count, 300);
        if p.rng.bool() {
            p.sync();
        }
        if p.rng.u8(..3) == 0 {
            fill(p);
        }
        p.reopen();
    }
    p.reopen();
    p.overwrite(2, 1);
    p.close();
}

/// Processes that die with bytes in the page cache.
fn kill(p: &mut Player) {
    for _ in 0..4 {
        let count = p.rng.u64(1..6);
        p.more(count, 200);
        if p.rng.bool() {
            p.sync();
        }
        if p.rng.u8(..3) == 0 {
            p.prepare();
            fill(p);
        }
        p.kill();
        if p.rng.bool() {
            p.more(1, 10);
        }
    }
    p.sync();
}

fn full(p: &mut Player) {
    p.more(3, 100);
    p.sync();
    if p.rng.bool() {
        p.prepare();
    }
    p.full();
    let mut refused = 0;
    while refused < 2 {
        let len = p.rng.usize(..1500);
        let spec = p.next(6, len);
        if p.try_append(spec) {
            p.sync();
        } else {
            refused += 1;
        }
    }
    p.idle();
    p.finish();
    p.room();
    fill(p);
    p.sync();
}

/// A crash, and then more of everything: what recoveries made is crashed again.
fn second_life(p: &mut Player) {
    p.prepare();
    fill(p);
    p.sync();
    p.more(4, 700);
    if p.rng.bool() {
        fill(p);
    }
    p.overwrite(3, 2);
    let seed = p.rng.u64(..);
    p.power_cut(seed);
    p.more(2, 300);
    p.sync();
    fill(p);
    p.compact(2, "conf");
    if p.rng.bool() {
        p.release(p.covered());
    }
    p.finish();
    p.more(1, 10);
    p.reopen();
    p.more(1, 10);
}
