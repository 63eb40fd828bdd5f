//! What was acknowledged, and whether it is still there.

use crate::client::Page;
use crate::cluster::STARTS;
use crate::writers::OVER;
use crate::{Client, Failure, Outcome, eventually};
use std::collections::BTreeMap;

/// A write that the server acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) value: String,
    pub(crate) revision: i64,
}

/// What an overwritten key may hold: the value acknowledged last, or one whose writer never got an answer and which
/// came after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    pub(crate) acked: Option<Acked>,
    pub(crate) unknown: Vec<String>,
}

impl Register {
    /// Adds what the same writer saw later. A write without an answer may take effect at any later time, so those are
    /// never forgotten.
    pub(crate) fn merge(&mut self, later: Self) {
        self.acked = later.acked.or(self.acked.take());
        self.unknown.extend(later.unknown);
    }

    fn may_hold(&self, value: &str, revision: i64) -> bool {
        let newest = self.acked.as_ref().map_or(0, |acked| acked.revision);
        let acked = self
            .acked
            .as_ref()
            .is_some_and(|acked| acked.value == value && acked.revision == revision);
        acked || revision > newest && self.unknown.iter().any(|unknown| unknown == value)
    }
}

/// Every acknowledged write of one loop.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Keys that are written once.
    once: BTreeMap<String, Acked>,
    /// Keys that are written over and over, each by one writer.
    over: BTreeMap<String, Register>,
    /// The highest revision that anybody was told.
    revision: i64,
}

impl Ledger {
    pub(crate) fn once(&mut self, key: String, acked: Acked) {
        self.revision = self.revision.max(acked.revision);
        self.once.insert(key, acked);
    }

    pub(crate) fn over(&mut self, key: String, seen: Register) {
        self.revision = self.revision.max(seen.acked.as_ref().map_or(0, |acked| acked.revision));
        self.over.entry(key).or_default().merge(seen);
    }

    /// Reads everything below `prefix` and all overwritten keys, linearizably, and says what is not as it was
    /// acknowledged; one line each.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn read_back(&mut self, client: &Client, prefix: &str) -> Outcome<Vec<String>> {
        let mut problem = String::new();
        let read = eventually("a linearizable read", STARTS, || {
            let pages = client.prefix(prefix).and_then(|page| Ok((page, client.prefix(OVER)?)));
            pages.map_err(|status| problem = status.to_string()).ok()
        });
        let (page, over) = read.map_err(|failure| Failure::new(format!("{failure}: {problem}")))?;
        Ok(self.missing(prefix, &page, &over))
    }

    /// What is not as it was acknowledged, in a read of everything below `prefix` and of all overwritten keys.
    fn missing(&mut self, prefix: &str, page: &Page, over: &Page) -> Vec<String> {
        let mut lost = Vec::new();
        let there: BTreeMap<&str, (&str, i64)> = page
            .kvs
            .iter()
            .map(|kv| (kv.key.as_str(), (kv.value.as_str(), kv.mod_revision)))
            .collect();
        for (key, acked) in
            self.once.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix))
        {
            match there.get(key.as_str()) {
                Some(&(value, revision)) if value == acked.value && revision == acked.revision => {}
                found => lost.push(format!("{key} was acknowledged as {acked:?} and is {found:?}")),
            }
        }
        for (key, register) in &self.over {
            match over.kvs.iter().find(|kv| kv.key == *key) {
                Some(kv) if register.may_hold(&kv.value, kv.mod_revision) => {}
                None if register.acked.is_none() => {}
                found => lost.push(format!(
                    "{key} was acknowledged as {:?} and is {found:?}",
                    register.acked
                )),
            }
        }
        if page.revision < self.revision {
            lost.push(format!(
                "the revision went back from {} to {}",
                self.revision, page.revision
            ));
        }
        self.revision = self.revision.max(page.revision);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyValue;

    fn page(revision: i64, kvs: &[(&str, &str, i64)]) -> Page {
        let kvs = kvs.iter().map(|&(key, value, mod_revision)| KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            mod_revision,
            version: 1,
        });
        Page { revision, kvs: kvs.collect(), more: false }
    }

    fn acked(value: &str, revision: i64) -> Acked {
        Acked { value: value.to_owned(), revision }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.once("r1/a".to_owned(), acked("1", 2));
        ledger.once("r1/b".to_owned(), acked("2", 3));
        ledger.over(
            "o".to_owned(),
            Register { acked: Some(acked("x", 4)), unknown: vec!["w".to_owned()] },
        );
        ledger
    }

    #[test]
    fn what_is_all_there_is_not_lost() {
        let all = page(4, &[("r1/a", "1", 2), ("r1/b", "2", 3), ("r1/c", "never answered", 5)]);
        assert_eq!(ledger().missing("r1/", &all, &page(4, &[("o", "x", 4)])), Vec::<String>::new());
        assert_eq!(
            ledger().missing("r2/", &page(4, &[]), &page(4, &[("o", "x", 4)])),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_kind_of_loss_is_seen() {
        let whole = [("r1/a", "1", 2), ("r1/b", "2", 3)];
        let over = page(9, &[("o", "x", 4)]);
        for (what, page, over) in [
            ("a key is gone", page(4, &whole[..1]), &over),
            ("another value", page(4, &[whole[0], ("r1/b", "1", 3)]), &over),
            ("applied twice", page(4, &[whole[0], ("r1/b", "2", 5)]), &over),
            ("the revision went back", page(3, &whole), &over),
            ("an overwritten key is gone", page(4, &whole), &page(4, &[])),
            ("an older value came back", page(4, &whole), &page(4, &[("o", "w", 1)])),
        ] {
            assert_eq!(ledger().missing("r1/", &page, over).len(), 1, "{what}");
        }
    }

    #[test]
    fn a_write_without_an_answer_may_come_late() {
        let whole = page(9, &[("r1/a", "1", 2), ("r1/b", "2", 3)]);
        assert_eq!(
            ledger().missing("r1/", &whole, &page(9, &[("o", "w", 9)])),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_revision_of_an_earlier_read_counts() {
        let mut ledger = Ledger::default();
        assert!(ledger.missing("", &page(7, &[]), &page(7, &[])).is_empty());
        assert_eq!(ledger.missing("", &page(6, &[]), &page(6, &[])).len(), 1);
    }
}
