//! What raft-rs says through slog arrives in `log`. In a process of its own, which has one logger.

use std::sync::{Mutex, PoisonError};

use oarlock_raftnode::raft::{self, Config, RawNode};
use oarlock_raftnode::raft_logger;
use slog::{Record, Serializer};

const TARGET: &str = "raft";

type Seen = (log::Level, String, String);

/// Keeps what arrives from threads that asked for it. `log` takes one logger for the whole process.
struct Keeper(Mutex<Vec<Seen>>);

static KEEPER: Keeper = Keeper(Mutex::new(Vec::new()));

impl log::Log for Keeper {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn log(&self, record: &log::Record<'_>) {
        let seen = (record.level(), record.target().to_string(), record.args().to_string());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    fn flush(&self) {}
}

fn keep() {
    // A second call in the same process finds the logger set.
    let _ = log::set_logger(&KEEPER);
    log::set_max_level(log::LevelFilter::Info);
}

fn seen_with(text: &str) -> Vec<Seen> {
    let seen = KEEPER.0.lock().unwrap_or_else(PoisonError::into_inner);
    seen.iter().filter(|(.., line)| line.contains(text)).cloned().collect()
}

#[test]
fn what_raft_logs_arrives_with_its_values() {
    keep();
    let logger = raft_logger(slog::o!("member" => "bridged"));
    let config = Config::new(41);
    let store = raft::storage::MemStorage::new_with_conf_state((vec![41], vec![]));
    let mut node = RawNode::new(&config, store, &logger).expect("a valid configuration");
    node.campaign().expect("a sole voter");
    let leader = seen_with("became leader at term 1");
    let [(level, target, line)] = leader.as_slice() else { panic!("once: {leader:?}") };
    assert_eq!((*level, target.as_str()), (log::Level::Info, "raft"));
    assert!(line.contains("raft_id: 41") && line.contains("member: bridged"), "{line}");
}

#[test]
fn values_of_the_record_come_first_and_levels_match() {
    keep();
    let logger = raft_logger(slog::o!("outer" => 1));
    slog::warn!(logger, "levels {}", 7; "inner" => "x", "flag" => true);
    let line = "levels 7, flag: true, inner: x, outer: 1";
    let seen = seen_with("levels 7");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].0, log::Level::Warn);
    let mut parts: Vec<_> = seen[0].2.split(", ").collect();
    assert_eq!(parts.pop(), Some("outer: 1"));
    parts.sort_unstable();
    let mut expected: Vec<_> = line.split(", ").filter(|part| *part != "outer: 1").collect();
    expected.sort_unstable();
    assert_eq!(parts, expected);
}

#[test]
fn ids_are_hexadecimal_and_nothing_else_is() {
    keep();
    let logger = raft_logger(slog::o!());
    let (id, word) = (0x8e9e_05c5_2164_694d_u64, "v10276657743932975437x");
    slog::info!(logger, "ids of [{}, {}] at 0.{}", id, u64::MAX, id; "word" => word, "term" => 123_456_789_u64);
    let seen = seen_with("ids of");
    let [(.., line)] = seen.as_slice() else { panic!("once: {seen:?}") };
    assert!(
        line.starts_with("ids of [8e9e05c52164694d, ffffffffffffffff] at 0.10276657743932975437"),
        "{line}"
    );
    assert!(line.contains(word) && line.contains("term: 123456789"), "{line}");
}

#[test]
fn what_nobody_wants_is_not_formatted() {
    struct Costly;
    impl slog::Value for Costly {
        fn serialize(&self, _: &Record<'_>, _: slog::Key, _: &mut dyn Serializer) -> slog::Result {
            panic!("formatted in vain");
        }
    }
    keep();
    let logger = raft_logger(slog::o!());
    slog::debug!(logger, "unwanted"; "value" => Costly);
    assert!(seen_with("unwanted").is_empty());
}
