//! How changes and plans read to a person.

use std::fmt;

use crate::{Change, ChangeEntry, Configuration, HardState, LogSpan, PlannedEntry, StandalonePlan};

/// Such as `add voter 8e9e05c52164694d`: ids as etcd prints them.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::AddVoter(_) => "add voter",
            Self::AddLearner(_) => "add learner",
            Self::Promote(_) => "promote",
            Self::Remove(_) => "remove",
        };
        write!(f, "{what} {:x}", self.id())
    }
}

/// The steps with commas between, or `leave the joint configuration`.
impl fmt::Display for ChangeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.changes.split_first() else {
            return f.write_str("leave the joint configuration");
        };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|change| write!(f, ", {change}"))
    }
}

/// Such as `voters 1 2 3, learners 4`.
impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("voters")?;
        if self.voters().is_empty() {
            f.write_str(" none")?;
        }
        self.voters().iter().try_for_each(|id| write!(f, " {id:x}"))?;
        for (name, ids) in [
            ("learners", self.learners()),
            ("outgoing voters", self.voters_outgoing()),
            ("learners after that", self.learners_next()),
        ] {
            if !ids.is_empty() {
                write!(f, ", {name}")?;
                ids.iter().try_for_each(|id| write!(f, " {id:x}"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for HardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, vote {:x}, commit {}", self.term, self.vote, self.commit)
    }
}

impl fmt::Display for LogSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, last_term, conf_changes } = self;
        write!(
            f,
            "entries {first} to {last} (term {last_term}), conf changes among them: {conf_changes}"
        )
    }
}

impl PlannedEntry {
    /// What the entry changes, in words; nothing if it is not a conf change that can be read.
    pub(crate) fn describe(&self) -> String {
        match ChangeEntry::read(&self.view()) {
            Ok(Some(change)) => change.to_string(),
            Ok(None) | Err(_) => String::new(),
        }
    }
}

/// What `--dry-run` prints: one fact a line.
impl fmt::Display for StandalonePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |span: &Option<LogSpan>| {
            span.map_or_else(|| "nothing".to_string(), |span| span.to_string())
        };
        writeln!(f, "standalone restart of member {:x}, rescue {}", self.id, self.epoch)?;
        writeln!(f, "  log ends at  term {}, index {}", self.last_term, self.last_index)?;
        writeln!(f, "  members      {}", self.configuration)?;
        writeln!(f, "  kept         {}", span(&self.kept))?;
        if self.kept_uncommitted > 0 {
            writeln!(
                f,
                "               {} of them not known to be committed until now",
                self.kept_uncommitted
            )?;
        }
        writeln!(f, "  discarded    {}", span(&self.discarded))?;
        let removed: Vec<String> = self.removed.iter().map(|id| format!("{id:x}")).collect();
        writeln!(
            f,
            "  removed      {}",
            if removed.is_empty() { "nobody".to_string() } else { removed.join(" ") }
        )?;
        for (entry, title) in
            self.appended.iter().zip(std::iter::once("appended").chain(std::iter::repeat("")))
        {
            writeln!(f, "  {title:12} {}/{} {}", entry.index, entry.term, entry.describe())?;
        }
        writeln!(f, "  hard state   {} (was: {})", self.hard_state, self.previous_hard_state)?;
        if self.cluster_id == self.previous_cluster_id {
            writeln!(f, "  cluster id   {:x}, kept", self.cluster_id)
        } else {
            writeln!(
                f,
                "  cluster id   {:x} (was: {:x})",
                self.cluster_id, self.previous_cluster_id
            )
        }
    }
}
