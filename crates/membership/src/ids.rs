use crate::change::{UnreadableChange, raft_change};
use crate::record::ConfState;
use crate::{Configuration, ConfigurationError, EntryView};

/// The configuration after `entries`, starting from `conf`, the one of the snapshot before them (or an empty one).
///
/// This is etcd's `getIDs` with the whole of raft's rules: both forms of conf changes, learners, joint
/// configurations entered and left. A change that raft refuses changes nothing, as it did when it was applied.
/// [`Configuration::ids`] gives the one ordered set that `getIDs` returns.
///
/// What an apply loop refused for reasons of its own (a removed id, a URL in use) cannot be seen from here; a
/// [`StandalonePlan`](crate::StandalonePlan) takes that into account.
///
/// # Errors
/// [`UnreadableChange`] when an entry cannot be decoded or has numbers that this version does not know, and, as
/// index 0, when `conf` itself is no legal configuration.
///
/// ```
/// use oarlock_membership::record::ConfState;
/// use oarlock_membership::{Change, ChangeEntry, EntryView, Member, ids_from};
///
/// let (kind, data) = ChangeEntry::new(Change::AddLearner(Member { id: 4, ..Member::default() })).encode();
/// let snapshot = ConfState { voters: vec![1, 2], ..ConfState::default() };
/// let after = ids_from(&snapshot, [EntryView { index: 8, term: 2, kind, data: &data }])?;
/// assert_eq!(Vec::from_iter(after.ids()), [1, 2, 4]);
/// assert_eq!(after.to_conf_state().learners, [4]);
/// # Ok::<(), oarlock_membership::UnreadableChange>(())
/// ```
pub fn ids_from<'a>(
    conf: &ConfState,
    entries: impl IntoIterator<Item = EntryView<'a>>,
) -> Result<Configuration, UnreadableChange> {
    let mut configuration = Configuration::from_conf_state(conf)
        .map_err(|error| UnreadableChange { index: 0, fault: error.into() })?;
    for entry in entries {
        let index = entry.index;
        let Some(change) =
            raft_change(&entry).map_err(|error| UnreadableChange { index, fault: error.into() })?
        else {
            continue;
        };
        match configuration.changed(&change) {
            Ok(next) => configuration = next,
            Err(ConfigurationError::Record(error)) => {
                return Err(UnreadableChange { index, fault: error.into() });
            }
            Err(_) => {} // raft refused it, and so nothing changed
        }
    }
    Ok(configuration)
}
