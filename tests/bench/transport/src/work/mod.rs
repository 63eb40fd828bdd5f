//! The workloads.

mod heartbeat;
mod one_way;

use oarlock_bench_harness::Bench;

pub(crate) const BENCH: Bench = Bench {
    name: "transport",
    title: "oarlock-transport beside plain TCP",
    about: "Both ends are in one process on the loopback, so sender, receiver and the kernel share its cores: figures \
            are of processor time and system calls, not of a network. The floor is a plain TCP connection, written and \
            read by one thread each, in the same run; it has no frames, checksums, queues or lanes. Only ratios within \
            one run mean anything.",
    works: &[one_way::MESSAGES, one_way::APPENDS, heartbeat::HEARTBEAT],
    child: |_| Err("there are no children".into()),
};
