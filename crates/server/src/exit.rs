//! How the process ends: codes after BSD's `sysexits`, and one last line that a machine can read.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

/// Whose fault it is, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The flags are wrong, or contradict the data (64, `EX_USAGE`).
    Usage,
    /// The data on disk is damaged (65, `EX_DATAERR`).
    Damaged,
    /// A bug (70, `EX_SOFTWARE`).
    Internal,
    /// The disk or the network card failed (74, `EX_IOERR`).
    Io,
    /// Something is in use by somebody else (75, `EX_TEMPFAIL`): trying again can help.
    InUse,
    /// The member is not wanted by its cluster: removed, foreign, or not known (78, `EX_CONFIG`).
    NotMember,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Damaged => 65,
            Self::Internal => 70,
            Self::Io => 74,
            Self::InUse => 75,
            Self::NotMember => 78,
        }
    }
}

/// Why the process ends without having been asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    error: String,
    /// What people read, where it is not the error and the help.
    words: Option<String>,
    help: Option<String>,
    file: Option<PathBuf>,
    offset: Option<u64>,
}

impl Failure {
    /// A failure described by one error and all its causes.
    pub(crate) fn new(kind: Kind, error: impl fmt::Display) -> Self {
        Self { kind, error: error.to_string(), words: None, help: None, file: None, offset: None }
    }

    /// The same from an error with sources, each after a colon unless the text before says it already.
    pub(crate) fn from_error(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(kind, text)
    }

    /// Says before what the failure happened.
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.error = format!("{doing}: {}", self.error);
        self
    }

    /// Tells people this instead of error and help; machines are told those.
    pub(crate) fn words(mut self, words: impl Into<String>) -> Self {
        self.words = Some(words.into());
        self
    }

    /// Says what to do next.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says where the damage is.
    pub(crate) fn at(mut self, file: impl Into<PathBuf>, offset: Option<u64>) -> Self {
        self.file = Some(file.into());
        self.offset = offset;
        self
    }

    /// Says in which directory the damage is, where its file and the offset in it were named alone.
    pub(crate) fn within(mut self, dir: &Path) -> Self {
        let alone = |file: &Path| file.parent().is_some_and(|parent| parent.as_os_str().is_empty());
        if self.offset.is_some() && self.file.as_deref().is_some_and(alone) {
            self.file = self.file.map(|file| dir.join(file));
        }
        self
    }

    /// The error's text.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.error
    }

    /// What to do about it.
    #[cfg(test)]
    pub(crate) fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Where the damage is.
    #[cfg(test)]
    pub(crate) fn place(&self) -> (Option<&std::path::Path>, Option<u64>) {
        (self.file.as_deref(), self.offset)
    }

    /// Whose fault it is.
    #[cfg(test)]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells the operator on stderr, the machine on its last line, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        #[derive(Serialize)]
        struct LastLine<'a> {
            exit: u8,
            kind: Kind,
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            file: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            offset: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            help: Option<&'a str>,
        }
        let exit = self.kind.code();
        let words = self.words.clone().unwrap_or_else(|| {
            let help = self.help.as_ref().map(|help| format!("  what to do: {help}\n"));
            format!("oarlock: {}\n{}", self.error, help.unwrap_or_default())
        });
        let line = LastLine {
            exit,
            kind: self.kind,
            error: &self.error,
            file: self.file.as_ref().map(|file| file.display().to_string()),
            offset: self.offset,
            help: self.help.as_deref(),
        };
        let json = serde_json::to_string(&line).unwrap_or_else(|_| format!("{{\"exit\":{exit}}}"));
        crate::say(&format!("{words}{json}\n"));
        ExitCode::from(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_sysexits() {
        let kinds =
            [Kind::Usage, Kind::Damaged, Kind::Internal, Kind::Io, Kind::InUse, Kind::NotMember];
        assert_eq!(kinds.map(Kind::code), [64, 65, 70, 74, 75, 78]);
    }
}
