//! Errors in log lines, with all their sources.

use std::error::Error;
use std::fmt;

/// Formats an error followed by its sources, leaving out those whose text the one before already ends with.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (said, source) = (text, error.source());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{LogError, NodeError};

    #[test]
    fn a_failed_node_says_what_the_disk_said() {
        let source = io::Error::other("input/output error");
        let error = NodeError::Log(LogError::Io { op: "sync", source });
        assert_eq!(
            Chain(&error).to_string(),
            "the log failed: cannot sync the log: input/output error"
        );
    }
}
